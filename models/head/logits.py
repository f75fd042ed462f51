"""Heads of language models: logits over the vocabulary."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import gelu
from models.context import Context
from models.contracts import Activation, Layer, Norm
from models.feedforward import GLU
from models.head.chunked import Projected
from models.norm import LayerNorm, RMSNorm
from models.roles import SCALED, Roles
from models.structure import copy_as, require_positive


class Transform(nn.Module):
    """norm(activation(W h + b)), before the vocabulary in BERT's masked-language head.  (b, t, d) -> (b, t, d).

    arXiv:1810.04805.
    """

    activation: Activation = gelu
    norm: Norm = LayerNorm()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return self.norm(self.activation(nn.Dense(x.shape[-1], name="dense")(x)))


class LogitsHead(nn.Module):
    """Logits over the vocabulary: h E^T (+ bias).  (b, t, d) -> (b, t, v).

    `tied`: E is the token embedding, arXiv:1608.05859.  `cap` bounds them by cap * tanh(logits / cap) (Gemma 2,
    arXiv:2408.00118).  An untied table has as many rows as the embedding, or `vocab`.  With `chunk` the logits are left
    to the loss, which computes them for that many tokens of a device at a time and never materialises all.
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
            raise ValueError(
                "LogitsHead is tied to the token embedding, whose vocabulary it has; leave vocab out, or set"
                " tied=False."
            )
        if self.cap is not None:
            require_positive(self, "cap")
        super().__post_init__()

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context, table: jax.Array | None) -> jax.Array | Projected:
        if table is None and self.vocab is None:
            raise ValueError(
                "LogitsHead takes its vocabulary from the token embedding, and this model's embed has no table; set"
                " tied=False and vocab."
            )
        x = hidden if self.transform is None else self.transform(hidden, ctx)
        x = x if ctx.decoding is None else ctx.decoding.choose(x)
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
    """Logits of the next `tokens` tokens: transform_n(h) E^T for n = 1 ... N.

    (b, t, d) -> (b, t, n, v); (b, t, v) while decoding.  arXiv:2404.19737, whose transforms are whole transformer
    layers; here each is any layer around the residual stream, h + layer(norm(h)).  E is the token embedding.  `chunk`
    is LogitsHead's: N times as many logits never materialise.
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
    def __call__(self, hidden: jax.Array, ctx: Context, table: jax.Array | None) -> jax.Array | Projected:
        if table is None:
            raise ValueError(
                "MultiTokenHead takes its vocabulary from the token embedding, and this model's embed has no table."
            )
        ahead = [
            hidden + copy_as(self.transform, f"transform_{n}")(copy_as(self.norm, f"norm_{n}")(hidden), ctx)
            for n in range(self.tokens if ctx.decoding is None else 1)
        ]
        x = jnp.stack(ahead, axis=2) * ctx.logit_scale(hidden.shape[-1])
        if self.chunk is not None and ctx.decoding is None:
            return Projected(x, table, chunk=self.chunk)
        x = x if ctx.decoding is None else ctx.decoding.choose(x)
        logits = jnp.einsum("btnd,vd->btnv", x, table)
        return logits if ctx.decoding is None else logits[:, :, 0]
