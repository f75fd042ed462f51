"""One layer of depth."""

from typing import Any

import flax.linen as nn
import jax

from models.attention import Attention
from models.context import Context
from models.contracts import Layer, Residual
from models.dropout import Dropout
from models.feedforward import MLP
from models.residual import PreNorm
from models.structure import named


class Block(nn.Module):
    """state <- residual(state, mixer), then the same around `cross` where there is one, then around `feedforward`.

    Each branch has its own copy of `residual`, and dropout on what it gives.  state -> state, (b, t, d) for most residuals.
    """

    mixer: Layer = Attention()
    feedforward: Layer | None = MLP()
    residual: Residual = PreNorm()
    cross: Layer | None = None  # attention to ctx.memory, in a decoder
    dropout: float = 0.0

    @nn.compact
    def __call__(self, state: Any, ctx: Context) -> Any:
        for name, layer in (("mixer", self.mixer), ("cross", self.cross), ("feedforward", self.feedforward)):
            if layer is not None:

                def branch(x: jax.Array, layer: Layer = layer, name: str = name) -> jax.Array:
                    return Dropout(self.dropout, name=f"{name}_dropout")(layer(x, ctx), ctx)

                state = named(self.residual, f"{name}_residual")(state, branch)
        return state
