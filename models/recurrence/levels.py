"""Log-linear attention: states of a Fenwick tree, which grow in number with the logarithm of the row's length."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from models.cache import recall, remember
from models.context import Context
from models.recurrence.chunked import Chunks, decay_to_end, floor_decay, join, products, sum_seen, take_row
from models.recurrence.decayed import Mamba2
from models.structure import require_positive


@flax.struct.dataclass
class Buckets:
    """The states of a row: memory (b, h, l, k, v) in float32, that of level i + 1 at i.

    segment (b,) is the one that they belong to, -1 before the first, place (b,) the number of its tokens so far.
    """

    memory: jax.Array
    segment: jax.Array
    place: jax.Array

    @classmethod
    def empty(cls, b: int, h: int, levels: int, k: int, v: int) -> "Buckets":
        """The states before the first token."""
        memory = jnp.zeros((b, h, levels, k, v), jnp.float32)
        return cls(memory, jnp.full((b,), -1, jnp.int32), jnp.zeros((b,), jnp.int32))


def find_level(place: jax.Array, other: jax.Array) -> jax.Array:
    """Number of binary digits from the highest in which two places differ, 0 for the same place."""
    return 32 - jax.lax.clz(jnp.bitwise_xor(place, other))


def decay_levels(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    weights: jax.Array,
    log_decay: jax.Array,
    segments: jax.Array | None = None,
    state: Buckets | None = None,
    chunk: int | None = None,
) -> tuple[jax.Array, Buckets]:
    """y_t = sum_{s <= t} w_t[level(t, s)] exp(log_decay_{s+1} + .. + log_decay_t) (q_t . k_s) v_s, from `state` on.

    (b, h, t, v) and the states after the last token.  Level 0 is the token itself; level(t, s) is the number of binary
    digits from the highest in which the places of t and s differ, the last level all from there on.

    query and key (b, h, t, k), value (b, h, t, v), weights (b, h, t, levels), log_decay (b, h, t), at most 0, segments
    (b, t): places count from 0 in each.  Within a chunk a matrix has all weights; between chunks are carried as many
    states as the row has levels, at whatever place the chunk begins: of two buckets that a later token has at the same
    level, it has the sum.  Operations grow with t log t; kept for the gradient are the states at each chunk.
    """
    (b, h, t, k), v, others = key.shape, value.shape[3], weights.shape[-1] - 1
    if state is None:
        state = Buckets.empty(b, h, min(others, t.bit_length()), k, v)
    top = state.memory.shape[2]
    log_decay, size = floor_decay(log_decay, chunk)
    chunks = Chunks.of(segments, state.segment, t, size)
    size = chunks.size
    places = count_places(segments, state, t)
    place = jnp.pad(places, ((0, 0), (0, -t % size)), mode="edge").reshape(b, 1, -1, size, 1)
    leaving = place[..., -1:, :] + 1
    entering = jnp.concatenate(
        [jnp.broadcast_to(state.place[:, None, None, None, None], (b, 1, 1, 1, 1)), leaving[:, :, :-1]], 2
    )
    query, key, value, decay, weights = (chunks.cut(x) for x in (query, key, value, log_decay, weights))

    def weigh(level: jax.Array) -> jax.Array:
        """The weights of each token at levels (..., c, n): (..., c, n)."""
        return sum(
            (jnp.where(level == each, weights[..., each : each + 1], 0.0) for each in range(top + 1)),
            jnp.zeros((), jnp.float32),
        )

    total = sum_seen(decay, chunks.seen)
    whole = take_row(total, size - 1)
    within = weigh(jnp.minimum(find_level(place, place.swapaxes(-1, -2)), top))
    mixed = (products(query, key, total, total, chunks.seen) * within) @ value
    # buckets of lower levels than that at which a token's place differs from the chunk's are one to it
    numbers = 1 + jnp.arange(top)
    read = weigh(jnp.clip(find_level(place, entering), numbers, top)) * jnp.exp(total) * chunks.reads
    write = jnp.minimum(find_level(place, leaving), top) == numbers
    added = write * decay_to_end(whole, total, chunks)
    merged = jnp.minimum(find_level(entering, leaving), top)
    kept = jnp.exp(whole) * chunks.keeps

    @jax.checkpoint
    def step(memory: jax.Array, parts: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        query, read, key, added, value, merged, kept = parts
        y = jnp.einsum("bhck,bhca,bhakv->bhcv", query, read, memory)
        merged, kept, levels = merged[..., None], kept[..., None], numbers[:, None, None]
        memory = jnp.where(levels > merged, memory, jnp.where(levels == merged, jnp.cumsum(memory, axis=2), 0.0))
        return kept * memory + jnp.einsum("bhck,bhca,bhcv->bhakv", key, added, value), y

    parts = (query, read, key, added, value, merged, kept)
    memory, crossed = jax.lax.scan(step, state.memory, tuple(jnp.moveaxis(part, 2, 0) for part in parts))
    y = join(mixed + jnp.moveaxis(crossed, 0, 2), t)
    memory = jnp.pad(memory, ((0, 0), (0, 0), (0, others - top), (0, 0), (0, 0)))  # levels that no token has yet
    return y, Buckets(memory, chunks.last, leaving[:, 0, -1, 0, 0])


def count_places(segments: jax.Array | None, state: Buckets, t: int) -> jax.Array:
    """The place of each token in its segment, counted on from the state's: (b, t)."""
    index = jnp.arange(t)
    if segments is None:
        return state.place[:, None] + index
    before = jnp.concatenate([state.segment[:, None], segments[:, :-1]], axis=1)
    first = jax.lax.cummax(jnp.where(segments != before, index, -1), axis=1)
    return jnp.where(first < 0, state.place[:, None] + index, index - first)


