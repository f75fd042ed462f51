"""Recurrences that correct what their state gives for a key: the delta rule, without decay, a head's or a channel's.

`implementation` of a layer is the program that computes its recurrence, chosen by platform and call if it is None: see
`models.backend.implementation`.
"""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.backend.implementation import Recurrent
from models.context import Context
from models.contracts import Layer, Norm
from models.mixers.convolution import ShortConvolution
from models.norm import RMSNorm
from models.projection import project
from models.recurrence.chunked import Chunks, Rule, State, decay_to_end, products, spread_rows, sum_seen, take_row
from models.recurrence.decayed import head_width, log_rates, norm_merge, step_biases
from models.recurrence.through import resume, run_rule
from models.roles import UNDECAYED, Roles
from models.structure import copy_as, require_positive

SLOWEST = 1e-6  # least initial rate of decay, in place of 0, which has no logarithm


@jax.custom_jvp
def invert(lower: jax.Array) -> jax.Array:
    """(I - lower)^-1 of strictly lower triangular matrices (..., c, c), by inverses of diagonal blocks of 1, 2, 4, ...

    As exact as substitution, and all of it products: [[A, 0], [-C, B]]^-1 = [[A^-1, 0], [B^-1 C A^-1, B^-1]].
    """
    c = lower.shape[-1]
    apart = jax.lax.broadcasted_iota(jnp.int32, (c, c), 0) ^ jax.lax.broadcasted_iota(jnp.int32, (c, c), 1)

    def corners(size: int) -> jax.Array:
        return jnp.where((apart >= size) & (apart < 2 * size), lower, 0)

    blocks, size = jnp.where(apart == 0, 1, corners(1)), 2  # the inverse of a number is no product
    while size < c:
        blocks, size = blocks + multiply_around(blocks, corners(size)), 2 * size
    return blocks


