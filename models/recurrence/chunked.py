"""Recurrences whose state is a matrix a head, in chunks: matrix products within one, the state carried between them."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import flax.struct
import jax
import jax.numpy as jnp

Carry = TypeVar("Carry")


@flax.struct.dataclass
class State:
    """The state of a row: memory (b, h, k, v) in float32, and the segment (b,) it belongs to, -1 before the first."""

    memory: jax.Array
    segment: jax.Array

    @classmethod
    def empty(cls, b: int, h: int, k: int, v: int) -> "State":
        """The state before the first token."""
        return cls(memory=jnp.zeros((b, h, k, v), jnp.float32), segment=jnp.full((b,), -1, jnp.int32))


@flax.struct.dataclass
class Chunks:
    """Time in n chunks of c tokens, and which tokens touch which.  A chunk alone has no axes b, 1 and n.

    seen (b, 1, n, c, c): token j is of token i's segment and not later.  reads and writes (b, 1, n, c, 1): the token is
    of the
    segment of the state that enters the chunk, and that leaves it.  keeps (b, 1, n, 1, 1): these are one.  segments (b,
    1, n, c, 1).
    """

    segments: jax.Array
    seen: jax.Array
    reads: jax.Array
    writes: jax.Array
    keeps: jax.Array
    size: int = flax.struct.field(pytree_node=False, default=64)

    @classmethod
    def of(cls, segments: jax.Array | None, before: jax.Array, t: int, size: int) -> "Chunks":
        """Chunks of t tokens of these segments (b, t); if None, all are of the segment `before` (b,)."""
        size = min(size, t)
        rows = jnp.broadcast_to(before[:, None], (before.shape[0], t)) if segments is None else segments
        rows = jnp.pad(rows, ((0, 0), (0, -t % size)), mode="edge").reshape(rows.shape[0], 1, -1, size, 1)
        leaving = rows[..., -1:, :]
        entering = jnp.concatenate([before[:, None, None, None, None], leaving[:, :, :-1]], axis=2)
        seen = (rows == rows.swapaxes(-1, -2)) & jnp.tri(size, dtype=bool)
        return cls(rows, seen, rows == entering, rows == leaving, leaving == entering, size)

    @property
    def earlier(self) -> jax.Array:
        """`seen`, without the token itself."""
        return self.seen & jnp.tri(self.size, k=-1, dtype=bool)

    @property
    def last(self) -> jax.Array:
        """The segment of the last token: (b,)."""
        return self.segments[:, 0, -1, -1, 0]

    def cut(self, x: jax.Array, fill: float = 0.0) -> jax.Array:
        """Cuts time into chunks in float32, the last padded by `fill`: (b, h, t, k) -> (b, h, n, c, k)."""
        b, h, t, k = x.shape
        padded = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, 0), (0, -t % self.size), (0, 0)), constant_values=fill)
        return padded.reshape(b, h, -1, self.size, k)


def sum_seen(x: jax.Array, seen: jax.Array) -> jax.Array:
    """Sums of (..., c, k) over the tokens that each has seen, in full float32."""
    if x.shape[-1] == 1:
        return jnp.where(seen, turn_column(x), 0.0).sum(-1, keepdims=True)
    return jnp.matmul(seen.astype(x.dtype), x, precision=jax.lax.Precision.HIGHEST)


# No slices in these two, whose gradients a TPU's kernel would have to pad.
def take_row(x: jax.Array, index: int) -> jax.Array:
    """Takes one row: (..., c, k) -> (..., 1, k)."""
    numbers = jax.lax.broadcasted_iota(jnp.int32, (x.shape[-2], 1), 0)
    return jnp.where(numbers == index, x, 0.0).sum(-2, keepdims=True)


def turn_column(x: jax.Array) -> jax.Array:
    """Turns a column into a row, and back: (..., c, 1) <-> (..., 1, c)."""
    c = max(x.shape[-2:])
    same = jax.lax.broadcasted_iota(jnp.int32, (c, c), 0) == jax.lax.broadcasted_iota(jnp.int32, (c, c), 1)
    return jnp.where(same, x, 0.0).sum(-2 if x.shape[-1] == 1 else -1, keepdims=True)


def spread_rows(x: jax.Array, k: int) -> jax.Array:
    """Spreads one number, or one a channel, over the k rows of a memory: (..., 1, 1 or k) -> (..., k, 1).

    A sum, since the kernels of jax 0.7 cannot broadcast one number to a matrix, and two broadcasts would become one.
    """
    return turn_column(x) + jnp.zeros((k, 1), x.dtype)


def join(x: jax.Array, t: int) -> jax.Array:
    """Joins chunks of time: (b, h, n, c, v) -> (b, h, t, v)."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :t]


def scan_chunks(advance: Callable[..., Carry], state: Carry, *inputs: jax.Array) -> tuple[Carry, Carry]:
    """state <- advance(state, *inputs of a chunk) over chunks, axis 2 of the inputs.

    The state that enters each chunk, and the last.
    """

    def step(state: Carry, parts: tuple[jax.Array, ...]) -> tuple[Carry, Carry]:
        return advance(state, *parts), state

    last, entering = jax.lax.scan(step, state, tuple(jnp.moveaxis(x, 2, 0) for x in inputs))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 2), entering), last


def products(left: jax.Array, right: jax.Array, since: jax.Array, until: jax.Array, seen: jax.Array) -> jax.Array:
    """sum_k left_ik exp(since_ik - until_jk) right_jk if j is seen, otherwise 0.

    (..., c, k) and decays (..., c, k or 1) -> (..., c, c).

    One decay a head multiplies the products of the chunk; decays a channel are factored round the middle of the chunk.
    """
    if since.shape[-1] == 1:
        decays = jnp.exp(jnp.where(seen, since - turn_column(until), -jnp.inf))
        return jnp.einsum("...ik,...jk->...ij", left, right) * decays
    middle = jax.lax.stop_gradient(take_row(until, (until.shape[-2] - 1) // 2))
    return jnp.where(
        seen, jnp.einsum("...ik,...jk->...ij", left * jnp.exp(since - middle), right * jnp.exp(middle - until)), 0.0
    )


def decay_to_end(whole: jax.Array, total: jax.Array, chunks: Chunks) -> jax.Array:
    """exp(whole - total), the share of a token's write that is left at the end of a chunk.

    0 for tokens of other segments than the last.

    Theirs may have decayed further than the last one's, to a power that no float holds.
    """
    return jnp.exp(jnp.where(chunks.writes, whole - total, -jnp.inf))


def floor_decay(log_decay: jax.Array, chunk: int | None) -> tuple[jax.Array, int]:
    """Log decays (b, h, t) or (b, h, t, k) with a last axis, and the length of the chunk.

    Chunks are of 64 tokens for decays a head, of 16 for decays a channel.  The latter are raised to -160 / chunk at
    least, -10 for the default, which keeps the factors of a chunk below e^80, within float32.
    """
    if log_decay.ndim == 3:
        return log_decay[..., None].astype(jnp.float32), chunk or 64
    return jnp.maximum(log_decay.astype(jnp.float32), -160 / (chunk or 16)), chunk or 16


class Rule(NamedTuple):
    """A recurrence over one chunk, or over all at once on axes before the last two; the last input is the log decay.

    parts(chunks, *inputs) gives two tuples: what `advance(memory, *first)` needs to make the memory that leaves a chunk
    of the one that enters, and what `read(memory, *second)` needs to make the outputs of the chunk of the same.
    """

    name: str
    parts: Callable[..., tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]]
    advance: Callable[..., jax.Array]
    read: Callable[..., jax.Array]
