"""Heads: the outputs of a model, as logits over the vocabulary, classes or values."""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import gelu, relu
from models.context import Context
from models.contracts import Activation, Layer, Norm, Pool
from models.dropout import Dropout
from models.feedforward import GLU
from models.norm import LayerNorm, RMSNorm
from models.projected import Projected
from models.roles import SCALED, Roles
from models.structure import copy_as, require_positive


class FirstToken(nn.Module):
    """The hidden vector of each example's first token; with `project`, BERT's pooler tanh(W h + b).  arXiv:1810.04805.

    (b, t, d) -> (b, d), or (b, n, d) if rows are packed.
    """

    project: bool = False

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context) -> jax.Array:
        first = hidden[:, 0] if ctx.starts is None else jnp.take_along_axis(hidden, ctx.starts[..., None], axis=1)
        return jnp.tanh(nn.Dense(hidden.shape[-1], name="project")(first)) if self.project else first


class MeanPool(nn.Module):
    """The mean of each example's hidden vectors, padding left out.  (b, t, d) -> (b, d), or (b, n, d) if rows are packed."""

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context) -> jax.Array:
        b, t, _ = hidden.shape
        segments = jnp.ones((b, t), jnp.int32) if ctx.segments is None else ctx.segments
        starts = jnp.zeros((b, 1), jnp.int32) if ctx.starts is None else ctx.starts
        numbers = jnp.take_along_axis(segments, starts, axis=1)  # (b, n): the segment that each example is
        member = ((segments[:, None] == numbers[..., None]) & (segments[:, None] > 0)).astype(jnp.float32)
        total = jnp.einsum("bnt,btd->bnd", member, hidden.astype(jnp.float32))
        mean = (total / jnp.maximum(member.sum(-1, keepdims=True), 1.0)).astype(hidden.dtype)
        return mean[:, 0] if ctx.starts is None else mean


class EveryToken(nn.Module):
    """The hidden vector of every token, or of each `step`-th from `first` on: outputs for tokens, not for examples.

    (b, t, d) -> (b, t / step, d), or of the last tokens alone if `first` is negative and counts from the end.
    """

    step: int = 1
    first: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "step")
        if self.first >= self.step:
            raise ValueError(f"EveryToken has first {self.first} and step {self.step}; first is below step, or counts from the end.")
        super().__post_init__()

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context) -> jax.Array:
        return hidden[:, self.first :: self.step]


class ClassHead(nn.Module):
    """Logits over classes from a pooled vector: W dropout(pool(h)) + b.  (b, t, d) -> (b, c), or (b, n, c) if packed."""

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
    """Real values from a pooled vector: W dropout(pool(h)) + b.  (b, t, d) -> (b, values), or (b, n, values) if packed."""

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
    """A class and a box from every token.  (b, t, d) -> `logits` (b, t, c) and `boxes` (b, t, 4) = sigmoid(MLP(h) + start).

    Boxes are centre x, centre y, width, height as fractions of the image; the MLP has two hidden layers (DETR,
    arXiv:2005.12872).  With `grid` (rows, columns) the tokens are the cells of an image row by row, and `start` is a box
    in the middle of the cell (anchors as in arXiv:2010.04159); otherwise it is 0.  Logits start at a probability of 0.01
    (arXiv:1708.02002).  Raises ValueError for another number of tokens than the grid's.
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
                raise ValueError(f"BoxHead has a grid of {self.grid} and {hidden.shape[1]} tokens; change its grid or the embed.")
            y, x = jnp.divmod(jnp.arange(rows * columns), columns)
            side = jnp.full(rows * columns, 0.15)
            middle = jnp.stack([(x + 0.5) / columns, (y + 0.5) / rows, side, side], axis=-1)
            start = (jnp.log(middle) - jnp.log1p(-middle)).astype(hidden.dtype)
        prior = nn.initializers.constant(-math.log(99))
        logits = nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.02), bias_init=prior, name="class")(hidden)
        moved = relu(nn.Dense(d, name="box_1")(relu(nn.Dense(d, name="box_0")(hidden))))
        moved = nn.Dense(4, kernel_init=nn.initializers.normal(0.02), name="box")(moved)
        return {"logits": logits, "boxes": jax.nn.sigmoid(moved + start)}


class Transform(nn.Module):
    """norm(activation(W h + b)), before the vocabulary in BERT's masked-language head.  (b, t, d) -> (b, t, d).  arXiv:1810.04805."""

    activation: Activation = gelu
    norm: Norm = LayerNorm()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return self.norm(self.activation(nn.Dense(x.shape[-1], name="dense")(x)))


