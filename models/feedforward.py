"""Layers that transform each token by itself."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import gelu, silu
from models.context import Context
from models.contracts import Activation
from models.structure import require_positive


class MLP(nn.Module):
    """down(activation(up(x))).  (b, t, d) -> (b, t, d).  arXiv:1706.03762."""

    expand: float = 4.0  # hidden width over d
    activation: Activation = gelu
    bias: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "expand")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d = x.shape[-1]
        hidden = nn.Dense(round(self.expand * d), use_bias=self.bias, name="up")(x.reshape(-1, d))
        return nn.Dense(d, use_bias=self.bias, name="down")(self.activation(hidden)).reshape(x.shape)


class GLU(nn.Module):
    """Gated linear unit: down(activation(gate(x)) * up(x)).  (b, t, d) -> (b, t, d).  arXiv:2002.05202."""

    expand: float = 8 / 3  # hidden width over d
    activation: Activation = silu
    bias: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "expand")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d = x.shape[-1]
        tokens = x.reshape(-1, d)
        gate = nn.Dense(round(self.expand * d), use_bias=self.bias, name="gate")(tokens)
        up = nn.Dense(round(self.expand * d), use_bias=self.bias, name="up")(tokens)
        return nn.Dense(d, use_bias=self.bias, name="down")(self.activation(gate) * up).reshape(x.shape)


class LowRank(nn.Module):
    """An MLP whose two maps are products of thin ones: W = A B of rank `rank` * d.  (b, t, d) -> (b, t, d).

    arXiv:2406.16450.  down(down_in(activation(up(up_in(x))))).  The paper's guided training beside dense weights is
    left out.
    """

    expand: float = 4.0  # hidden width over d
    rank: float = 0.25  # width between the thin maps, over d
    activation: Activation = gelu

    def __post_init__(self) -> None:
        require_positive(self, "expand", "rank")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d = x.shape[-1]
        widths = {
            "up_in": max(1, round(self.rank * d)),
            "up": round(self.expand * d),
            "down_in": max(1, round(self.rank * d)),
            "down": d,
        }
        thin = {name: nn.Dense(width, use_bias=False, name=name) for name, width in widths.items()}
        hidden = self.activation(thin["up"](thin["up_in"](x.reshape(-1, d))))
        return thin["down"](thin["down_in"](hidden)).reshape(x.shape)


class Monarch(nn.Module):
    """An MLP whose two maps are Monarch matrices: block-diagonal, permuted, block-diagonal, permuted.

    (b, t, d) -> (b, t, d).  A map from n to m has `blocks` blocks of (l / blocks, n / blocks), then of (m / blocks, l /
    blocks), l the smaller of n and m; the permutations swap block and place.  arXiv:2204.00595.  Raises ValueError for
    widths that `blocks` does not divide.
    """

    expand: float = 4.0  # hidden width over d
    blocks: int = 4
    activation: Activation = gelu

    def __post_init__(self) -> None:
        require_positive(self, "expand", "blocks")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        d = x.shape[-1]
        hidden = self.monarch("up", x.reshape(-1, d), round(self.expand * d))
        return self.monarch("down", self.activation(hidden), d).reshape(x.shape)

    def monarch(self, name: str, x: jax.Array, width: int) -> jax.Array:
        """A Monarch matrix: (n, fan_in) -> (n, width)."""
        n, fan_in, k = *x.shape, self.blocks
        if fan_in % k or width % k:
            raise ValueError(f"Monarch cuts widths {fan_in} and {width} into {k} blocks; they must be multiples of it.")
        kernel, inner = nn.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=(0,)), min(fan_in, width) // k
        first = self.param(f"{name}_in", kernel, (k, fan_in // k, inner)).astype(x.dtype)
        second = self.param(name, kernel, (k, inner, width // k)).astype(x.dtype)
        middle = jnp.einsum("nki,kio->nko", x.reshape(n, k, -1), first)
        swapped = middle.swapaxes(1, 2).reshape(n, k, inner)
        return jnp.einsum("nki,kio->nok", swapped, second).reshape(n, width)
