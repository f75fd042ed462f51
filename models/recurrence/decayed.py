"""Recurrences whose state is a matrix a head that decays: linear attention, retention, gated linear attention, Mamba-2."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from models.activation import elu_plus_one
from models.attend import own_tokens
from models.cache import remember, remembered
from models.context import Context
from models.contracts import Activation, Layer, Norm, Position
from models.convolution import ShortConvolution
from models.heads import merged, projected
from models.norm import RMSNorm
from models.position import RoPE
from models.structure import require_positive


@flax.struct.dataclass
class State:
    """What a row has come to: memory (b, h, k, v) in float32, and the segment (b,) that it belongs to, -1 where there is none yet."""

    memory: jax.Array
    segment: jax.Array

    @classmethod
    def empty(cls, b: int, h: int, k: int, v: int) -> "State":
        """The state before the first token."""
        return cls(memory=jnp.zeros((b, h, k, v), jnp.float32), segment=jnp.full((b,), -1, jnp.int32))


@flax.struct.dataclass
class Chunks:
    """Time in n chunks of c tokens, and which tokens touch which.

    seen (b, 1, n, c, c): token j is of token i's segment and not later.  reads and writes (b, 1, n, c, 1): the token is of the
    segment of the state that enters the chunk, and that leaves it.  keeps (b, 1, n, 1, 1): these are one.  segment (b,): the last.
    """

    seen: jax.Array
    reads: jax.Array
    writes: jax.Array
    keeps: jax.Array
    segment: jax.Array
    size: int = flax.struct.field(pytree_node=False, default=64)

    @classmethod
    def of(cls, segments: jax.Array | None, before: jax.Array, t: int, size: int) -> "Chunks":
        """Chunks of t tokens of these segments (b, t), all of them of the segment `before` (b,) where none are given."""
        size = min(size, t)
        rows = jnp.broadcast_to(before[:, None], (before.shape[0], t)) if segments is None else segments
        rows = jnp.pad(rows, ((0, 0), (0, -t % size)), mode="edge").reshape(rows.shape[0], 1, -1, size, 1)
        leaving = rows[..., -1:, :]
        entering = jnp.concatenate([before[:, None, None, None, None], leaving[:, :, :-1]], axis=2)
        seen = (rows == rows.swapaxes(-1, -2)) & jnp.tri(size, dtype=bool)
        return cls(seen, rows == entering, rows == leaving, leaving == entering, leaving[:, 0, -1, 0, 0], size)

    def cut(self, x: jax.Array, fill: float = 0.0) -> jax.Array:
        """(b, h, t, k) -> (b, h, n, c, k) in float32, what is missing in the last chunk filled."""
        b, h, t, k = x.shape
        padded = jnp.pad(x.astype(jnp.float32), ((0, 0), (0, 0), (0, -t % self.size), (0, 0)), constant_values=fill)
        return padded.reshape(b, h, -1, self.size, k)

    def sums(self, x: jax.Array, first: int = 0) -> jax.Array:
        """Sums of (b, h, n, c, k) over the tokens of the same segment and chunk, up to the one `first` places before each."""
        seen = (self.seen & jnp.tri(self.size, k=-first, dtype=bool)).astype(x.dtype)
        return jnp.matmul(seen, x, precision=jax.lax.Precision.HIGHEST)


def joined(x: jax.Array, t: int) -> jax.Array:
    """Chunks side by side again: (b, h, n, c, v) -> (b, h, t, v)."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :t]


def carried(advance: Callable[..., Any], state: Any, *inputs: jax.Array) -> tuple[Any, Any]:
    """state <- advance(state, *inputs of a chunk) over chunks, axis 2 of the inputs: the state that enters each, and the last."""

    def step(state: Any, given: tuple[jax.Array, ...]) -> tuple[Any, Any]:
        return advance(state, *given), state

    last, entering = jax.lax.scan(step, state, tuple(jnp.moveaxis(x, 2, 0) for x in inputs))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 2), entering), last


def products(left: jax.Array, right: jax.Array, since: jax.Array, until: jax.Array, seen: jax.Array) -> jax.Array:
    """sum_k left_ik exp(since_ik - until_jk) right_jk where j is seen, else 0: (..., c, k) and decays (..., c, k or 1) -> (..., c, c).

    One decay a head multiplies the products of the chunk; decays a channel are factored round the middle of the chunk.
    """
    if since.shape[-1] == 1:
        decays = jnp.exp(jnp.where(seen, since - until.swapaxes(-1, -2), -jnp.inf))
        return jnp.einsum("...ik,...jk->...ij", left, right) * decays
    place = (until.shape[-2] - 1) // 2
    middle = jax.lax.stop_gradient(until[..., place : place + 1, :])
    return jnp.where(seen, jnp.einsum("...ik,...jk->...ij", left * jnp.exp(since - middle), right * jnp.exp(middle - until)), 0.0)


