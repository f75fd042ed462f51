"""Convolutions over time: each token is mixed with those shortly before it, or with all of them."""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import silu
from models.backend.platform import platform
from models.cache import extend, index_new, remember
from models.context import Context
from models.contracts import Activation
from models.roles import SCALED, UNDECAYED, Roles
from models.structure import require_positive

BLOCK = 64  # tokens of a block of the gradient


class ShortConvolution(nn.Module):
    """activation(sum_{j < width} kernel_j * x_{t - j}), each channel by itself.  (b, t, d) -> (b, t, d).

    arXiv:2109.08668.  Inputs of other examples and those before the first count as zero.  The kernel starts at variance
    1 / width, which keeps that of x.
    """

    causal: ClassVar[bool] = True
    roles: ClassVar[Roles] = {"kernel": SCALED}  # each channel by itself: no product sums over d
    width: int = 4
    activation: Activation | None = silu
    bias: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "width")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.width, d)).astype(x.dtype)
        if ctx.decoding is None and platform() == "cpu":
            y = sum_lags(x, kernel, ctx.segments)
        else:
            y = jnp.zeros_like(x)
            for lag, past in enumerate(reversed(neighbours(self, x, ctx, self.width))):
                y = y + kernel[lag] * past
        if self.bias:
            y = y + self.param("bias", nn.initializers.zeros, (d,)).astype(x.dtype)
        return y if self.activation is None else self.activation(y)


@jax.custom_vjp
def sum_lags(x: jax.Array, kernel: jax.Array, segments: jax.Array | None) -> jax.Array:
    """Computes sum_j kernel_j * x_{t - j} over tokens of the same example: (b, t, d), kernel (width, d) -> (b, t, d).

    The gradient is computed in blocks of tokens, of a y' that is computed once: XLA would fuse what y' is made of into
    each of the lags, and compute it as many times.
    """
    return _sum_lags(x, kernel, segments)


def _sum_lags(x: jax.Array, kernel: jax.Array, segments: jax.Array | None) -> jax.Array:
    t = x.shape[1]
    y = kernel[0] * x
    for lag in range(1, min(len(kernel), t)):
        past = jnp.pad(x[:, :-lag], ((0, 0), (lag, 0), (0, 0)))
        if segments is not None:
            past = jnp.where((segments == jnp.pad(segments[:, :-lag], ((0, 0), (lag, 0))))[..., None], past, 0)
        y = y + kernel[lag] * past
    return y


def _keep_inputs(
    x: jax.Array, kernel: jax.Array, segments: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]]:
    return _sum_lags(x, kernel, segments), (x, kernel, segments)


