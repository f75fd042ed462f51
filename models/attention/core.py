"""The core that every form of attention shares: masks, scores, weights; in blocks of time if reach is local."""

import contextlib
import dataclasses
from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from models.attention.weigh import HIDDEN, Softmax, hide
from models.backend.implementation import Call, Implementation, choose_implementation, is_captured
from models.backend.kernels import SAVED, attend_fused, attend_splash
from models.backend.platform import capability, kind, platform
from models.cache import extend, index_extended, index_new
from models.context import Context
from models.contracts import Relative, Weigh

BLOCK = 64  # the least number of queries that `_by_rows` computes together
BLOCKS = 8  # and into how many parts it cuts them at most
NOWHERE = -(10**9)  # the index of a padding token that no token sees


@flax.struct.dataclass
class Tokens:
    """Locations of tokens: their index in the row, positions in their example, and segments or None.

    index and positions are (1 or b, t), segments (b, t).  `aligned` says that positions are the indices, so that chunks
    begin at multiples of their length in the row.
    """

    index: jax.Array
    positions: jax.Array
    segments: jax.Array | None = None
    aligned: bool = flax.struct.field(pytree_node=False, default=False)


@flax.struct.dataclass
class Reach:
    """The attention mask: `causal` j <= i; `window` |i - j| < window; `chunk` tokens of the same chunk of that length.

    Chunks are counted by position, from the first token of each example; windows by index, whose differences within it
    are the same.
    """

    causal: bool = flax.struct.field(pytree_node=False, default=False)
    window: int | None = flax.struct.field(pytree_node=False, default=None)
    chunk: int | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def span(self) -> int | None:
        """Number of latest tokens, the current one included, that decoding must cache; None for all."""
        return min([size for size in (self.window, self.chunk) if size is not None], default=None)

    def neighbours(self, tokens: Tokens) -> tuple[int, int]:
        """Number of blocks of `span` tokens before and after a block that its tokens may see."""
        if self.chunk is not None and tokens.aligned:
            return 0, 0
        return 1, 0 if self.causal else 1

    def visible(self, tokens: Tokens, other: Tokens) -> jax.Array | None:
        """The mask of the sources j that token i may see, (1 or b, 1, t, s); None if it may see all of them."""
        masks: list[jax.Array] = []
        left, right = tokens.index[:, :, None], other.index[:, None, :]
        if self.causal:
            masks.append(right <= left)
        if self.window is not None:
            masks.append(jnp.abs(left - right) < self.window)
        if self.chunk is not None:
            chunks = tokens.positions[:, :, None] // self.chunk == other.positions[:, None, :] // self.chunk
            masks.append(chunks & (jnp.abs(left - right) < self.chunk))
        if masks:
            masks.append(right >= 0)
        if tokens.segments is not None and other.segments is not None:
            masks.append(tokens.segments[:, :, None] == other.segments[:, None, :])
        if not masks:
            return None
        visible = masks[0]
        for mask in masks[1:]:
            visible = visible & mask
        return visible[:, None]


def locate_tokens(ctx: Context, t: int) -> Tokens:
    """The tokens that a layer is called with."""
    index = index_new(ctx, t)[None]
    return Tokens(index, index if ctx.positions is None else ctx.positions, ctx.segments, aligned=ctx.positions is None)