def floored(log_decay: jax.Array, chunk: int | None) -> tuple[jax.Array, int]:
    """Log decays (b, h, t) or (b, h, t, k) with a last axis, and the length of the chunk.

    Chunks are of 64 tokens for decays a head, of 16 for decays a channel.  The latter are raised to -160 / chunk at least, -10 for the
    default, which keeps the factors of a chunk below e^80, within float32.
    """
    if log_decay.ndim == 3:
        return log_decay[..., None].astype(jnp.float32), chunk or 64
    return jnp.maximum(log_decay.astype(jnp.float32), -160 / (chunk or 16)), chunk or 16


def decayed(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    log_decay: jax.Array,
    segments: jax.Array | None = None,
    state: State | None = None,
    chunk: int | None = None,
) -> tuple[jax.Array, State]:
    """S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T, y_t = q_t S_t, from `state` on: (b, h, t, v) and the state after the last token.

    query and key (b, h, t, k), value (b, h, t, v), log_decay (b, h, t) or (b, h, t, k), at most 0, segments (b, t): a state begins
    anew with each.  All of a chunk is matrix products, and one token a chunk is the recurrence; between chunks the state is carried.
    """
    (b, h, t, k), (log_decay, size) = key.shape, floored(log_decay, chunk)
    state = State.empty(b, h, k, value.shape[3]) if state is None else state
    chunks = Chunks.of(segments, state.segment, t, size)
    query, key, value, log_decay = (chunks.cut(x) for x in (query, key, value, log_decay))
    total = chunks.sums(log_decay)
    whole = total[..., -1:, :]
    kept = jnp.exp(whole) * chunks.keeps
    given = jnp.einsum("...ck,...cv->...kv", key * jnp.exp(whole - total) * chunks.writes, value)
    entering, memory = carried(lambda memory, kept, given: kept * memory + given, state.memory, kept.swapaxes(-1, -2), given)
    mixed = products(query, key, total, total, chunks.seen) @ value + (query * jnp.exp(total) * chunks.reads) @ entering
    return joined(mixed, t), State(memory, chunks.segment)


def head_width(owner: nn.Module, width: int, heads: int) -> int:
    """The width of one of the heads that divide a width."""
    if width % heads:
        raise ValueError(f"{type(owner).__name__} splits width {width} over {heads} heads: they must divide it.")
    return width // heads


def normed(mixed: jax.Array, norm: Norm) -> jax.Array:
    """A norm over each head, then heads side by side, tokens flattened: (b, h, t, v) -> (b * t, h * v)."""
    b, h, t, v = mixed.shape
    return norm(mixed.swapaxes(1, 2)).reshape(b * t, h * v)


def log_rates(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Logarithms of rates of decay, uniform from 1 to 16."""
    return jnp.log(jax.random.uniform(key, shape, minval=1.0, maxval=16.0))


def step_biases(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What softplus takes to steps between 0.001 and 0.1, their logarithms uniform."""
    step = jnp.exp(jax.random.uniform(key, shape, minval=math.log(0.001), maxval=math.log(0.1)))
    return step + jnp.log(-jnp.expm1(-step))


class LinearAttention(nn.Module):
    """sum_{j <= i} f(q_i).f(k_j) v_j / sum_{j <= i} f(q_i).f(k_j) with f = `feature`.  (b, t, d) -> (b, t, d).  arXiv:2006.16236.

    The denominator is one more channel of the values, which is always 1.  `feature` must be positive.
    """

    causal: ClassVar[bool] = True
    heads: int = 8
    feature: Activation = elu_plus_one

    def __post_init__(self) -> None:
        require_positive(self, "heads")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        b, t, d = x.shape
        k = head_width(self, d, self.heads)
        query, key, value = (projected(name, x, self.heads, k) for name in ("query", "key", "value"))
        value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], -1)
        state = remembered(self, ctx, "state", State.empty(b, self.heads, k, k + 1))
        mixed, state = decayed(self.feature(query), self.feature(key), value, jnp.zeros((b, self.heads, t)), ctx.segments, state)
        remember(self, ctx, "state", state)
        mixed = mixed[..., :-1] / (mixed[..., -1:] + 1e-6)
        return nn.Dense(d, use_bias=False, name="out")(merged(mixed.astype(x.dtype))).reshape(x.shape)


