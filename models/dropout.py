"""Dropout whose random bits are cheap."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.context import Context

LEVELS = 256  # one random byte decides an element, so four elements share one 32-bit draw


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` and divides the others by 1 - rate, while training.  JMLR 15(56), 2014.

    The rate is rounded to 1/256, to 255/256 at most, and the division uses the rounded value, so the expectation is
    exact.  (..., d) -> (..., d).  Raises ValueError for a rate outside [0, 1).
    """

    rate: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"Dropout rate is {self.rate}; give a number from 0 up to, not including, 1.")
        super().__post_init__()

    @property
    def keep(self) -> int:
        """Number of LEVELS, of 256, that are kept."""
        return max(LEVELS - round(self.rate * LEVELS), 1)

    def acts(self, ctx: Context) -> bool:
        """Tells if anything is zeroed."""
        return ctx.train and self.keep < LEVELS

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        keep = self.keep
        if not self.acts(ctx):
            return x
        d = x.shape[-1]
        draws = jax.random.bits(self.make_rng("dropout"), (*x.shape[:-1], -(-d // 4)), jnp.uint32)
        kept = jnp.concatenate([(draws >> shift) & 0xFF for shift in (0, 8, 16, 24)], axis=-1)[..., :d] < keep
        return jnp.where(kept, x * jnp.asarray(LEVELS / keep, x.dtype), 0)
