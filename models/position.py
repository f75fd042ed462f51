"""Ways to tell a model where a token stands: added to the embedding, or rotated into queries and keys."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.structure import require_positive


class LearnedPosition(nn.Module):
    """x + table[position], one learned vector for each of `length` places.  (..., t, d) -> (..., t, d).  arXiv:1705.03122."""

    length: int = 512

    def __post_init__(self) -> None:
        require_positive(self, "length")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        if x.shape[-2] > self.length:
            raise ValueError(
                f"The input has {x.shape[-2]} tokens and LearnedPosition holds {self.length} places; raise its length or shorten the input."
            )
        table = self.param("table", nn.initializers.normal(0.02), (self.length, x.shape[-1]))
        return x + table[positions].astype(x.dtype)


class SinusoidalPosition(nn.Module):
    """x + [sin(p w_i), cos(p w_i)] with w_i = base^(-2i/d).  (..., t, d) -> (..., t, d), d even.  arXiv:1706.03762.

    Sines fill the first half of the width and cosines the second; the paper interleaves them, a permutation of the same features.
    """

    base: float = 10_000.0

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        angles = turns(positions, x.shape[-1], self.base)
        return x + jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).astype(x.dtype)


class RoPE(nn.Module):
    """Rotates each pair (x_i, x_{i + k/2}) by the angle p * base^(-2i/k).  (..., t, k) -> (..., t, k), k even.  arXiv:2104.09864.

    Products of rotated queries and keys depend on positions through their difference only.
    """

    base: float = 10_000.0

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        angles = turns(positions, x.shape[-1], self.base)
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


def turns(positions: jax.Array, width: int, base: float) -> jax.Array:
    """Angles p * base^(-2i/width) for i < width/2: (..., t) -> (..., t, width/2) in float32."""
    if width % 2:
        raise ValueError(f"Sines and rotations come in pairs and need an even width; this one is {width}.")
    return positions[..., None].astype(jnp.float32) * base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