def locate_sources(module: nn.Module, ctx: Context, t: int, span: int | None) -> Tokens | None:
    """The cached and new tokens that `extend` gives; None if they are the call's own: at the start, or not decoding."""
    tokens = locate_tokens(ctx, t)
    if ctx.decoding is None:
        return None
    b = 1 if tokens.segments is None else tokens.segments.shape[0]
    positions = jnp.broadcast_to(tokens.positions, (b, t)) if tokens.positions.shape[0] == 1 else tokens.positions
    segments = None if tokens.segments is None else extend(module, ctx, "segments", tokens.segments, 1, span)
    positions = extend(module, ctx, "positions", positions, 1, span)
    return None if ctx.decoding.start else Tokens(index_extended(ctx, t, span)[None], positions, segments)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    tokens: Tokens,
    other: Tokens | None,
    reach: Reach,
    weigh: Weigh,
    scale: float,
    *,
    relative: Relative | None = None,
    decay: tuple[jax.Array, jax.Array] | None = None,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
    implementation: Implementation | None = None,
) -> jax.Array:
    """weigh(scale * q k^T + biases) v.

    query (b, h, t, k), key (b, g, s, k), value (b, g, s, v), g dividing h -> (b, h, t, v).

    `other` locates the sources; None if they are the same tokens.  `relative` adds its bias; `decay`, (b, h, t) and
    (b, h, s), adds the query's less the key's; `dropout` acts on weights.  Scores are float32.  A query that sees no
    source gets zeros.

    If `implementation` is None, `choose_implementation` chooses it; it is always "xla" for sources in a cache and while
    its intermediates are captured (`models.inspect`).  The computation runs in a named scope `attention_xla`,
    `attention_fused` or `attention_splash`, which shows in a jaxpr's name stacks, in compiled text and in profiles.
    The result is named "context" for remat policies such as `jax.checkpoint_policies.save_only_these_names`.
    """
    sources = tokens if other is None else other
    name: Implementation = "xla"
    if not is_captured(weigh) and (other is None or reach == Reach()):  # other sources are in the cache
        reasons = {
            "relative positions": relative is not None,
            "decay": decay is not None,
            "dropout of weights": dropout is not None,
            "weights but softmax's": type(weigh) is not Softmax,
            "sink": isinstance(weigh, Softmax) and weigh.sink,
        }
        special = tuple(reason for reason, holds in reasons.items() if holds)
        call = _call(query, key, value, tokens, sources, reach, weigh, special)
        name = choose_implementation(call, implementation, platform())
    with jax.named_scope(f"attention_{name}"):
        if name == "xla":
            hides_later = reach.causal and other is None and (reach.span or query.shape[2]) >= query.shape[2]
            cut = hides_later and platform() == "cpu" and query.shape[2] > BLOCK and not is_captured(weigh)
            compute = _by_rows if cut else _by_definition
            mixed = compute(query, key, value, tokens, other, reach, weigh, scale, relative, decay, dropout)
            return checkpoint_name(mixed, SAVED)
        cap = weigh.cap if isinstance(weigh, Softmax) else None
        mixed = _by_kernel(name, query * scale, key, value, tokens, sources, reach, cap)
        # every token sees itself, or all sources
        if other is None or tokens.segments is None or other.segments is None:
            return mixed
        seen = (tokens.segments[:, :, None] == other.segments[:, None, :]).any(-1)
        return jnp.where(seen[:, None, :, None], mixed, 0)


def _call(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    tokens: Tokens,
    sources: Tokens,
    reach: Reach,
    weigh: Weigh,
    special: tuple[str, ...],
) -> Call:
    """The properties of a call that `choose_implementation` decides by."""
    t, s = (min(part.shape[2], reach.chunk or part.shape[2]) for part in (query, key))
    segmented = tokens.segments is not None and sources.segments is not None
    crossing = reach.chunk is not None and not tokens.aligned  # chunks do not begin where blocks of the row do
    return Call(
        length=min(query.shape[2], key.shape[2]) if crossing else min(t, s),
        width=max(query.shape[-1], value.shape[-1]),
        dtype=" and ".join(sorted({str(part.dtype) for part in (query, key, value)})),
        even=t % 2 == s % 2 == 0,
        masked=segmented or crossing or (reach.window is not None and not reach.causal) or query.shape[2] % t > 0,
        capped=isinstance(weigh, Softmax) and weigh.cap is not None,
        special=special,
        kind=kind(),
        capability=capability(),
    )


