"""A norm without statistics: the error function of each number.  arXiv:2512.10938."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Derf(nn.Module):
    """scale * erf(slope * x + shift) + bias.  (..., d) -> (..., d)."""

    slope: float = 0.5
    keeps_scale = True

    @nn.compact
    def __call__(self, x):
        d, wide = x.shape[-1], x.astype(jnp.float32)
        slope = self.param("slope", nn.initializers.constant(self.slope), ()).astype(jnp.float32)
        shift = self.param("shift", nn.initializers.zeros, ()).astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (d,)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (d,)).astype(jnp.float32)
        return (scale * jax.scipy.special.erf(slope * wide + shift) + bias).astype(x.dtype)
