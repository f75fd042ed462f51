"""Embeddings of numbers: features, trajectories, and learned queries."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.cache import index_new
from models.context import Context
from models.contracts import Batch, Position
from models.embed.tokens import add_positions
from models.roles import SCALED, Roles
from models.structure import require_positive


class QueryEmbed(nn.Module):
    """`queries` learned vectors, the same for every example: the object queries of DETR (arXiv:2005.12872).

    Gives (b, queries, d).
    """

    roles: ClassVar[Roles] = {"query": SCALED}  # a stream, not a kernel
    queries: int = 100
    width: int = 256

    def __post_init__(self) -> None:
        require_positive(self, "queries", "width")
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        table = self.param("query", nn.initializers.normal(1.0), (self.queries, self.width))
        b = next(iter(batch.values())).shape[0]
        plain = dataclasses.replace(ctx, positions=None, segments=None, starts=None)
        return add_positions(jnp.broadcast_to(table, (b, *table.shape)), plain, None)


class FeatureEmbed(nn.Module):
    """W f + b for continuous features.  Reads `features` (b, t, any width); gives (b, t, d)."""

    width: int = 512
    position: Position | None = None

    def __post_init__(self) -> None:
        require_positive(self, "width")
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        return add_positions(nn.Dense(self.width, name="in")(batch["features"]), ctx, self.position)


class TrajectoryEmbed(nn.Module):
    """Three tokens a step, a map of each of return to go, features and action, with one position.

    Decision Transformer, arXiv:2106.01345.  Reads `returns` (b, t, 1), `features` (b, t, k), `actions` (b, t, m),
    `positions` (b, t); gives (b, 3 t, d), in that order.  Under causal attention the output at the features' tokens
    does not depend on the action of the same step: `EveryToken(3, 1)` selects it.
    """

    width: int = 128
    position: Position | None = None

    def __post_init__(self) -> None:
        require_positive(self, "width")
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        x = [nn.Dense(self.width, name=name)(batch[name]) for name in ("returns", "features", "actions")]
        b, t, d = x[0].shape
        positions = index_new(ctx, t)[None] if ctx.positions is None else ctx.positions
        x = x if self.position is None else [self.position(part, positions) for part in x]
        interleaved = (3 * positions[..., None] + jnp.arange(3)).reshape(positions.shape[0], 3 * t)
        segments = None if ctx.segments is None else jnp.repeat(ctx.segments, 3, axis=1)
        starts = None if ctx.starts is None else 3 * ctx.starts
        return jnp.stack(x, axis=2).reshape(b, 3 * t, d), dataclasses.replace(
            ctx, positions=interleaved, segments=segments, starts=starts
        )