def _by_kernel(
    name: Implementation,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    tokens: Tokens,
    sources: Tokens,
    reach: Reach,
    cap: float | None,
) -> jax.Array:
    """Attention by a fused kernel, for a scaled query."""
    (b, _, t, _), chunk, window = query.shape, reach.chunk, reach.window
    if chunk is not None and tokens.aligned and chunk < t:  # each chunk becomes a row
        if tokens.segments is None and t % chunk:
            tokens = dataclasses.replace(tokens, segments=jnp.ones((b, t), jnp.int32))
        query, key, value, cut, _ = _split(query, key, value, tokens, reach)
        return _join(_by_kernel(name, query, key, value, cut, cut, Reach(reach.causal), cap), b, t)
    if name == "fused" and chunk is not None:
        near = chunk < t
        if near:
            query, key, value, tokens, sources = _split(query, key, value, tokens, reach)
        mixed = attend_fused(query, key, value, reach.visible(tokens, sources), False, None, platform() == "gpu")
        return _join(mixed, b, t) if near else mixed
    if name == "fused":
        visible = Reach(window=None if reach.causal else window).visible(tokens, sources)
        return attend_fused(query, key, value, visible, reach.causal, window, platform() == "gpu")
    if chunk is not None:
        runs = _runs(tokens, chunk, b, t)
        return attend_splash(query, key, value, (runs, runs), reach.causal, chunk, cap, platform() == "cpu")
    segments = None if tokens.segments is None or sources.segments is None else (tokens.segments, sources.segments)
    return attend_splash(query, key, value, segments, reach.causal, window, cap, platform() == "cpu")


