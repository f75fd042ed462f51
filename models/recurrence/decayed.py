"""Recurrences whose state is a matrix a head that decays: linear attention, retention, gated forms, Mamba-2, HGRN2.

`implementation` of a layer is the program that computes its recurrence, chosen by platform and call if it is None: see
`models.backend.implementation`.
"""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import elu_plus_one
from models.attention.core import locate_tokens
from models.backend.implementation import Recurrent
from models.context import Context
from models.contracts import Activation, Layer, Norm, Position
from models.mixers.convolution import ShortConvolution
from models.norm import HeadNorm, RMSNorm
from models.position import RoPE
from models.projection import merge, project
from models.recurrence.chunked import Chunks, Rule, State, decay_to_end, products, spread_rows, sum_seen, take_row
from models.recurrence.through import resume, run_rule
from models.structure import require_positive

HEAD = 64  # channels of one of Mamba-2's heads, as released
HGRN_HEAD = 128  # of HGRN2's
SMALLEST = math.exp(-10)  # forget gate of a channel, which chunks of 16 tokens hold in float32


def parts(
    chunks: Chunks, query: jax.Array, key: jax.Array, value: jax.Array, log_decay: jax.Array
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """A chunk's decay and addition to the memory, and its outputs from within the chunk and from the memory."""
    total = sum_seen(log_decay, chunks.seen)
    whole = take_row(total, chunks.size - 1)
    kept = jnp.exp(whole) * chunks.keeps
    added = jnp.einsum("...ck,...cv->...kv", key * decay_to_end(whole, total, chunks), value)
    mixed = products(query, key, total, total, chunks.seen) @ value
    return (spread_rows(kept, key.shape[-1]), added), (mixed, query * jnp.exp(total) * chunks.reads)


DECAYED = Rule(
    "decayed",
    parts,
    lambda memory, kept, added: kept * memory + added,
    lambda memory, mixed, query: mixed + query @ memory,
)


def decay_memory(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    log_decay: jax.Array,
    segments: jax.Array | None = None,
    state: State | None = None,
    chunk: int | None = None,
    implementation: Recurrent | None = None,
) -> tuple[jax.Array, State]:
    """S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T, y_t = q_t S_t, from `state` on.

    (b, h, t, v) and the state after the last token.

    query and key (b, h, t, k), value (b, h, t, v), log_decay (b, h, t) or (b, h, t, k), at most 0, segments (b, t): a
    state begins anew with each.  All of a chunk is matrix products, and one token a chunk is the recurrence; between
    chunks the state is carried.
    """
    return run_rule(DECAYED, (query, key, value, log_decay), segments, state, chunk, implementation)


def head_width(owner: nn.Module, width: int, heads: int, field: str | None = None) -> int:
    """The width of each of the heads that split `width`, which is `field` times the stream's if that is named.

    Raises ValueError.
    """
    if width % heads:
        origin = f", {field} {getattr(owner, field)} times the stream's," if field else ""
        raise ValueError(
            f"{type(owner).__name__} splits width {width}{origin} over {heads} heads: they must divide it."
        )
    return width // heads


def norm_merge(mixed: jax.Array, norm: Norm) -> jax.Array:
    """A norm over each head, then heads side by side, tokens flattened: (b, h, t, v) -> (b * t, h * v)."""
    b, h, t, v = mixed.shape
    return norm(mixed.swapaxes(1, 2)).reshape(b * t, h * v)


def log_rates(key: jax.Array, shape: tuple[int, ...], least: float = 1.0) -> jax.Array:
    """Logarithms of rates of decay, uniform from `least` to 16."""
    return jnp.log(jax.random.uniform(key, shape, minval=least, maxval=16.0))


def step_biases(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Biases whose softplus is a step between 0.001 and 0.1, uniform in its logarithm."""
    step = jnp.exp(jax.random.uniform(key, shape, minval=math.log(0.001), maxval=math.log(0.1)))
    return step + jnp.log(-jnp.expm1(-step))


class LinearAttention(nn.Module):
    """sum_{j <= i} f(q_i).f(k_j) v_j / sum_{j <= i} f(q_i).f(k_j) with f = `feature`.  (b, t, d) -> (b, t, d).

    arXiv:2006.16236.  The denominator is one more channel of the values, which is always 1.  `feature` must be
    positive.
    """

    causal: ClassVar[bool] = True
    heads: int = 8
    feature: Activation = elu_plus_one
    implementation: Recurrent | None = None  # None: chosen by platform and call

    def __post_init__(self) -> None:
        require_positive(self, "heads")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        b, t, d = x.shape
        k = head_width(self, d, self.heads)
        query, key, value = (project(name, x, self.heads, k) for name in ("query", "key", "value"))
        value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], -1)
        log_decay = jnp.zeros((b, self.heads, t))
        mixed = resume(self, ctx, decay_memory, self.feature(query), self.feature(key), value, log_decay)
        mixed = mixed[..., :-1] / (mixed[..., -1:] + 1e-6)
        return nn.Dense(d, use_bias=False, name="out")(merge(mixed.astype(x.dtype))).reshape(x.shape)


class Retention(nn.Module):
    """out(silu(gate(x)) * norm(S_t read by q)), the state of head i decaying by 1 - 2^(-5-i).  (b, t, d) -> (b, t, d).

    arXiv:2307.08621.  `position` rotates queries and keys; values are `expand` times as wide as they.  The paper's
    three divisions of the scores are left out: the norm of each head cancels them.
    """

    causal: ClassVar[bool] = True
    heads: int = 8
    expand: float = 2.0  # width of the values over d
    position: Position | None = RoPE()
    norm: Norm = RMSNorm()  # of each head
    implementation: Recurrent | None = None  # None: chosen by platform and call

    def __post_init__(self) -> None:
        require_positive(self, "heads", "expand")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), h = x.shape, self.heads
        k, v = head_width(self, d, h), head_width(self, round(self.expand * d), h)
        query, key, value = project("query", x, h, k), project("key", x, h, k), project("value", x, h, v)
        if self.position is not None:
            positions = locate_tokens(ctx, t).positions[:, None]
            query, key = self.position(query, positions), self.position(key, positions)
        log_decay = jnp.broadcast_to(jnp.log1p(-(2.0 ** (-5.0 - jnp.arange(h))))[:, None], (b, h, t))
        mixed = resume(self, ctx, decay_memory, query * k**-0.5, key, value, log_decay)
        gate = nn.silu(nn.Dense(h * v, use_bias=False, name="gate")(x.reshape(-1, d)))
        mixed = norm_merge(mixed.astype(x.dtype), self.norm)
        return nn.Dense(d, use_bias=False, name="out")(gate * mixed).reshape(x.shape)


class GatedLinearAttention(nn.Module):
    """Retention whose decay is a gate a key channel: sigmoid(up(down(x)) + bias)^(1/smooth).  (b, t, d) -> (b, t, d).

    arXiv:2312.06635.
    """

    causal: ClassVar[bool] = True
    heads: int = 8
    key_expand: float = 0.5  # width of queries and keys over d
    expand: float = 1.0  # width of the values over d
    rank: int = 16
    smooth: float = 16.0
    norm: Norm = RMSNorm(1e-5)  # of each head
    implementation: Recurrent | None = None  # None: chosen by platform and call

    def __post_init__(self) -> None:
        require_positive(self, "heads", "key_expand", "expand", "rank", "smooth")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), h = x.shape, self.heads
        k, v = (head_width(self, round(getattr(self, name) * d), h, name) for name in ("key_expand", "expand"))
        query, key, value = project("query", x, h, k), project("key", x, h, k), project("value", x, h, v)
        down = nn.Dense(self.rank, use_bias=False, name="decay_down")(x.reshape(-1, d)).reshape(b, t, -1)
        log_decay = nn.log_sigmoid(project("decay_up", down, h, k, bias=True).astype(jnp.float32)) / self.smooth
        mixed = resume(self, ctx, decay_memory, query * k**-0.5, key, value, log_decay)
        gate = nn.silu(nn.Dense(h * v, use_bias=False, name="gate")(x.reshape(-1, d)))
        mixed = norm_merge(mixed.astype(x.dtype), self.norm)
        return nn.Dense(d, use_bias=False, name="out")(gate * mixed).reshape(x.shape)


class Mamba2(nn.Module):
    """S_t = exp(-a dt_t) S_{t-1} + B_t (dt_t u_t)^T, y_t = C_t S_t + D u_t, out(norm(y * silu(z))).

    (b, t, d) -> (b, t, d).  arXiv:2405.21060.  u, B and C come from x through a short convolution, dt =
    softplus(linear(x) + bias) a head; a and D are numbers of the head.  `groups` of B and C serve the heads, and the
    norm is of each group's channels.  Defaults and first values are those of state-spaces/mamba: heads of 64 channels,
    a uniform from 1 to 16, steps log-uniform from 0.001 to 0.1, D = 1; the convolution starts three times as large (see
    `ShortConvolution`), and the released dt never starts below 1e-4, which is out of reach.
    """

    causal: ClassVar[bool] = True
    heads: int | None = None  # None: one for every 64 channels of u
    expand: float = 2.0  # width of u over d
    state_width: int = 128
    groups: int = 1
    convolution: Layer = ShortConvolution(bias=True)
    norm: Norm = HeadNorm(1e-5)  # of each group
    implementation: Recurrent | None = None  # None: chosen by platform and call

    def __post_init__(self) -> None:
        require_positive(self, "expand", "state_width", "groups")
        if self.heads is not None:
            require_positive(self, "heads")
            self.require_groups(self.heads)
        super().__post_init__()

    def require_groups(self, heads: int) -> None:
        """Raises ValueError unless groups divide heads."""
        if heads % self.groups:
            raise ValueError(f"Mamba2 has {heads} heads and {self.groups} groups; groups must divide heads.")

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), n = x.shape, self.groups * self.state_width
        width = round(self.expand * d)
        h = self.heads or -(-width // HEAD)
        self.require_groups(h)
        v = head_width(self, width, h, "expand")
        tokens = x.reshape(-1, d)
        inner = nn.Dense(width + 2 * n, use_bias=False, name="in")(tokens).reshape(b, t, -1)
        u, write, read = jnp.split(self.convolution(inner, ctx), [width, width + n], -1)
        step = nn.Dense(h, use_bias=False, name="step")(tokens).astype(jnp.float32) + self.param(
            "step_bias", step_biases, (h,)
        )
        step = nn.softplus(step).reshape(b, t, h).swapaxes(1, 2)
        rate = jnp.exp(self.param("log_rate", log_rates, (h,)).astype(jnp.float32))
        value = u.reshape(b, t, h, v).swapaxes(1, 2)
        query, key = (
            jnp.repeat(part.reshape(b, t, self.groups, -1).swapaxes(1, 2), h // self.groups, axis=1)
            for part in (read, write)
        )
        mixed = self.recur(x, ctx, query, key, value * step[..., None], -rate[:, None] * step)
        mixed = mixed + self.param("skip", nn.initializers.ones, (h,)).astype(jnp.float32)[:, None, None] * value
        gate = nn.silu(nn.Dense(width, use_bias=False, name="gate")(tokens))
        mixed = gate * merge(mixed.astype(x.dtype))
        mixed = self.norm(mixed.reshape(b * t, self.groups, -1)).reshape(mixed.shape)
        return nn.Dense(d, use_bias=False, name="out")(mixed).reshape(x.shape)

    def recur(
        self, x: jax.Array, ctx: Context, query: jax.Array, key: jax.Array, value: jax.Array, log_decay: jax.Array
    ) -> jax.Array:
        """The state read by each query: (b, h, t, v)."""
        return resume(self, ctx, decay_memory, query, key, value, log_decay)


class HGRN2(nn.Module):
    """S_t = diag(f) S_{t-1} + (1 - f) i_t^T, out(norm(silu(q) S_t)), f = low + (1 - low) sigmoid(z).

    (b, t, d) -> (b, t, d).  arXiv:2404.07904.  q, z and i are linear in x, f is a forget gate for each key channel, and
    what it forgets makes room for i.  low = l e^bound / (l e^bound + L - l) in block l of the L of the stack, counted
    from 0: no bound in the first block, l / L at the start, so that later blocks forget less.  The paper's are the sums
    of a softmax over blocks of one table of all blocks, which start as these; here each block learns its own `bound`.
    Sizes are those of flash-linear-attention, heads of 128 channels and no convolution; matrices start as elsewhere
    here, theirs with deviation 0.02.  Forget gates are e^-10 at least.
    """

    causal: ClassVar[bool] = True
    no_gradient: ClassVar[tuple[str, ...]] = ("bound",)  # in the first block
    heads: int | None = None  # None: one for every 128 channels
    norm: Norm = RMSNorm(1e-5)  # of all heads together
    implementation: Recurrent | None = None  # None: chosen by platform and call

    def __post_init__(self) -> None:
        if self.heads is not None:
            require_positive(self, "heads")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d = x.shape[-1]
        h = self.heads or -(-d // HGRN_HEAD)
        k = head_width(self, d, h)
        query, forget, value = (project(name, x, h, k) for name in ("query", "forget", "value"))
        layer = jnp.asarray(ctx.layer, jnp.float32)
        above = layer * jnp.exp(self.param("bound", nn.initializers.zeros, (d,)).astype(jnp.float32))
        low = (above / (above + ctx.depth - layer)).reshape(h, 1, k)
        forget = jnp.maximum(low + (1 - low) * nn.sigmoid(forget.astype(jnp.float32)), SMALLEST)
        mixed = resume(self, ctx, decay_memory, nn.silu(query) * k**-0.5, 1 - forget, value, jnp.log(forget))
        return nn.Dense(d, use_bias=False, name="out")(self.norm(merge(mixed.astype(x.dtype)))).reshape(x.shape)
