"""Recurrences whose state decays channel by channel, by a scan over tokens: minGRU, minLSTM, RG-LRU, Mamba."""

import math
from collections.abc import Callable
from typing import ClassVar, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from models.activation import gelu, silu
from models.backend.platform import platform
from models.cache import recall, remember
from models.context import Context
from models.contracts import Activation
from models.mixers.convolution import ShortConvolution
from models.roles import UNDECAYED, Roles
from models.structure import require_positive

Carry = TypeVar("Carry")
Inputs = TypeVar("Inputs")
Outputs = TypeVar("Outputs")
CHUNK = 256  # tokens that are scanned at once
CACHED = 16  # tokens whose states a CPU keeps for the backward pass at once


def linear_scan(
    decay: jax.Array, x: jax.Array, fresh: jax.Array, start: jax.Array, chunk: int = CHUNK
) -> tuple[jax.Array, jax.Array]:
    """h_t = decay_t h_{t-1} + x_t: the last state, and all (b, t, ...).

    decay and x (b, t, ...), `start` (b, ...) the state before.  At `fresh` tokens (b, t) the state before counts as
    zero.
    """

    def keep(decay: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return decay, x

    def read(h: jax.Array, decay: jax.Array, x: jax.Array) -> jax.Array:
        del decay, x
        return h

    return scan_terms(keep, read, start, (decay, x), fresh, chunk)


def scan_terms(
    terms: Callable[..., tuple[jax.Array, jax.Array]],
    read: Callable[..., jax.Array],
    start: jax.Array,
    inputs: tuple[jax.Array, ...],
    fresh: jax.Array,
    chunk: int,
) -> tuple[jax.Array, jax.Array]:
    """h_t = decay_t h_{t-1} + x_t with (decay_t, x_t) = terms(*inputs_t): the last state, and all read(h_t, *inputs_t).

    Inputs are (b, t, ...), `start` (b, ...); `terms` and `read` take a token, (b, ...), or several, (b, c, ...).  At
    `fresh` tokens (b, t) the state before counts as zero.  On a CPU one token is computed after the other, so that
    terms and states stay in its caches; elsewhere the tokens of a chunk at once, by an associative scan.
    """

    def step(h: jax.Array, token: tuple[tuple[jax.Array, ...], jax.Array]) -> tuple[jax.Array, jax.Array]:
        inputs, fresh = token
        decay, x = _forget(*terms(*inputs), fresh)
        h = decay * h + x
        return h, read(h, *inputs)

    def join(left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    def together(h: jax.Array, tokens: tuple[tuple[jax.Array, ...], jax.Array]) -> tuple[jax.Array, jax.Array]:
        inputs, fresh = tokens
        reach, within = jax.lax.associative_scan(join, _forget(*terms(*inputs), fresh), axis=1)
        h = within + reach * h[:, None]
        return h[:, -1], read(h, *inputs)

    if platform() == "cpu":
        return scan_in_chunks(in_turn(step), start, (inputs, fresh), min(chunk, CACHED))
    return scan_in_chunks(together, start, (inputs, fresh), chunk)


def _forget(decay: jax.Array, x: jax.Array, fresh: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Terms of the recurrence, where a fresh token's decay is 0."""
    return jnp.where(fresh.reshape(*fresh.shape, *(1 for _ in decay.shape[fresh.ndim :])), 0, decay), x


def in_turn(
    step: Callable[[Carry, Inputs], tuple[Carry, Outputs]],
) -> Callable[[Carry, Inputs], tuple[Carry, Outputs]]:
    """The body for `scan_in_chunks` that takes the step for one token (b, ...) after the other."""

    def body(state: Carry, inputs: Inputs) -> tuple[Carry, Outputs]:
        state, outputs = jax.lax.scan(step, state, jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), inputs))
        return state, jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), outputs)

    return body


def scan_in_chunks(
    body: Callable[[Carry, Inputs], tuple[Carry, Outputs]], state: Carry, inputs: Inputs, chunk: int
) -> tuple[Carry, Outputs]:
    """(state, inputs) -> (state, outputs) by the body for one chunk of time after the other.

    Inputs and outputs are (b, t, ...).  The backward pass keeps the state before each chunk and computes what is within
    a chunk again, so that memory grows with t alone.
    """
    t, body = jax.tree.leaves(inputs)[0].shape[1], jax.checkpoint(body)
    count = t // chunk
    parts: list[Outputs] = []
    if count:
        rows = jax.tree.map(
            lambda leaf: leaf[:, : count * chunk].reshape(-1, count, chunk, *leaf.shape[2:]).swapaxes(0, 1), inputs
        )
        state, outputs = jax.lax.scan(body, state, rows)
        parts.append(
            jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(-1, count * chunk, *leaf.shape[3:]), outputs)
        )
    if t % chunk:
        state, outputs = body(state, jax.tree.map(lambda leaf: leaf[:, count * chunk :], inputs))
        parts.append(outputs)
    return state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *parts)


