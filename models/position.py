"""Position encodings: added to the embedding, or rotated into queries and keys."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.backend.platform import platform
from models.structure import require_positive


class LearnedPosition(nn.Module):
    """x + table[position], one learned vector for each of `length` places.  (..., t, d) -> (..., t, d).

    arXiv:1705.03122.
    """

    length: int = 512

    def __post_init__(self) -> None:
        require_positive(self, "length")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        if x.shape[-2] > self.length:
            raise ValueError(
                f"The input has {x.shape[-2]} tokens and LearnedPosition holds {self.length} places; shorten the"
                f" input or raise its length (in an embed model.embed.position.length={x.shape[-2]})."
            )
        table = self.param("table", nn.initializers.normal(0.02), (self.length, x.shape[-1]))
        return x + table[positions].astype(x.dtype)


class SinusoidalPosition(nn.Module):
    """x + [sin(p w_i), cos(p w_i)] with w_i = base^(-2i/d).  (..., t, d) -> (..., t, d), d even.  arXiv:1706.03762.

    Sines fill the first half of the width and cosines the second; the paper interleaves them, a permutation of the same
    features.
    """

    base: float = 10_000.0

    def __post_init__(self) -> None:
        require_positive(self, "base")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        angles = turns(positions, x.shape[-1], self.base)
        return x + jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).astype(x.dtype)


class RoPE(nn.Module):
    """Rotates each pair (x_i, x_{i + k/2}) by the angle p * base^(-2i/k).  (..., t, k) -> (..., t, k), k even.

    arXiv:2104.09864.  Products of rotated queries and keys depend on positions through their difference only.
    """

    base: float = 10_000.0

    def __post_init__(self) -> None:
        require_positive(self, "base")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        return rotate(x, turns(positions, x.shape[-1], self.base))


class PartialRoPE(nn.Module):
    """RoPE on the first `part` of the width, the rest as it is.  (..., t, k) -> (..., t, k).

    GPT-NeoX, arXiv:2204.06745.  At least one pair is rotated, whatever the width.
    """

    part: float = 0.25
    base: float = 10_000.0

    def __post_init__(self) -> None:
        require_positive(self, "base")
        if not 0 < self.part <= 1:
            raise ValueError(
                f"PartialRoPE.part is {self.part}; give the part of the width to rotate, above 0, up to 1."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        width = max(2 * round(self.part * x.shape[-1] / 2), 2)
        return jnp.concatenate([rotate(x[..., :width], turns(positions, width, self.base)), x[..., width:]], axis=-1)


class InterpolatedRoPE(nn.Module):
    """RoPE at positions p / factor: a model for rows of some length reads `factor` times that.

    (..., t, k) -> (..., t, k).  Position interpolation, arXiv:2306.15595.
    """

    factor: float = 4.0
    base: float = 10_000.0

    def __post_init__(self) -> None:
        require_positive(self, "factor", "base")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        return rotate(x, turns(positions / self.factor, x.shape[-1], self.base))


class NTKRoPE(nn.Module):
    """RoPE of base * factor^(k / (k - 2)).  (..., t, k) -> (..., t, k).

    "NTK-aware" scaling, arXiv:2309.00071, section 3.1.  The slowest pair turns `factor` times slower, the fastest as
    before.  A width of 2 has no slower pair, and is plain RoPE.
    """

    factor: float = 4.0
    base: float = 10_000.0

    def __post_init__(self) -> None:
        require_positive(self, "factor", "base")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        k = x.shape[-1]
        return rotate(x, turns(positions, k, self.base * self.factor ** (k / max(k - 2, 1))))


class YaRN(nn.Module):
    """(0.1 ln(factor) + 1) * RoPE with angles (g + (1 - g) / factor) p w_i.  (..., t, k) -> (..., t, k).

    arXiv:2309.00071.  g goes from 0 to 1 as the turns that a pair makes over the `length` that the model was trained on
    go from `slow` to `fast`: slow pairs are interpolated and fast ones kept.  The factor before, on queries and keys,
    is the paper's temperature of the softmax.  The line is drawn over turns as in the paper; released models draw it
    over the index of the pair.
    """

    factor: float = 4.0
    length: int = 2048
    base: float = 10_000.0
    slow: float = 1.0
    fast: float = 32.0

    def __post_init__(self) -> None:
        require_positive(self, "factor", "length", "base")
        if not 0 <= self.slow < self.fast:
            raise ValueError(f"YaRN counts turns from slow={self.slow} to fast={self.fast}; slow must be below fast.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        count = turns(jnp.array([self.length]), x.shape[-1], self.base)[0] / (2 * math.pi)
        kept = jnp.clip((count - self.slow) / (self.fast - self.slow), 0, 1)
        angles = turns(positions, x.shape[-1], self.base) * (kept + (1 - kept) / self.factor)
        return rotate(x, angles) * (0.1 * math.log(self.factor) + 1)


class AxialRoPE(nn.Module):
    """RoPE on a grid: the place p is unravelled over `grid`, and each axis rotates its own part of the width.

    (..., t, k) -> (..., t, k).  Such as (14, 14) for patches of an image, or (8, 14, 14) for video; the last axis runs
    fastest.  If the pairs do not divide evenly, the first axes have one more.  arXiv:2104.09864 on each axis, as in
    arXiv:2403.13298.
    """

    grid: tuple[int, ...] = (14, 14)
    base: float = 100.0  # grids are short

    def __post_init__(self) -> None:
        require_positive(self, "base")
        if not self.grid or min(self.grid) < 1:
            raise ValueError(f"AxialRoPE.grid is {self.grid}; give the number of places along each axis, above 0.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        pairs, axes, parts = x.shape[-1] // 2, len(self.grid), []
        if x.shape[-1] % 2 or pairs < axes:
            raise ValueError(
                f"AxialRoPE rotates a pair for each of {axes} axes, so it needs an even width of at least {2 * axes}."
            )
        stride, first = math.prod(self.grid), 0
        for index, size in enumerate(self.grid):
            stride //= size
            coordinate = positions // stride % size if index else positions // stride
            width = 2 * (pairs // axes + (index < pairs % axes))
            parts.append(rotate(x[..., first : first + width], turns(coordinate, width, self.base)))
            first += width
        return jnp.concatenate(parts, axis=-1)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates each pair (x_i, x_{i + k/2}) by its angle: (..., t, k), (..., t, k/2) -> (..., t, k)."""
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if platform() == "cpu":  # whose compiler would compute them again for every head
        cos, sin = jax.lax.optimization_barrier((cos, sin))
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


def turns(positions: jax.Array, width: int, base: float) -> jax.Array:
    """Angles p * base^(-2i/width) for i < width/2: (..., t) -> (..., t, width/2) in float32."""
    if width % 2:
        raise ValueError(f"Sines and rotations come in pairs and need an even width; this one is {width}.")
    return positions[..., None].astype(jnp.float32) * base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
