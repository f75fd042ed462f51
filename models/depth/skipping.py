"""Blocks that not every token passes through."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.context import Context
from models.contracts import Tree
from models.depth.block import Block
from models.experts.routing import choose_highest
from models.structure import require_positive


class MixtureOfDepths(Block):
    """A block for the share `capacity` of the tokens: state_i + r_i * (block(state)_i - state_i).  arXiv:2404.02258.

    r = sigmoid(w . x); of each example of m tokens the m * capacity with the largest r are taken, rounded down, in
    their order; the paper weighs by w . x itself.  The block sees only these, with their positions and segments; its
    layers neither read nor give ctx.shared.  (state, ctx) -> (state, ctx), state of any leaves (b, t, ...).  Choosing
    compares with later tokens, so it cannot decode.
    """

    capacity: float = 0.125
    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_positive(self, "capacity")
        if self.capacity > 1:
            raise ValueError(
                f"MixtureOfDepths.capacity is {self.capacity}; it is a share of the tokens, so give 1 at most."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, state: Tree, ctx: Context) -> tuple[Tree, Context]:
        if ctx.decoding is not None:
            raise ValueError(
                "MixtureOfDepths compares a token with later ones and cannot decode one token after the other."
            )
        x = self.take_stream(state, ctx)
        b, t, d = x.shape
        logits = nn.Dense(1, use_bias=False, dtype=jnp.float32, name="router")(x.reshape(-1, d)).reshape(b, 1, t)
        index, valid = (part[:, 0] for part in choose_highest(logits, ctx.segments, self.capacity))
        positions = jnp.broadcast_to(jnp.arange(t)[None] if ctx.positions is None else ctx.positions, (b, t))
        segments = None if ctx.segments is None else jnp.take_along_axis(ctx.segments, index, axis=1) * valid
        inner = dataclasses.replace(
            ctx,
            positions=jnp.take_along_axis(positions, index, axis=1),
            segments=segments,
            tokens=None if ctx.tokens is None else jnp.take_along_axis(ctx.tokens, index, axis=1),
            shared={},
        )
        taken = jax.tree.map(lambda leaf: jax.vmap(lambda row, indices: row[indices])(leaf, index), state)
        new, _ = super().__call__(taken, inner)
        weight = jnp.where(valid, nn.sigmoid(jnp.take_along_axis(logits[:, 0], index, axis=1)), 0)

        def add_back(leaf: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
            change = (after - before) * weight.reshape(*weight.shape, *[1] * (leaf.ndim - 2)).astype(leaf.dtype)
            return jax.vmap(lambda row, indices, rows: row.at[indices].add(rows))(leaf, index, change)

        return jax.tree.map(add_back, state, taken, new), ctx
