"""Normalisations over the last axis; statistics in float32 whatever the compute type."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class LayerNorm(nn.Module):
    """scale * (x - mean) / sqrt(variance + epsilon) + bias.  (..., d) -> (..., d).  arXiv:1607.06450."""

    epsilon: float = 1e-5
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        d = x.shape[-1]
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        normal = normal * self.param("scale", nn.initializers.ones, (d,)).astype(jnp.float32)
        if self.bias:
            normal = normal + self.param("bias", nn.initializers.zeros, (d,)).astype(jnp.float32)
        return normal.astype(x.dtype)


class RMSNorm(nn.Module):
    """scale * x / sqrt(mean(x^2) + epsilon).  (..., d) -> (..., d).  arXiv:1910.07467."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        normal = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        return (normal * self.param("scale", nn.initializers.ones, (x.shape[-1],)).astype(jnp.float32)).astype(x.dtype)