def _runs(tokens: Tokens, chunk: int, b: int, t: int) -> jax.Array:
    """The index of each token's run of adjacent tokens of the same segment and chunk, (b, t)."""
    marks = [tokens.positions // chunk, *(() if tokens.segments is None else (tokens.segments,))]
    first = jnp.zeros((b, t), bool)
    for mark in marks:
        rows = jnp.broadcast_to(mark, (b, t))
        first = first | (rows != jnp.concatenate([rows[:, :1], rows[:, :-1]], axis=1))
    return jnp.cumsum(first, axis=1, dtype=jnp.int32)


def _by_definition(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    tokens: Tokens,
    other: Tokens | None,
    reach: Reach,
    weigh: Weigh,
    scale: float,
    relative: Relative | None,
    decay: tuple[jax.Array, jax.Array] | None,
    dropout: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    """Attention as its equation says.

    With local reach, time is cut into blocks, so that cost grows with t times the window.
    """
    b, h, t, k = query.shape
    span = reach.span or t
    sources, cached = (tokens, None) if other is None else (other, tokens.index[0, 0])
    local = other is None and span < t
    if local:
        if decay is not None:
            before, after = reach.neighbours(tokens)
            decay = (
                _blocks(decay[0][..., None], span, 0, 0)[..., 0],
                _blocks(decay[1][..., None], span, before, after)[..., 0],
            )
        query, key, value, tokens, sources = _split(query, key, value, tokens, reach)
    g, s = key.shape[1:3]
    # The query heads of a group are stacked along time, so that a group is one matrix product.
    grouped = (query * scale).reshape(query.shape[0], g, -1, k)
    with _half(reach):
        scores = _multiply("bgtk,bgsk->bgts", grouped, key, cached, jnp.float32).reshape(*query.shape[:3], s)
    visible = reach.visible(tokens, sources)
    if decay is not None:
        scores = scores + (decay[0][..., None] - decay[1][..., None, :])
    if relative is not None:
        scores = relative(hide(scores, visible), query * scale, tokens.positions[:, None], sources.positions[:, None])
        visible = scores > HIDDEN / 2  # relative may have hidden more
    weights = weigh(scores, visible).astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)
    with _half(reach):
        weights = weights.reshape(weights.shape[0], g, -1, s)
        mixed = _multiply("bgts,bgsv->bgtv", weights, value, cached, value.dtype).reshape(*query.shape[:3], -1)
    return _join(mixed, b, t) if local else mixed


def _by_rows(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    tokens: Tokens,
    other: Tokens | None,
    reach: Reach,
    weigh: Weigh,
    scale: float,
    relative: Relative | None,
    decay: tuple[jax.Array, jax.Array] | None,
    dropout: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    """Causal attention as its equation says, for some queries at a time and the keys up to the last of them.

    With n parts this is (n + 1) / 2n of the scores.  Counted FLOPs stay those of the whole, as on other platforms.
    """
    del other
    t = query.shape[2]
    size = max(1, -(-t // (BLOCKS * BLOCK))) * BLOCK
    mixed: list[jax.Array] = []
    for begin in range(0, t, size):
        end = min(begin + size, t)
        own, seen = (jax.tree.map(lambda leaf, at=at: leaf[:, at], tokens) for at in (slice(begin, end), slice(end)))
        fallen = None if decay is None else (decay[0][..., begin:end], decay[1][..., :end])
        parts = query[:, :, begin:end], key[:, :, :end], value[:, :, :end]
        with jax.named_scope(f"keys_{end}_of_{t}"):
            mixed.append(_by_definition(*parts, own, seen, reach, weigh, scale, relative, fallen, dropout))
    return jnp.concatenate(mixed, axis=2)


def _multiply(axes: str, left: jax.Array, right: jax.Array, cached: jax.Array | None, dtype: DTypeLike) -> jax.Array:
    """einsum of `left` with keys or values.

    `cached` is the index of the query if they are in the cache.  On a CPU those of one row are then read in a branch of
    a conditional, which is always taken: otherwise XLA fuses a reshape of the product's operand with the update of the
    cache, and copies the cache four times a token.
    """

    def multiply(left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.einsum(axes, left, right, preferred_element_type=dtype)

    if cached is None or platform() != "cpu" or right.shape[0] > 1:  # the extent last: it may be symbolic elsewhere
        return multiply(left, right)
    shape = jax.eval_shape(multiply, left, right).shape
    return jax.lax.cond(cached >= 0, multiply, lambda left, right: jnp.zeros(shape, dtype), left, right)


def _half(reach: Reach) -> contextlib.AbstractContextManager[object]:
    """Marks causal matmuls with a named scope so that the FLOP counter (train/cost/traced.py) can halve them."""
    return jax.named_scope("causal") if reach.causal else contextlib.nullcontext()


def _split(
    query: jax.Array, key: jax.Array, value: jax.Array, tokens: Tokens, reach: Reach
) -> tuple[jax.Array, jax.Array, jax.Array, Tokens, Tokens]:
    """Queries in blocks of the reach's span, keys and values with the neighbours that they may see, and all tokens."""
    (b, _, t, _), span, sides = query.shape, reach.span or query.shape[2], reach.neighbours(tokens)
    whole = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (b, t)), tokens)
    near, beside = (jax.tree.map(lambda leaf, args=args: _rows(leaf, span, *args), whole) for args in ((0, 0), sides))
    return _blocks(query, span, 0, 0), _blocks(key, span, *sides), _blocks(value, span, *sides), near, beside


def _join(mixed: jax.Array, b: int, t: int) -> jax.Array:
    """Blocks of time one after the other again: (b * n, h, size, v) -> (b, h, t, v)."""
    n, h, size, v = mixed.shape
    return mixed.reshape(b, n // b, h, size, v).swapaxes(1, 2).reshape(b, h, -1, v)[:, :, :t]


def _blocks(x: jax.Array, size: int, before: int, after: int) -> jax.Array:
    """Blocks of time with their neighbours, as rows of the batch.

    (b, h, t, k) -> (b * n, h, (before + 1 + after) * size, k).
    """
    b, h, t, k = x.shape
    n = -(-t // size)
    padded = jnp.pad(x, ((0, 0), (0, 0), (before * size, n * size - t + after * size), (0, 0))).reshape(
        b, h, -1, size, k
    )
    beside = jnp.concatenate([padded[:, :, shift : shift + n] for shift in range(before + 1 + after)], axis=3)
    return beside.swapaxes(1, 2).reshape(b * n, h, -1, k)


def _rows(x: jax.Array, size: int, before: int, after: int) -> jax.Array:
    """`_blocks` of one number a token, (b, t) -> (b * n, (before + 1 + after) * size); missing tokens are NOWHERE."""
    shifted = _blocks((x - NOWHERE)[:, None, :, None], size, before, after)
    return shifted[:, 0, :, 0] + NOWHERE
