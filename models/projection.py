"""Attention heads: projections of the stream to heads, and back."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.backend.implementation import is_captured
from models.backend.platform import platform
from models.contracts import Norm

Initial = Callable[..., jax.Array]  # (key, shape, dtype) -> the first values of a parameter
KERNEL = nn.initializers.lecun_normal()
TOGETHER = 256  # tokens from which a copy of the kernels, side by side, is small beside their product


class Heads(nn.Module):
    """A linear map to heads: (b, t, d) -> (b, heads, t, width).

    On a TPU it is one matmul with the heads as an axis; elsewhere tokens are flattened to two axes, which is faster on
    a CPU.
    """

    bias: bool = False
    kernel_init: Initial = KERNEL
    bias_init: Initial = nn.initializers.zeros

    @nn.compact
    def read(self, x: jax.Array, heads: int, width: int) -> tuple[jax.Array, jax.Array | None]:
        """The kernel (d, heads * width) and the bias for an input, in its type."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], heads * width)).astype(x.dtype)
        return kernel, self.param("bias", self.bias_init, (heads * width,)).astype(x.dtype) if self.bias else None

    def __call__(self, x: jax.Array, heads: int, width: int) -> jax.Array:
        b, t, d = x.shape
        kernel, bias = self.read(x, heads, width)
        if platform() == "tpu":
            y = jnp.einsum("btd,dhk->bhtk", x, kernel.reshape(d, heads, width))
            return y if bias is None else y + bias.reshape(heads, 1, width)
        return _split_heads(_multiply(x.reshape(-1, d), kernel, bias), b, heads)


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


def project_together(x: jax.Array, heads: Mapping[str, int], width: int, bias: bool = False) -> list[jax.Array]:
    """Applies `Heads` for each name, as submodules of the calling module: (b, t, d) -> (b, heads, t, width) each.

    Many tokens meet all kernels in one product on a CPU, where a wide product is faster than several narrow ones,
    unless their outputs are captured.
    """
    b, t, d = x.shape
    parts = {name: Heads(bias, name=name) for name in heads}
    if platform() != "cpu" or b * t < TOGETHER or any(map(is_captured, parts.values())):
        return [part(x, heads[name], width) for name, part in parts.items()]
    kernels, biases = zip(*(part.read(x, heads[name], width) for name, part in parts.items()), strict=True)
    flat = _multiply(x.reshape(-1, d), jnp.concatenate(kernels, 1), jnp.concatenate(biases) if bias else None)
    ends = [sum(list(heads.values())[: index + 1]) * width for index in range(len(heads) - 1)]
    return [_split_heads(each, b, count) for each, count in zip(jnp.split(flat, ends, 1), heads.values(), strict=True)]


def _multiply(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    y = x @ kernel
    return y if bias is None else y + bias


def _split_heads(flat: jax.Array, b: int, heads: int) -> jax.Array:
    """(b * t, heads * width) -> (b, heads, t, width)."""
    return flat.reshape(b, -1, heads, flat.shape[-1] // heads).swapaxes(1, 2)


def merge(mixed: jax.Array) -> jax.Array:
    """Heads side by side, tokens flattened: (b, h, t, k) -> (b * t, h * k)."""
    b, h, t, k = mixed.shape
    return mixed.swapaxes(1, 2).reshape(b * t, h * k)


def norm_heads(norm: Norm, x: jax.Array) -> jax.Array:
    """A norm over each head's vectors, which sees heads and width as its last axes: (b, h, t, k) -> (b, h, t, k)."""
    return norm(x.swapaxes(1, 2)).swapaxes(1, 2)