class LogitsHead(nn.Module):
    """Logits over the vocabulary: h E^T (+ bias).  (b, t, d) -> (b, t, v).  `tied`: E is the token embedding, arXiv:1608.05859.

    `cap` bounds them by cap * tanh(logits / cap) (Gemma 2, arXiv:2408.00118).  An untied table has as many rows as the
    embedding, or `vocab`.  With `chunk` the logits are left to the loss, which computes them for that many tokens of a
    device at a time and never materialises all.
    """

    roles: ClassVar[Roles] = {"table": SCALED}
    tied: bool = True
    bias: bool = False
    transform: Layer | None = None
    cap: float | None = None
    vocab: int | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None:
            require_positive(self, "chunk")
        if self.tied and self.vocab is not None:
            raise ValueError("LogitsHead is tied to the token embedding, whose vocabulary it has; leave vocab out, or set tied=False.")
        if self.cap is not None:
            require_positive(self, "cap")
        super().__post_init__()

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context, table: jax.Array | None) -> Any:
        if table is None and self.vocab is None:
            raise ValueError(
                "LogitsHead takes its vocabulary from the token embedding, and this model's embed has no table; set tied=False and vocab."
            )
        x = hidden if self.transform is None else self.transform(hidden, ctx)
        if not self.tied:
            rows = self.vocab if self.vocab is not None else table.shape[0] if table is not None else 0
            table = self.param("table", nn.initializers.normal(0.02), (rows, x.shape[-1]))
        assert table is not None
        x = x * ctx.logit_scale(x.shape[-1])
        bias = self.param("bias", nn.initializers.zeros, (table.shape[0],)) if self.bias else None
        if self.chunk is not None and ctx.decoding is None:
            return Projected(x, table, bias, self.cap, self.chunk)
        logits = jnp.einsum("btd,vd->btv", x, table)
        logits = logits if bias is None else logits + bias
        return logits if self.cap is None else self.cap * jnp.tanh(logits / self.cap)


class MultiTokenHead(nn.Module):
    """Logits of the next `tokens` tokens: transform_n(h) E^T for n = 1 ... N.  (b, t, d) -> (b, t, n, v); (b, t, v) while decoding.

    arXiv:2404.19737, whose transforms are whole transformer layers; here each is any layer around the residual stream,
    h + layer(norm(h)).  E is the token embedding.  `chunk` is LogitsHead's: N times as many logits never materialise.
    """

    tokens: int = 4
    transform: Layer = GLU()
    norm: Norm = RMSNorm()
    chunk: int | None = None

    def __post_init__(self) -> None:
        require_positive(self, "tokens")
        if self.chunk is not None:
            require_positive(self, "chunk")
        super().__post_init__()

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context, table: jax.Array | None) -> Any:
        if table is None:
            raise ValueError("MultiTokenHead takes its vocabulary from the token embedding, and this model's embed has no table.")
        ahead = [
            hidden + copy_as(self.transform, f"transform_{n}")(copy_as(self.norm, f"norm_{n}")(hidden), ctx)
            for n in range(self.tokens if ctx.decoding is None else 1)
        ]
        x = jnp.stack(ahead, axis=2) * ctx.logit_scale(hidden.shape[-1])
        if self.chunk is not None and ctx.decoding is None:
            return Projected(x, table, chunk=self.chunk)
        logits = jnp.einsum("btnd,vd->btnv", x, table)
        return logits if ctx.decoding is None else logits[:, :, 0]