@invert.defjvp
def invert_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The derivative of an inverse, so that the products inside need not be kept."""
    result = invert(*primals)
    return result, multiply_around(result, tangents[0])


def multiply_around(outer: jax.Array, inner: jax.Array) -> jax.Array:
    """outer @ inner @ outer in full float32."""
    return jnp.matmul(
        jnp.matmul(outer, inner, precision=jax.lax.Precision.HIGHEST), outer, precision=jax.lax.Precision.HIGHEST
    )


def parts(
    chunks: Chunks, query: jax.Array, key: jax.Array, value: jax.Array, p: jax.Array, r: jax.Array, log_decay: jax.Array
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """The parts of a decaying memory, with u = readers @ entering memory + read as a further value under the key p."""
    total, before = sum_seen(log_decay, chunks.seen), sum_seen(log_decay, chunks.earlier)
    whole = take_row(total, chunks.size - 1)
    kept, remains = jnp.exp(whole) * chunks.keeps, decay_to_end(whole, total, chunks)
    solve = invert(products(r, p, before, total, chunks.earlier))
    read = jnp.matmul(
        solve, products(r, key, before, total, chunks.earlier) @ value, precision=jax.lax.Precision.HIGHEST
    )
    readers = jnp.matmul(solve, r * jnp.exp(before) * chunks.reads, precision=jax.lax.Precision.HIGHEST)
    left = p * remains
    added = write(left, read) + write(key * remains, value)
    among = products(query, p, total, total, chunks.seen)
    mixed = products(query, key, total, total, chunks.seen) @ value
    return (spread_rows(kept, key.shape[-1]), readers, left, added), (
        mixed,
        readers,
        read,
        among,
        query * jnp.exp(total) * chunks.reads,
    )


def write(key: jax.Array, value: jax.Array) -> jax.Array:
    """sum_t k_t v_t^T: (..., c, k), (..., c, v) -> (..., k, v)."""
    return jnp.einsum("...ck,...cv->...kv", key, value)


def advance(memory: jax.Array, kept: jax.Array, readers: jax.Array, left: jax.Array, added: jax.Array) -> jax.Array:
    """The memory that leaves a chunk."""
    return kept * memory + write(left, readers @ memory) + added


def outputs(
    memory: jax.Array, mixed: jax.Array, readers: jax.Array, read: jax.Array, among: jax.Array, query: jax.Array
) -> jax.Array:
    """The outputs of a chunk from the memory that enters it."""
    return mixed + among @ (read + readers @ memory) + query @ memory


DELTA = Rule("delta", parts, advance, outputs)


def delta(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    p: jax.Array,
    r: jax.Array,
    log_decay: jax.Array,
    segments: jax.Array | None = None,
    state: State | None = None,
    chunk: int | None = None,
    implementation: Recurrent | None = None,
) -> tuple[jax.Array, State]:
    """S_t = (diag(exp(log_decay_t)) + p_t r_t^T) S_{t-1} + k_t v_t^T, y_t = q_t S_t.

    (b, h, t, v) and the state after the last token.

    As `decayed`, with p and r (b, h, t, k).  What r_t reads, u_t = r_t S_{t-1}, solves a unit triangular system in the
    chunk, linear in the state that enters it (the WY form, arXiv:2406.06484); then u is one more value, written under
    the key p.
    """
    return run_rule(DELTA, (query, key, value, p, r, log_decay), segments, state, chunk, implementation)


def convolve(name: str, x: jax.Array, ctx: Context, heads: int, width: int, convolution: Layer | None) -> jax.Array:
    """A linear map and a convolution, or silu if it is None, named in the calling module.

    (b, t, d) -> (b, heads, t, width).
    """
    b, t, d = x.shape
    flat = nn.Dense(heads * width, use_bias=False, name=name)(x.reshape(-1, d)).reshape(b, t, -1)
    flat = nn.silu(flat) if convolution is None else copy_as(convolution, f"{name}_convolution")(flat, ctx)
    return flat.reshape(b, t, heads, width).swapaxes(1, 2)


def unit(x: jax.Array) -> jax.Array:
    """Vectors of length 1 along the last axis, in float32."""
    wide = x.astype(jnp.float32)
    return wide * jax.lax.rsqrt(jnp.square(wide).sum(-1, keepdims=True) + 1e-6)


def beta(x: jax.Array, heads: int, strength: float) -> jax.Array:
    """The share of the old value that a token replaces, `strength` at most: (b, t, d) -> (b, h, t, 1)."""
    return strength * nn.sigmoid(project("beta", x, heads, 1).astype(jnp.float32))


def decay_heads(module: nn.Module, x: jax.Array, heads: int) -> jax.Array:
    """-rate softplus(linear(x) + bias), the log decay of each head, with parameters of the module: (b, h, t)."""
    rate = jnp.exp(
        module.param("log_rate", functools.partial(log_rates, least=SLOWEST), (heads, 1)).astype(jnp.float32)
    )
    step = project("step", x, heads, 1)[..., 0].astype(jnp.float32) + module.param("step_bias", step_biases, (heads, 1))
    return -rate * nn.softplus(step)


class DeltaNet(nn.Module):
    """S_t = (I - beta k k^T) S_{t-1} + beta k v^T, out(norm(q S_t)).  (b, t, d) -> (b, t, d).  arXiv:2406.06484.

    Queries, keys and values pass a short convolution (silu alone for None); queries and keys have length 1.  beta is a
    sigmoid times `strength`: with 2 the state's eigenvalues may be negative (arXiv:2411.12537).
    """

    causal: ClassVar[bool] = True
    heads: int = 8
    strength: float = 1.0
    convolution: Layer | None = ShortConvolution()
    norm: Norm = RMSNorm(1e-5)  # of each head
    implementation: Recurrent | None = None  # None: chosen by platform and call

    def __post_init__(self) -> None:
        require_positive(self, "heads", "strength")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), h = x.shape, self.heads
        k = head_width(self, d, h)
        query, key, value = (convolve(name, x, ctx, h, k, self.convolution) for name in ("query", "key", "value"))
        query, key, strength = unit(query) * k**-0.5, unit(key), beta(x, h, self.strength)
        mixed = resume(self, ctx, delta, query, key, strength * value, -strength * key, key, jnp.zeros((b, h, t)))
        return nn.Dense(d, use_bias=False, name="out")(norm_merge(mixed.astype(x.dtype), self.norm)).reshape(x.shape)


class GatedDeltaNet(nn.Module):
    """S_t = a (I - beta k k^T) S_{t-1} + beta k v^T, out(silu(gate(x)) * norm(q S_t)).  (b, t, d) -> (b, t, d).

    arXiv:2412.06464.  a = exp(-rate * softplus(linear(x) + bias)), one number a head; the rest as DeltaNet.  Sizes and
    first values are the paper's, as released in flash-linear-attention: 6 d^2 parameters, of which queries and keys
    have 3/4 d^2 each and values, gate and output 3/2 d^2 each; rates uniform from 0 to 16, steps log-uniform from 0.001
    to 0.1.  `value_heads` above `heads` lets several heads of values, each with its own a and beta, share one of
    queries and keys (grouped values); Qwen3-Next at width 2048 is `GatedDeltaNet(16, key_expand=1.0, expand=2.0,
    value_heads=32)`.
    """

    causal: ClassVar[bool] = True
    roles: ClassVar[Roles] = {"log_rate": UNDECAYED}
    heads: int = 6
    key_expand: float = 0.75  # width of queries and keys over d
    expand: float = 1.5  # width of the values over d
    value_heads: int | None = None  # None: as many as heads
    strength: float = 1.0
    convolution: Layer | None = ShortConvolution()
    norm: Norm = RMSNorm(1e-5)  # of each head
    implementation: Recurrent | None = None  # None: chosen by platform and call

    def __post_init__(self) -> None:
        require_positive(self, "heads", "key_expand", "expand", "strength")
        if self.value_heads is not None:
            require_positive(self, "value_heads")
            if self.value_heads % self.heads:
                shares = f"{self.value_heads} heads of values for {self.heads} of queries and keys"
                raise ValueError(f"GatedDeltaNet has {shares}; heads must divide value_heads.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d, h = x.shape[2], self.value_heads or self.heads
        k = head_width(self, round(self.key_expand * d), self.heads, "key_expand")
        v = head_width(self, round(self.expand * d), h, "expand")
        query, key = (convolve(name, x, ctx, self.heads, k, self.convolution) for name in ("query", "key"))
        value = convolve("value", x, ctx, h, v, self.convolution)
        query, key = (jnp.repeat(unit(part), h // self.heads, axis=1) for part in (query, key))
        query, strength = query * k**-0.5, beta(x, h, self.strength)
        log_decay = decay_heads(self, x, h)
        left = jnp.exp(log_decay)[..., None] * key
        mixed = resume(self, ctx, delta, query, key, strength * value, -strength * key, left, log_decay)
        gate = nn.silu(nn.Dense(h * v, use_bias=False, name="gate")(x.reshape(-1, d)))
        mixed = norm_merge(mixed.astype(x.dtype), self.norm)
        return nn.Dense(d, use_bias=False, name="out")(gate * mixed).reshape(x.shape)


class DeltaProduct(nn.Module):
    """S_t = (I - b_n k_n k_n^T) ... (I - b_1 k_1 k_1^T) a S_{t-1} + sum_j (...) b_j k_j v_j^T, read as GatedDeltaNet.

    (b, t, d) -> (b, t, d).  arXiv:2502.10297.  Each token takes n = `steps` steps of the delta rule, each with a key, a
    value and a beta of its own, after one decay a; so the state's transition is a product of n reflections, which with
    `strength` 2 can be any rotation of n / 2 planes.  The recurrence runs over n tokens for each of the row and is read
    at the last.  Without `decay` a is 1, and the paper's DeltaProduct; with it its Gated DeltaProduct.  Sizes, first
    values and the gate of the output are those of `GatedDeltaNet`, as in flash-linear-attention, with n maps to keys
    and values: 6 d^2 + 9/4 (n - 1) d^2 parameters.
    """

    causal: ClassVar[bool] = True
    steps: int = 2
    heads: int = 6
    key_expand: float = 0.75  # width of queries and keys over d
    expand: float = 1.5  # width of the values over d
    strength: float = 2.0
    decay: bool = True
    convolution: Layer | None = ShortConvolution()
    norm: Norm = RMSNorm(1e-5)  # of each head
    implementation: Recurrent | None = None  # None: chosen by platform and call

    @property
    def roles(self) -> Roles:
        """The rates of decay are not decayed."""
        return {"log_rate": UNDECAYED} if self.decay else {}

    def __post_init__(self) -> None:
        require_positive(self, "steps", "heads", "key_expand", "expand", "strength")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), h, n = x.shape, self.heads, self.steps
        k = head_width(self, round(self.key_expand * d), h, "key_expand")
        v = head_width(self, round(self.expand * d), h, "expand")

        def in_turn(heads: jax.Array) -> jax.Array:  # (b, n * h, t, w) -> (b, h, t * n, w)
            return jnp.moveaxis(heads.reshape(b, n, h, t, -1), 1, 3).reshape(b, h, t * n, -1)

        query = unit(convolve("query", x, ctx, h, k, self.convolution)) * k**-0.5
        key = in_turn(unit(convolve("key", x, ctx, n * h, k, self.convolution)))
        value = in_turn(convolve("value", x, ctx, n * h, v, self.convolution))
        strength = in_turn(beta(x, n * h, self.strength))
        log_decay = decay_heads(self, x, h) if self.decay else jnp.zeros((b, h, t))
        log_decay = jnp.pad(log_decay[..., None], ((0, 0), (0, 0), (0, 0), (0, n - 1))).reshape(b, h, t * n)
        query = jnp.pad(query[:, :, :, None], ((0, 0), (0, 0), (0, 0), (n - 1, 0), (0, 0))).reshape(key.shape)
        segments = None if ctx.segments is None else jnp.repeat(ctx.segments, n, axis=1)
        left = jnp.exp(log_decay)[..., None] * key
        steps = dataclasses.replace(ctx, segments=segments)
        mixed = resume(self, steps, delta, query, key, strength * value, -strength * key, left, log_decay)
        mixed = mixed.reshape(b, h, t, n, v)[:, :, :, -1]
        gate = nn.silu(nn.Dense(h * v, use_bias=False, name="gate")(x.reshape(-1, d)))
        mixed = norm_merge(mixed.astype(x.dtype), self.norm)
        return nn.Dense(d, use_bias=False, name="out")(gate * mixed).reshape(x.shape)


class KimiDeltaAttention(nn.Module):
    """S_t = (I - beta k k^T) diag(a) S_{t-1} + beta k v^T, out(sigmoid(gate(x)) * norm(q S_t)).

    (b, t, d) -> (b, t, d).  arXiv:2510.26692.  a = exp(-rate * softplus(up(down(x)) + bias)), one number a key channel
    and no smaller than e^-10; the gate has the same low rank, a head's width unless given.  The rest as DeltaNet.
    """

    causal: ClassVar[bool] = True
    roles: ClassVar[Roles] = {"log_rate": UNDECAYED}
    heads: int = 8
    rank: int | None = None
    strength: float = 1.0
    convolution: Layer | None = ShortConvolution()
    norm: Norm = RMSNorm(1e-5)  # of each head
    implementation: Recurrent | None = None  # None: chosen by platform and call

    def __post_init__(self) -> None:
        require_positive(self, "heads", "strength")
        if self.rank is not None:
            require_positive(self, "rank")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        (b, t, d), h = x.shape, self.heads
        k = head_width(self, d, h)
        query, key, value = (convolve(name, x, ctx, h, k, self.convolution) for name in ("query", "key", "value"))
        query, key, strength = unit(query) * k**-0.5, unit(key), beta(x, h, self.strength)
        low, gate = (
            nn.Dense(self.rank or k, use_bias=False, name=name)(x.reshape(-1, d)).reshape(b, t, -1)
            for name in ("step_down", "gate_down")
        )
        rate = jnp.exp(self.param("log_rate", log_rates, (h, 1, 1)).astype(jnp.float32))
        step = project("step_up", low, h, k).astype(jnp.float32) + self.param("step_bias", step_biases, (h, 1, k))
        log_decay = jnp.maximum(-rate * nn.softplus(step), -10.0)
        left = jnp.exp(log_decay) * key
        mixed = resume(self, ctx, delta, query, key, strength * value, -strength * key, left, log_decay)
        gate = nn.sigmoid(nn.Dense(d, name="gate_up")(gate.reshape(b * t, -1)))
        mixed = norm_merge(mixed.astype(x.dtype), self.norm)
        return nn.Dense(d, use_bias=False, name="out")(gate * mixed).reshape(x.shape)
