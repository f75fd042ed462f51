"""Layers that transform each token by itself."""

import flax.linen as nn
import jax

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
