"""Layers without attention that see the whole example: learned matrices, a Fourier transform, pooling."""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import gelu
from models.attention.core import locate_tokens
from models.context import Context
from models.contracts import Activation
from models.mixers.convolution import neighbours
from models.structure import require_positive


class TokenMLP(nn.Module):
    """down(activation(up(x))) over the tokens of an example, each channel by itself.  (b, t, d) -> (b, t, d).

    arXiv:2105.01601.  Rows of both matrices belong to the `length` positions of an example; a shorter example uses the
    first of them.  Packed examples are mixed one after the other: cost grows with the number in the fullest row, and a
    little with the number that `ctx.starts` has room for, t if it is None.  Raises ValueError for a row longer than
    `length`, and for decoding.
    """

    causal: ClassVar[bool] = False
    length: int = 196
    expand: float = 2.0  # hidden tokens over length
    activation: Activation = gelu

    def __post_init__(self) -> None:
        require_positive(self, "length", "expand")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        refuse_decoding(self, ctx)
        t, hidden = x.shape[1], round(self.expand * self.length)
        if t > self.length:
            raise ValueError(
                f"The input has {t} tokens and TokenMLP mixes {self.length} places; raise its length"
                f" (in a block model.stack.block.mixer.length={t}) or shorten the input."
            )
        positions = locate_tokens(ctx, t).positions
        up = self.param("up", nn.initializers.lecun_normal(), (self.length, hidden)).astype(x.dtype)[positions]
        down = self.param("down", nn.initializers.lecun_normal(-1, -2), (self.length, hidden)).astype(x.dtype)[
            positions
        ]
        shift = self.param("hidden_bias", nn.initializers.zeros, (hidden,)).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.length,)).astype(x.dtype)[positions]

        def mix(member: jax.Array) -> jax.Array:  # (b or 1, t, 1): the tokens of one example
            inner = self.activation(up.swapaxes(1, 2) @ jnp.where(member, x, 0) + shift[:, None])
            return jnp.where(member, down @ inner + bias[..., None], 0)

        if ctx.segments is None:
            return mix(jnp.ones((1, t, 1), bool))
        segments = ctx.segments[..., None]

        def add(y: jax.Array, segment: jax.Array) -> tuple[jax.Array, None]:
            member = segments == segment
            return y + jax.lax.cond(member.any(), mix, lambda _: jnp.zeros_like(x), member), None

        most = t if ctx.starts is None else ctx.starts.shape[1]
        return jax.lax.scan(jax.checkpoint(add), jnp.zeros_like(x), jnp.arange(most + 1))[0]


class Fourier(nn.Module):
    """The real part of the Fourier transform over the tokens of an example and over the width.  (b, t, d) -> (b, t, d).

    arXiv:2105.03824.  Both transforms are orthonormal, which keeps the size of x; the paper's grow it by sqrt(t d).
    The width's is an FFT; that over tokens is an FFT if a row is one example, and for packed rows a product with the
    matrix of each example's own length.
    """

    causal: ClassVar[bool] = False

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        refuse_decoding(self, ctx)
        t, wide = x.shape[1], x.astype(jnp.float32)
        if ctx.segments is None:
            return jnp.fft.fft2(wide, axes=(1, 2), norm="ortho").real.astype(x.dtype)
        same = ctx.segments[:, :, None] == ctx.segments[:, None]
        length = same.sum(-1, keepdims=True)
        positions = jnp.arange(t) - same.argmax(-1)  # counted from the first token of the example
        turns = 2 * math.pi * (positions[:, :, None] * positions[:, None] % length) / length
        size = jnp.where(same, jax.lax.rsqrt(length.astype(jnp.float32)), 0)
        across = jnp.fft.fft(wide, axis=-1, norm="ortho")
        return ((size * jnp.cos(turns)) @ across.real + (size * jnp.sin(turns)) @ across.imag).astype(x.dtype)


class Pooling(nn.Module):
    """mean of x_j over |i - j| < window, less x_i.  (b, t, d) -> (b, t, d).  PoolFormer, arXiv:2111.11418.

    The default of 2 is the paper's pool of 3, over a row instead of an image.  Neighbours that the example does not
    have count as zero; the paper leaves them out of the mean.  `causal` leaves out the later ones.
    """

    window: int = 2
    causal: bool = False

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(
                f"Pooling.window is {self.window}; it counts tokens, the own one included, so give 2 or more."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        if not self.causal:
            refuse_decoding(self, ctx)
        after = 0 if self.causal else self.window - 1
        beside = neighbours(self, x.astype(jnp.float32), ctx, self.window, after)
        return jnp.stack(beside).mean(0).astype(x.dtype) - x


def refuse_decoding(layer: nn.Module, ctx: Context) -> None:
    """Raises ValueError, for a layer that sees later tokens."""
    if ctx.decoding is not None:
        raise ValueError(f"{type(layer).__name__} sees later tokens, so it cannot decode one token after the other.")