class LogLinearMamba2(Mamba2):
    """Mamba-2 read at levels: y_t = sum_l w_t[l] C_t S_t[l] + D u_t, S_t[l] the part of S_t from the tokens at level l.

    (b, t, d) -> (b, t, d).  arXiv:2506.04761.  The token itself is level 0, and the last 1, 2, 4, ... before it, as the
    binary digits of its place have it (a Fenwick tree), are the others: near tokens are kept apart, far ones together.
    w_t[l] = softplus(scale_l * linear(x_t)_l) a head, scale 1 at first as in flash-linear-attention, whose sizes these
    are: 15 levels reach 16,384 tokens, and all that is further is the last.  Decoding keeps a state for each level but
    the first.  All else is `Mamba2`; there is no kernel for TPU.
    """

    levels: int = 15

    def __post_init__(self) -> None:
        require_positive(self, "levels")
        if self.levels < 2:
            raise ValueError("LogLinearMamba2.levels is 1, that of the token itself; give 2 or more.")
        if self.implementation == "pallas":
            raise ValueError("LogLinearMamba2 has no kernel; leave implementation='pallas' out.")
        super().__post_init__()

    def recur(
        self, x: jax.Array, ctx: Context, query: jax.Array, key: jax.Array, value: jax.Array, log_decay: jax.Array
    ) -> jax.Array:
        """The states read by each query, as the levels weigh them: (b, h, t, v)."""
        (b, h, t, k), v = key.shape, value.shape[3]
        level = nn.Dense(h * self.levels, use_bias=False, name="level")(x.reshape(b * t, -1)).astype(jnp.float32)
        scale = self.param("level_scale", nn.initializers.ones, (h, self.levels)).astype(jnp.float32)
        weights = nn.softplus(level.reshape(b, t, h, -1) * scale).swapaxes(1, 2)
        state = None
        if ctx.decoding is not None:
            state = recall(self, ctx, "state", Buckets.empty(b, h, self.levels - 1, k, v))
        mixed, state = decay_levels(query, key, value, weights, log_decay, ctx.segments, state)
        remember(self, ctx, "state", state)
        return mixed
