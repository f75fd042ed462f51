"""Several layers as one."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.attention.softmax import Attention
from models.context import Context
from models.contracts import Layer
from models.feedforward import MLP


class Sum(nn.Module):
    """sum_i layer_i(x): layers side by side on the same input.  (b, t, d) -> (b, t, d).

    `Block(Sum((Attention(), MLP())), None)` is GPT-J's parallel attention and feedforward, as in PaLM,
    arXiv:2204.02311.
    """

    layers: tuple[Layer, ...] = (Attention(causal=True), MLP())

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        outputs = [layer(x, ctx) for layer in self.layers]
        return sum(outputs[1:], outputs[0])


class Concat(nn.Module):
    """W [scale_1 norm(layer_1(x)), scale_2 norm(layer_2(x)), ...]: parallel heads of different kinds.

    (b, t, d) -> (b, t, d).  Each layer's output is divided by its root mean square before it is scaled and
    concatenated.  Hymba, arXiv:2411.13676, whose mean over normalised outputs is here a linear map of all.
    """

    layers: tuple[Layer, ...] = (Attention(causal=True), Attention(causal=True, window=128))

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        b, t, d = x.shape
        outputs = []
        for index, layer in enumerate(self.layers):
            wide = layer(x, ctx).astype(jnp.float32)
            scale = self.param(f"scale_{index}", nn.initializers.ones, (d,)).astype(jnp.float32)
            outputs.append(scale * wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-6))
        joined = jnp.concatenate(outputs, -1).astype(x.dtype).reshape(b * t, -1)
        return nn.Dense(d, use_bias=False, name="out")(joined).reshape(b, t, d)
