"""Layers along some axes of a grid of tokens: space and time apart."""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax

from models.attention.softmax import Attention
from models.context import Context
from models.contracts import Layer
from models.mixers.noncausal import refuse_decoding


class Along(nn.Module):
    """Applies `mixer` along `axes` of a grid of tokens, independently over all other axes.  (b, t, d) -> (b, t, d).

    The tokens are the cells of `grid`, the last axis running fastest; the first size may be -1, to be inferred from t.
    With (8, 7, 7) for a video, `axes` (0,) mixes over time and (1, 2) over space.  In one block after the other,
    `Stack((Block(Along(grid, (1, 2)), None), Block(Along(grid, (0,)))))`, that is model 3 of ViViT (arXiv:2103.15691),
    and time first the divided attention of TimeSformer (arXiv:2102.05095), both without a class token; one axis in each
    block is axial attention (arXiv:1912.12180).  Each slice along `axes` is an example by itself: positions count along
    it from 0, and `mixer` neither reads nor gives ctx.shared, nor reads a memory.
    Raises ValueError for tokens that do not fill the grid, for axes that it does not have, and for decoding.
    """

    causal: ClassVar[bool] = False
    grid: tuple[int, ...] = (-1, 16, 16)
    axes: tuple[int, ...] = (0,)
    mixer: Layer = Attention()

    def __post_init__(self) -> None:
        if not self.grid or min((*self.grid[1:], 1)) < 1 or (self.grid[0] < 1 and self.grid[0] != -1):
            raise ValueError(
                f"Along.grid is {self.grid}; give the number of places along each axis, above 0, or -1 for the first."
            )
        if not self.axes or list(self.axes) != [axis for axis in range(len(self.grid)) if axis in self.axes]:
            raise ValueError(
                f"Along.axes is {self.axes} and the grid has {len(self.grid)}; give some of them, from 0, in their"
                " order."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        refuse_decoding(self, ctx)
        b, t, d = x.shape
        rest = math.prod(self.grid[1:])
        grid = (t // rest if self.grid[0] == -1 else self.grid[0], *self.grid[1:])
        if t != math.prod(grid):
            raise ValueError(
                f"The input has {t} tokens, which do not fill Along's grid {self.grid}; change the grid or the embed."
            )
        order = sorted(range(len(grid)), key=lambda axis: axis in self.axes)  # untouched axes first, then mixed ones
        back = [order.index(axis) for axis in range(len(grid))]
        sizes = [grid[axis] for axis in order]
        cells = math.prod(grid[axis] for axis in self.axes)

        def rows(leaf: jax.Array) -> jax.Array:  # (b, t, ...) -> (b * rows, cells, ...)
            apart = leaf.reshape(b, *grid, -1).transpose(0, *(axis + 1 for axis in order), len(grid) + 1)
            return apart.reshape(-1, cells, *leaf.shape[2:])

        segments = None if ctx.segments is None else rows(ctx.segments)
        tokens = None if ctx.tokens is None else rows(ctx.tokens)
        inner = dataclasses.replace(
            ctx, positions=None, segments=segments, starts=None, memory=None, tokens=tokens, shared={}
        )
        y = self.mixer(rows(x), inner)
        y = y[0] if isinstance(y, tuple) else y
        return y.reshape(b, *sizes, d).transpose(0, *(axis + 1 for axis in back), len(grid) + 1).reshape(b, t, d)