def fresh_tokens(module: nn.Module, ctx: Context, b: int, t: int) -> jax.Array:
    """The mask of tokens whose example differs from the previous token's, (b, t); the last segment is cached."""
    if ctx.segments is None:
        return jnp.zeros((b, t), bool)
    last = recall(module, ctx, "segment", jnp.full((b,), -1, ctx.segments.dtype))
    remember(module, ctx, "segment", ctx.segments[:, -1])
    return ctx.segments != jnp.concatenate([last[:, None], ctx.segments[:, :-1]], axis=1)


def recur(module: nn.Module, ctx: Context, decay: jax.Array, x: jax.Array) -> jax.Array:
    """`linear_scan` over (b, t, f), from the state that the module kept at the last call."""
    start = recall(module, ctx, "state", jnp.zeros((x.shape[0], x.shape[2]), jnp.float32))
    state, h = linear_scan(decay, x, fresh_tokens(module, ctx, *x.shape[:2]), start)
    remember(module, ctx, "state", state)
    return h


def positive(x: jax.Array) -> jax.Array:
    """x + 1/2 above zero, sigmoid(x) below."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))


class MinGRU(nn.Module):
    """out(h): h_t = (1 - z_t) h_{t-1} + z_t positive(c_t), z = sigmoid(update(x)), c = candidate(x).

    (b, t, d) -> (b, t, d).  arXiv:2410.01201, the form whose states are above zero; the paper scans their logarithms,
    this the states themselves, from zero.
    """

    causal: ClassVar[bool] = True
    expand: float = 1.0  # width of the state over d

    def __post_init__(self) -> None:
        require_positive(self, "expand")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d, width = x.shape[-1], round(self.expand * x.shape[-1])
        update, candidate = (project(name, x, width) for name in ("update", "candidate"))
        z = jax.nn.sigmoid(update)
        h = recur(self, ctx, 1 - z, z * positive(candidate)).astype(x.dtype)
        return nn.Dense(d, use_bias=False, name="out")(h.reshape(-1, width)).reshape(x.shape)


class MinLSTM(nn.Module):
    """out(h): h_t = f_t h_{t-1} + i_t positive(c_t), f and i sigmoids of linear maps divided by their sum.

    (b, t, d) -> (b, t, d).  arXiv:2410.01201, the form whose states are above zero; the paper scans their logarithms,
    this the states themselves, from zero.
    """

    causal: ClassVar[bool] = True
    expand: float = 1.0  # width of the state over d

    def __post_init__(self) -> None:
        require_positive(self, "expand")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d, width = x.shape[-1], round(self.expand * x.shape[-1])
        forget, enter, candidate = (project(name, x, width) for name in ("forget", "enter", "candidate"))
        # f / (f + i) of two sigmoids is one sigmoid of a difference of logarithms.
        kept = jax.nn.sigmoid(jax.nn.log_sigmoid(forget) - jax.nn.log_sigmoid(enter))
        h = recur(self, ctx, kept, (1 - kept) * positive(candidate)).astype(x.dtype)
        return nn.Dense(d, use_bias=False, name="out")(h.reshape(-1, width)).reshape(x.shape)


def project(name: str, x: jax.Array, width: int) -> jax.Array:
    """A linear map with a bias, under a name in the module that calls: (b, t, d) -> (b, t, width) in float32."""
    return nn.Dense(width, name=name)(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], width).astype(jnp.float32)


class RGLRU(nn.Module):
    """out(activation(gate(x)) * h), h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t y_t, y = convolution(in(x)).

    (b, t, d) -> (b, t, d).  a = exp(-8 r softplus(rate)); r and i are sigmoids of y, linear within each of `heads`
    parts of the width.  Starts with a uniform between 0.9 and 0.999 at r = 1, as the paper says;
    google-deepmind/recurrentgemma draws the square of exp(-softplus(rate)) between those of 0.9 and 0.999, which is a
    from 0.43 to 0.992.  Griffin's recurrent block, arXiv:2402.19427; the first token counts as any other, from a state
    of zero.  Convolution and output start as elsewhere here, the released ones with 0.01 and 2 / depth of the variance.
    """

    causal: ClassVar[bool] = True
    heads: int = 8
    expand: float = 1.0  # width of the state over d
    width: int = 4  # of the short convolution
    activation: Activation = gelu

    def __post_init__(self) -> None:
        require_positive(self, "heads", "expand", "width")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        b, t, d = x.shape
        width = round(self.expand * d)
        if width % self.heads:
            raise ValueError(f"RGLRU has a state of width {width} and {self.heads} heads; heads must divide it.")
        gate, y = (nn.Dense(width, name=name)(x.reshape(-1, d)).reshape(b, t, width) for name in ("gate", "in"))
        y = ShortConvolution(self.width, None, bias=True, name="convolution")(y, ctx)
        r, i = (jax.nn.sigmoid(self.within_heads(name, y).astype(jnp.float32)) for name in ("recurrence", "input"))
        log_decay = -8 * r * jax.nn.softplus(self.param("rate", rate_start, (width,)).astype(jnp.float32))
        enter = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_decay), 1e-6)) * i * y.astype(jnp.float32)
        h = recur(self, ctx, jnp.exp(log_decay), enter).astype(x.dtype)
        return nn.Dense(d, name="out")((self.activation(gate) * h).reshape(-1, width)).reshape(x.shape)

    def within_heads(self, name: str, y: jax.Array) -> jax.Array:
        """A linear map of each part of the width to itself: (b, t, f) -> (b, t, f)."""
        size = y.shape[-1] // self.heads
        kernel = self.param(
            f"{name}_kernel", nn.initializers.lecun_normal(batch_axis=0), (self.heads, size, size)
        ).astype(y.dtype)
        bias = self.param(f"{name}_bias", nn.initializers.zeros, (y.shape[-1],)).astype(y.dtype)
        return jnp.einsum("bthk,hkl->bthl", y.reshape(*y.shape[:2], self.heads, size), kernel).reshape(y.shape) + bias


def rate_start(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Rates at which exp(-8 softplus(rate)) is uniform between 0.9 and 0.999."""
    return jnp.log(jnp.expm1(-jnp.log(jax.random.uniform(key, shape, jnp.float32, 0.9, 0.999)) / 8))