def _sum_lags_back(
    kept: tuple[jax.Array, jax.Array, jax.Array | None], dy: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    x, kernel, segments = kept
    (b, t, d), width, block = x.shape, len(kernel), min(BLOCK, x.shape[1])
    rest = -t % block
    own = jnp.pad(x, ((0, 0), (0, rest), (0, 0)))
    later = jnp.pad(dy, ((0, 0), (0, rest + width - 1), (0, 0)))
    owners = None if segments is None else jnp.pad(segments, ((0, 0), (0, rest + width - 1)))

    def add(dkernel: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs = jax.lax.dynamic_slice_in_dim(own, start, block, 1)
        wide = jax.lax.dynamic_slice_in_dim(later, start, block + width - 1, 1)
        parts = [wide[:, lag : lag + block] for lag in range(width)]
        if owners is not None:
            near = jax.lax.dynamic_slice_in_dim(owners, start, block + width - 1, 1)
            same = (near[:, lag : lag + block] == near[:, :block] for lag in range(width))
            parts = [jnp.where(mask[..., None], part, 0) for mask, part in zip(same, parts, strict=True)]
        sums = [jnp.sum(part * inputs, (0, 1), jnp.float32) for part in parts]
        dx = sum((kernel[lag] * part for lag, part in enumerate(parts)), jnp.zeros_like(inputs))
        return dkernel + jnp.stack(sums), dx

    first = jnp.zeros(kernel.shape, jnp.float32)
    dkernel, blocks = jax.lax.scan(add, first, jnp.arange(0, t + rest, block))
    dx = jnp.moveaxis(blocks, 0, 1).reshape(b, t + rest, d)[:, :t]
    return dx, dkernel.astype(kernel.dtype), None


sum_lags.defvjp(_keep_inputs, _sum_lags_back)


def neighbours(module: nn.Module, x: jax.Array, ctx: Context, width: int, after: int = 0) -> list[jax.Array]:
    """Shifted copies of x: the token width - 1 before each token, the next, and so on to `after` behind it.

    (b, t, d) each.  Missing tokens and those of other examples are zero.  Earlier tokens are cached while decoding.
    """
    t = x.shape[1]

    def shifts(name: str, new: jax.Array) -> list[jax.Array]:
        kept = extend(module, ctx, name, new, 1, width)
        missing = width - 1 + t - kept.shape[1]
        padded = jnp.pad(kept, ((0, 0), (missing, after), *((0, 0) for _ in kept.shape[2:])))
        return [padded[:, first : first + t] for first in range(width + after)]

    if (current := ctx.segments) is None:
        return shifts("inputs", x)
    pairs = zip(shifts("inputs", x), shifts("segments", current), strict=True)
    return [jnp.where((segments == current)[..., None], beside, 0) for beside, segments in pairs]


class GatedConvolution(nn.Module):
    """out(leave * convolution(enter * z)): enter, leave and z linear in x.  (b, t, d) -> (b, t, d).

    LFM2, arXiv:2511.23404.
    """

    causal: ClassVar[bool] = True
    width: int = 3

    def __post_init__(self) -> None:
        require_positive(self, "width")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d = x.shape[-1]
        gates = nn.Dense(3 * d, use_bias=False, name="in")(x.reshape(-1, d)).reshape(*x.shape[:2], 3 * d)
        enter, leave, z = jnp.split(gates, 3, axis=-1)
        y = leave * ShortConvolution(self.width, None, name="convolution")(enter * z, ctx)
        return nn.Dense(d, use_bias=False, name="out")(y.reshape(-1, d)).reshape(x.shape)


class LongConvolution(nn.Module):
    """out(leave * (h * (enter . z) + skip . enter . z)), h as long as the row.  (b, t, d) -> (b, t, d).

    Hyena, arXiv:2302.10866.  enter, leave and z are linear in x and a short convolution: order 2 of the paper.  The
    filter h_p is a network of sines of the position p / length, times a window exp(-rate p / length) of sum of squares
    1; rates differ by channel, so that the window falls to 0.01 within 0.3 to 1.5 of the length.  A row may be longer
    than that.  The paper's window has height 1 and its sines learn their frequency; its released code draws `skip` from
    a standard normal, while it starts at 1 here.  Products are float32, by FFT; decoding keeps the filter and all its
    inputs and takes one scalar product a token.
    """

    causal: ClassVar[bool] = True
    roles: ClassVar[Roles] = {f"filter_{layer}/kernel": UNDECAYED for layer in (0, 1, "out")}  # as in the paper's code
    length: int = 1024  # unit of the filter's positions
    width: int = 3  # of the short convolution
    hidden: int = 64  # width of the filter's network
    bands: int = 16  # sines and cosines of the position that it reads
    frequency: float = 10.0  # of the network's sines

    def __post_init__(self) -> None:
        require_positive(self, "length", "width", "hidden", "bands", "frequency")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        t, d = x.shape[1:]
        gates = nn.Dense(3 * d, use_bias=False, name="in")(x.reshape(-1, d)).reshape(*x.shape[:2], 3 * d)
        enter, leave, z = jnp.split(ShortConvolution(self.width, None, name="convolution")(gates, ctx), 3, axis=-1)
        z = enter * z
        kept = extend(self, ctx, "inputs", z, 1).astype(jnp.float32)
        segments = None if ctx.segments is None else extend(self, ctx, "segments", ctx.segments, 1)
        if ctx.decoding is None or ctx.decoding.start:
            kernel = self.kernel(t if ctx.decoding is None else ctx.decoding.length, d)
            remember(self, ctx, "filter", jnp.broadcast_to(kernel, (len(x), *kernel.shape)))
            mixed = causal_convolution(z.astype(jnp.float32), kernel[:t], ctx.segments)
        else:
            kernel = self.get_variable("cache", "filter")
            lag = index_new(ctx, t)[:, None] - jnp.arange(kept.shape[1])
            seen = (
                (lag >= 0)[None]
                if segments is None or ctx.segments is None
                else ctx.segments[:, :, None] == segments[:, None]
            )
            mixed = jnp.einsum(
                "btsd,bsd->btd", jnp.where((seen & (lag >= 0))[..., None], kernel[:, jnp.maximum(lag, 0)], 0), kept
            )
        mixed = mixed.astype(x.dtype) + self.param("skip", nn.initializers.ones, (d,)).astype(x.dtype) * z
        return nn.Dense(d, use_bias=False, name="out")((leave * mixed).reshape(-1, d)).reshape(x.shape)

    def kernel(self, t: int, d: int) -> jax.Array:
        """The filter at the first t positions, (t, d) in float32."""
        fraction = jnp.arange(t, dtype=jnp.float32)[:, None] / self.length
        angles = 2 * math.pi * fraction * jnp.arange(1, self.bands + 1)
        hidden = jnp.concatenate([fraction, jnp.sin(angles), jnp.cos(angles)], axis=-1)
        for index in range(2):
            hidden = jnp.sin(self.frequency * nn.Dense(self.hidden, name=f"filter_{index}")(hidden))
        rates = math.log(100) / jnp.linspace(0.3, 1.5, d)
        window = jnp.exp(-rates * fraction) * jnp.sqrt(2 * rates / self.length)
        return nn.Dense(d, use_bias=False, name="filter_out")(hidden) * window


SHORT = 16  # lags that are summed one by one


def causal_convolution(x: jax.Array, kernel: jax.Array, segments: jax.Array | None) -> jax.Array:
    """sum_{j <= t} kernel_{t - j} x_j over the tokens j of t's own segment, in float32.

    (b, t, d), (t, d), (b, t) or None -> (b, t, d).

    Segments are contiguous, so only one crosses the middle of any block: the contribution of the left half to the right
    half is one FFT of the tokens of that segment.  Blocks are halved until they are SHORT: t (log t)^2 in all, for any
    number of segments.
    """
    b, t, d = x.shape
    if segments is None:
        return _convolve(x, kernel, 2 * t)[:, :t]
    whole = SHORT
    while whole < t:
        whole *= 2
    x, kernel = jnp.pad(x, ((0, 0), (0, whole - t), (0, 0))), jnp.pad(kernel, ((0, whole - t), (0, 0)))
    segments = jnp.pad(segments, ((0, 0), (0, whole - t)), constant_values=-1)[..., None]
    rows, owners = x.reshape(-1, SHORT, d), segments.reshape(-1, SHORT, 1)
    y = jnp.zeros_like(rows)
    for lag in range(SHORT):
        y = y.at[:, lag:].add(
            jnp.where(owners[:, lag:] == owners[:, : SHORT - lag], kernel[lag] * rows[:, : SHORT - lag], 0)
        )
    half = SHORT
    while half < whole:
        rows, owners, y = x.reshape(-1, 2 * half, d), segments.reshape(-1, 2 * half, 1), y.reshape(-1, 2 * half, d)
        crosses = owners == owners[:, half - 1 : half]
        crossing = _convolve(jnp.where(crosses, rows, 0)[:, :half], kernel[: 2 * half], 2 * half)
        y = y.at[:, half:].add(jnp.where(crosses, crossing, 0)[:, half:])
        half *= 2
    return y.reshape(b, whole, d)[:, :t]


def _convolve(x: jax.Array, kernel: jax.Array, size: int) -> jax.Array:
    """The circular convolution over time of length `size`: (b, t, d), (t, d) -> (b, size, d)."""
    return jnp.fft.irfft(jnp.fft.rfft(x, size, axis=1) * jnp.fft.rfft(kernel, size, axis=0), size, axis=1)
