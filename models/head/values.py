"""Heads of classes, values and boxes."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import relu
from models.context import Context
from models.contracts import Pool
from models.dropout import Dropout
from models.head.pool import FirstToken
from models.structure import require_positive


class ClassHead(nn.Module):
    """Logits over classes from a pooled vector: W dropout(pool(h)) + b.

    (b, t, d) -> (b, c), or (b, n, c) if packed.
    """

    classes: int = 2
    pool: Pool = FirstToken()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "classes")
        super().__post_init__()

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context, table: jax.Array | None) -> jax.Array:
        pooled = Dropout(self.dropout)(self.pool(hidden, ctx), ctx)
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.02), name="out")(pooled)


class ValueHead(nn.Module):
    """Real values from a pooled vector: W dropout(pool(h)) + b.

    (b, t, d) -> (b, values), or (b, n, values) if packed.
    """

    values: int = 1
    pool: Pool = FirstToken()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "values")
        super().__post_init__()

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context, table: jax.Array | None) -> jax.Array:
        pooled = Dropout(self.dropout)(self.pool(hidden, ctx), ctx)
        return nn.Dense(self.values, kernel_init=nn.initializers.normal(0.02), name="out")(pooled)


class BoxHead(nn.Module):
    """A class and a box from every token.

    (b, t, d) -> `logits` (b, t, c) and `boxes` (b, t, 4) = sigmoid(MLP(h) + start).  Boxes are centre x, centre y,
    width, height as fractions of the image; the MLP has two hidden layers (DETR, arXiv:2005.12872).  With `grid` (rows,
    columns) the tokens are the cells of an image row by row, and `start` is a box in the middle of the cell (anchors as
    in arXiv:2010.04159); otherwise it is 0.  Logits start at a probability of 0.01 (arXiv:1708.02002).  Raises
    ValueError for another number of tokens than the grid's.
    """

    classes: int = 80
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        require_positive(self, "classes")
        if self.grid is not None and min(self.grid) < 1:
            raise ValueError(f"BoxHead.grid is {self.grid}; give rows and columns above 0.")
        super().__post_init__()

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context, table: jax.Array | None) -> dict[str, jax.Array]:
        d, start = hidden.shape[-1], jnp.zeros(4, hidden.dtype)
        if self.grid is not None:
            rows, columns = self.grid
            if hidden.shape[1] != rows * columns:
                raise ValueError(
                    f"BoxHead has a grid of {self.grid} and {hidden.shape[1]} tokens; change its grid or the embed."
                )
            y, x = jnp.divmod(jnp.arange(rows * columns), columns)
            side = jnp.full(rows * columns, 0.15)
            middle = jnp.stack([(x + 0.5) / columns, (y + 0.5) / rows, side, side], axis=-1)
            start = (jnp.log(middle) - jnp.log1p(-middle)).astype(hidden.dtype)
        prior = nn.initializers.constant(-math.log(99))
        logits = nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.02), bias_init=prior, name="class")(hidden)
        moved = relu(nn.Dense(d, name="box_1")(relu(nn.Dense(d, name="box_0")(hidden))))
        moved = nn.Dense(4, kernel_init=nn.initializers.normal(0.02), name="box")(moved)
        return {"logits": logits, "boxes": jax.nn.sigmoid(moved + start)}