class Mamba1(nn.Module):
    """out(silu(z) * (c_t . h_t + skip y_t)), h_t = exp(-s_t rates) h_{t-1} + s_t b_t y_t, y = convolution(in(x)).

    (b, t, d) -> (b, t, d).  The state h is `state` numbers a channel; z is linear in x, and b, c (t, state) and the
    step s = softplus(...) (t, channels) are linear in y.  Rates start at 1, 2, ..., state (S4D-real), steps between
    0.001 and 0.1.  Mamba, arXiv:2312.00752.  States exist for `chunk` tokens at a time.
    """

    causal: ClassVar[bool] = True
    roles: ClassVar[Roles] = {"log_rates": UNDECAYED}
    expand: float = 2.0  # channels over d
    state: int = 16
    rank: int | None = None  # rank of the map to steps; None: d / 16
    width: int = 4  # of the short convolution
    chunk: int = 64

    def __post_init__(self) -> None:
        require_positive(self, "expand", "state", "width", "chunk")
        if self.rank is not None:
            require_positive(self, "rank")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        b, t, d = x.shape
        channels, n, rank = round(self.expand * d), self.state, self.rank or math.ceil(d / 16)
        entered = nn.Dense(2 * channels, use_bias=False, name="in")(x.reshape(-1, d)).reshape(b, t, 2 * channels)
        y, z = jnp.split(entered, 2, axis=-1)
        y = ShortConvolution(self.width, bias=True, name="convolution")(y, ctx)
        selected = nn.Dense(rank + 2 * n, use_bias=False, name="select")(y.reshape(-1, channels))
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        step = nn.Dense(channels, kernel_init=uniform, bias_init=step_start, name="step")(selected[:, :rank])
        step = jax.nn.softplus(step.astype(jnp.float32)).reshape(b, t, channels)
        write, read = jnp.split(selected[:, rank:].astype(jnp.float32).reshape(b, t, 2 * n), 2, axis=-1)
        rates = jnp.exp(self.param("log_rates", rates_start, (n, channels)).astype(jnp.float32))

        def find_terms(step: jax.Array, y: jax.Array, write: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.exp(-step[..., None, :] * rates), write[..., None] * (step * y)[..., None, :]

        def read_state(h: jax.Array, *inputs: jax.Array) -> jax.Array:
            return (h * inputs[-1][..., None]).sum(-2)

        start = recall(self, ctx, "state", jnp.zeros((b, n, channels), jnp.float32))
        inputs = (step, y.astype(jnp.float32), write, read)
        fresh = fresh_tokens(self, ctx, b, t)
        state, mixed = scan_terms(find_terms, read_state, start, inputs, fresh, self.chunk)
        remember(self, ctx, "state", state)
        mixed = mixed.astype(x.dtype) + self.param("skip", nn.initializers.ones, (channels,)).astype(x.dtype) * y
        return nn.Dense(d, use_bias=False, name="out")((silu(z) * mixed).reshape(-1, channels)).reshape(x.shape)


def rates_start(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The logarithms of 1, 2, ..., n for each channel, (n, channels)."""
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[0] + 1, dtype=jnp.float32))[:, None], shape)


def step_start(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Biases whose softplus is between 0.001 and 0.1, uniform in its logarithm."""
    step = jnp.exp(jax.random.uniform(key, shape, dtype, math.log(0.001), math.log(0.1)))
    return jnp.log(jnp.expm1(step))