class Retention(nn.Module):
    """out(silu(gate(x)) * norm(S_t read by q)), the state of head i decaying by 1 - 2^(-5-i).  (b, t, d) -> (b, t, d).  arXiv:2307.08621.

    `position` rotates queries and keys; values are `expand` times as wide as they.  The paper's three divisions of the scores are
    left out: the norm of each head cancels them.
    """

    causal: ClassVar[bool] = True
    heads: int = 8
    expand: float = 2.0  # width of the values over d
    position: Position | None = RoPE()
    norm: Norm = RMSNorm()  # of each head

    def __post_init__(self) -> None:
        require_positive(self, "heads", "expand")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), h = x.shape, self.heads
        k, v = head_width(self, d, h), head_width(self, round(self.expand * d), h)
        query, key, value = projected("query", x, h, k), projected("key", x, h, k), projected("value", x, h, v)
        if self.position is not None:
            places = own_tokens(ctx, t).positions[:, None]
            query, key = self.position(query, places), self.position(key, places)
        log_decay = jnp.log1p(-(2.0 ** (-5.0 - jnp.arange(h))))
        state = remembered(self, ctx, "state", State.empty(b, h, k, v))
        mixed, state = decayed(query * k**-0.5, key, value, jnp.broadcast_to(log_decay[:, None], (b, h, t)), ctx.segments, state)
        remember(self, ctx, "state", state)
        gate = nn.silu(nn.Dense(h * v, use_bias=False, name="gate")(x.reshape(-1, d)))
        return nn.Dense(d, use_bias=False, name="out")(gate * normed(mixed.astype(x.dtype), self.norm)).reshape(x.shape)


class GatedLinearAttention(nn.Module):
    """Retention whose decay is a gate a key channel: sigmoid(up(down(x)) + bias)^(1/smooth).  (b, t, d) -> (b, t, d).  arXiv:2312.06635."""

    causal: ClassVar[bool] = True
    heads: int = 8
    key_expand: float = 0.5  # width of queries and keys over d
    expand: float = 1.0  # width of the values over d
    rank: int = 16
    smooth: float = 16.0
    norm: Norm = RMSNorm()  # of each head

    def __post_init__(self) -> None:
        require_positive(self, "heads", "key_expand", "expand", "rank", "smooth")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), h = x.shape, self.heads
        k, v = (head_width(self, round(expand * d), h) for expand in (self.key_expand, self.expand))
        query, key, value = projected("query", x, h, k), projected("key", x, h, k), projected("value", x, h, v)
        down = nn.Dense(self.rank, use_bias=False, name="decay_down")(x.reshape(-1, d)).reshape(b, t, -1)
        log_decay = nn.log_sigmoid(projected("decay_up", down, h, k, bias=True).astype(jnp.float32)) / self.smooth
        state = remembered(self, ctx, "state", State.empty(b, h, k, v))
        mixed, state = decayed(query * k**-0.5, key, value, log_decay, ctx.segments, state)
        remember(self, ctx, "state", state)
        gate = nn.silu(nn.Dense(h * v, use_bias=False, name="gate")(x.reshape(-1, d)))
        return nn.Dense(d, use_bias=False, name="out")(gate * normed(mixed.astype(x.dtype), self.norm)).reshape(x.shape)


class Mamba2(nn.Module):
    """S_t = exp(-a dt_t) S_{t-1} + B_t (dt_t u_t)^T, y_t = C_t S_t + D u_t, out(norm(y * silu(z))).  (b, t, d) -> (b, t, d).

    arXiv:2405.21060.  u, B and C come from x through a short convolution, dt = softplus(linear(x) + bias) a head; a and D are
    numbers of the head.  `groups` of B and C serve the heads.
    """

    causal: ClassVar[bool] = True
    heads: int = 8
    expand: float = 2.0  # width of u over d
    state_width: int = 128
    groups: int = 1
    convolution: Layer = ShortConvolution(bias=True)
    norm: Norm = RMSNorm()

    def __post_init__(self) -> None:
        require_positive(self, "heads", "expand", "state_width", "groups")
        if self.heads % self.groups:
            raise ValueError(f"Mamba2 has {self.heads} heads and {self.groups} groups; groups must divide heads.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), h, n = x.shape, self.heads, self.groups * self.state_width
        width = round(self.expand * d)
        v = head_width(self, width, h)
        tokens = x.reshape(-1, d)
        inner = nn.Dense(width + 2 * n, use_bias=False, name="in")(tokens).reshape(b, t, -1)
        u, write, read = jnp.split(self.convolution(inner, ctx), [width, width + n], -1)
        step = nn.Dense(h, use_bias=False, name="step")(tokens).astype(jnp.float32) + self.param("step_bias", step_biases, (h,))
        step = nn.softplus(step).reshape(b, t, h).swapaxes(1, 2)
        rate = jnp.exp(self.param("log_rate", log_rates, (h,)).astype(jnp.float32))
        value = u.reshape(b, t, h, v).swapaxes(1, 2)
        query, key = (jnp.repeat(part.reshape(b, t, self.groups, -1).swapaxes(1, 2), h // self.groups, axis=1) for part in (read, write))
        state = remembered(self, ctx, "state", State.empty(b, h, self.state_width, v))
        mixed, state = decayed(query, key, value * step[..., None], -rate[:, None] * step, ctx.segments, state)
        remember(self, ctx, "state", state)
        mixed = mixed + self.param("skip", nn.initializers.ones, (h,)).astype(jnp.float32)[:, None, None] * value
        gate = nn.silu(nn.Dense(width, use_bias=False, name="gate")(tokens))
        return nn.Dense(d, use_bias=False, name="out")(self.norm(gate * merged(mixed.astype(x.dtype)))).reshape(x.shape)
