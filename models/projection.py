"""Attention heads: projections of the stream to heads, and back."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.backend.platform import platform
from models.contracts import Norm

Initial = Callable[..., jax.Array]  # (key, shape, dtype) -> the first values of a parameter
KERNEL = nn.initializers.lecun_normal()


class Heads(nn.Module):
    """A linear map to heads: (b, t, d) -> (b, heads, t, width).

    On a TPU it is one matmul with the heads as an axis; elsewhere tokens are flattened to two axes, which is faster on
    a CPU.
    """

    bias: bool = False
    kernel_init: Initial = KERNEL
    bias_init: Initial = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array, heads: int, width: int) -> jax.Array:
        b, t, d = x.shape
        kernel = self.param("kernel", self.kernel_init, (d, heads * width)).astype(x.dtype)
        bias = self.param("bias", self.bias_init, (heads * width,)).astype(x.dtype) if self.bias else None
        if platform() == "tpu":
            y = jnp.einsum("btd,dhk->bhtk", x, kernel.reshape(d, heads, width))
            return y if bias is None else y + bias.reshape(heads, 1, width)
        flat = x.reshape(-1, d) @ kernel
        flat = flat if bias is None else flat + bias
        return flat.reshape(b, t, heads, width).swapaxes(1, 2)


def project(
    module_name: str,
    x: jax.Array,
    heads: int,
    width: int,
    bias: bool = False,
    kernel_init: Initial = KERNEL,
    bias_init: Initial = nn.initializers.zeros,
) -> jax.Array:
    """Applies `Heads` as a named submodule of the calling module."""
    return Heads(bias, kernel_init, bias_init, name=module_name)(x, heads, width)


def merge(mixed: jax.Array) -> jax.Array:
    """Heads side by side, tokens flattened: (b, h, t, k) -> (b * t, h * k)."""
    b, h, t, k = mixed.shape
    return mixed.swapaxes(1, 2).reshape(b * t, h * k)


def norm_heads(norm: Norm, x: jax.Array) -> jax.Array:
    """A norm over each head's vectors, which sees heads and width as its last axes: (b, h, t, k) -> (b, h, t, k)."""
    return norm(x.swapaxes(1, 2)).swapaxes(1, 2)
