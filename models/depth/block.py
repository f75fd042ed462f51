"""One layer of depth."""

import dataclasses

import flax.linen as nn
import jax

from models.attention.softmax import Attention
from models.context import Context
from models.contracts import Layer, Residual, Tree
from models.dropout import Dropout
from models.feedforward import MLP
from models.residual.single import PreNorm
from models.structure import copy_as


class Block(nn.Module):
    """state <- residual(state, mixer), then the same around `cross` if it is set, then around `feedforward`.

    Each branch has its own copy of `residual`, and dropout on its output.  (state, ctx) -> (state, ctx): a layer may
    return `(y, {name: value})` instead of y alone, and later layers find the value in `ctx.shared`.  state (b, t, d)
    for most residuals.
    """

    mixer: Layer = Attention()
    feedforward: Layer | None = MLP()
    residual: Residual = PreNorm()
    cross: Layer | None = None  # attention to ctx.memory, in a decoder
    dropout: float = 0.0

    @property
    def layers(self) -> dict[str, Layer]:
        """The layer of each branch, by name and in order."""
        layers = {"mixer": self.mixer, "cross": self.cross, "feedforward": self.feedforward}
        return {name: layer for name, layer in layers.items() if layer is not None}

    def take_stream(self, state: Tree, ctx: Context) -> jax.Array:
        """The stream (b, t, d) of the residual's state."""
        reduce = getattr(self.residual, "reduce", None)
        return reduce(state, ctx) if reduce else state

    @nn.compact
    def __call__(self, state: Tree, ctx: Context) -> tuple[Tree, Context]:
        layers = self.layers
        for index, (name, layer) in enumerate(layers.items()):
            shared: dict[str, Tree] = {}
            ctx = dataclasses.replace(ctx, branch=index, branches=len(layers))

            def branch(
                x: jax.Array,
                layer: Layer = layer,
                name: str = name,
                shared: dict[str, Tree] = shared,
                ctx: Context = ctx,
            ) -> jax.Array:
                y: Tree = layer(x, ctx)
                if isinstance(y, tuple):
                    y, more = y
                    shared.update(more)
                y = Dropout(self.dropout, name=f"{name}_dropout")(y, ctx)
                return y if ctx.base is None else y * ctx.branch_scale

            state = copy_as(self.residual, f"{name}_residual")(state, branch, ctx)
            ctx = dataclasses.replace(ctx, shared={**ctx.shared, **shared})
        return state, ctx
