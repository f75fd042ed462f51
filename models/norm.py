"""Normalisations over the last axis, and what stands in for one; statistics in float32 whatever the compute type."""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.structure import require_not_negative


class LayerNorm(nn.Module):
    """scale * (x - mean) / sqrt(variance + epsilon) + bias.  (..., d) -> (..., d).  arXiv:1607.06450.

    `scale` and `bias` are learned if they are set.
    """

    epsilon: float = 1e-5
    bias: bool = True
    scale: bool = True

    def __post_init__(self) -> None:
        require_not_negative(self, "epsilon")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        d = x.shape[-1]
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        if self.scale:
            normal = normal * self.param("scale", nn.initializers.ones, (d,)).astype(jnp.float32)
        if self.bias:
            normal = normal + self.param("bias", nn.initializers.zeros, (d,)).astype(jnp.float32)
        return normal.astype(x.dtype)


class RMSNorm(nn.Module):
    """scale * x / sqrt(mean(x^2) + epsilon).  (..., d) -> (..., d).  arXiv:1910.07467."""

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        require_not_negative(self, "epsilon")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        normal = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        return (normal * self.param("scale", nn.initializers.ones, (x.shape[-1],)).astype(jnp.float32)).astype(x.dtype)


class HeadNorm(nn.Module):
    """RMSNorm of each head with a scale of its own, (h, k).  (..., h, k) -> (..., h, k).

    Group norm over heads: arXiv:1803.08494.
    """

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        require_not_negative(self, "epsilon")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        normal = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        return (normal * self.param("scale", nn.initializers.ones, x.shape[-2:]).astype(jnp.float32)).astype(x.dtype)


class L2Norm(nn.Module):
    """x / sqrt(sum(x^2) + epsilon): length one, nothing learned.  (..., d) -> (..., d).  arXiv:2010.04245."""

    epsilon: float = 1e-12
    starts_at: ClassVar[float | None] = None  # the sum of squares is one, not the mean

    def __post_init__(self) -> None:
        require_not_negative(self, "epsilon")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        return (wide * jax.lax.rsqrt(jnp.square(wide).sum(-1, keepdims=True) + self.epsilon)).astype(x.dtype)


class ScaleNorm(nn.Module):
    """scale * x / sqrt(sum(x^2) + epsilon), scale one number that starts at sqrt(d).  (..., d) -> (..., d).

    arXiv:1910.05895.
    """

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        require_not_negative(self, "epsilon")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.constant(math.sqrt(x.shape[-1])), ()).astype(jnp.float32)
        wide = x.astype(jnp.float32)
        return (scale * wide * jax.lax.rsqrt(jnp.square(wide).sum(-1, keepdims=True) + self.epsilon)).astype(x.dtype)


class DynamicTanh(nn.Module):
    """scale * tanh(slope * x) + bias, slope one number: no statistics, so it keeps the size of small x.

    (..., d) -> (..., d).  arXiv:2503.10622.
    """

    slope: float = 0.5  # at the start
    keeps_scale: ClassVar[bool] = True
    starts_at: ClassVar[float | None] = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        d = x.shape[-1]
        slope = self.param("slope", nn.initializers.constant(self.slope), ()).astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (d,)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (d,)).astype(jnp.float32)
        return (scale * jnp.tanh(slope * x.astype(jnp.float32)) + bias).astype(x.dtype)


class DynamicErf(nn.Module):
    """scale * erf(slope * x + shift) + bias, slope and shift one number each: no statistics, as in DynamicTanh.

    (..., d) -> (..., d).  Derf, arXiv:2512.10938.  The slope starts at 1/2, as released in zlab-princeton/Derf for
    images, speech, DNA and diffusion; for language it starts at 1 there, after an embedding times a learned number that
    starts at sqrt(d), which is left out here.
    """

    slope: float = 0.5  # at the start
    keeps_scale: ClassVar[bool] = True
    starts_at: ClassVar[float | None] = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        d = x.shape[-1]
        slope = self.param("slope", nn.initializers.constant(self.slope), ()).astype(jnp.float32)
        shift = self.param("shift", nn.initializers.zeros, ()).astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (d,)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (d,)).astype(jnp.float32)
        return (scale * jax.lax.erf(slope * x.astype(jnp.float32) + shift) + bias).astype(x.dtype)
