"""Attention that uses what an earlier layer of the stack computed."""

import flax.linen as nn
import jax

from models.attention.softmax import Attention
from models.context import Context
from models.contracts import Tree


class ValueResidual(Attention):
    """Attention whose values are v <- a v + b v_1, v_1 those of the first such layer, a and b learned scalars.

    a and b start at 1/2.  (b, t, d) -> (b, t, d).  ResFormer, arXiv:2410.17897.  The first layer gives its values to
    the later ones: under a scan it stands in the stack's `prefix`.
    """

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> Tree:
        query, key, value = self.project_all(x, ctx)
        first = ctx.shared.get("values")
        if first is None:
            return self.mix(x, ctx, *self.keep(ctx, key, value), query), {"values": value}
        a, b = (self.param(name, nn.initializers.constant(0.5), ()).astype(value.dtype) for name in ("own", "first"))
        return self.mix(x, ctx, *self.keep(ctx, key, a * value + b * first), query)


class SharedAttention(Attention):
    """Attention whose keys and values serve later layers that set `reuse`, which have none of their own and no cache.

    (b, t, d) -> (b, t, d).  Cross-layer attention, arXiv:2405.12981: pairs are the pattern `(Block(SharedAttention()),
    Block(SharedAttention(reuse=True)))`; with the giving layer in the stack's `prefix` one set serves all (YOCO,
    arXiv:2405.05254).  Raises ValueError if `reuse` finds nothing to use.
    """

    reuse: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> Tree:
        if not self.reuse:
            query, key, value = self.project_all(x, ctx)
            kept = self.keep(ctx, key, value)
            return self.mix(x, ctx, *kept, query), {"kept": kept}
        if "kept" not in ctx.shared:
            raise ValueError(
                "SharedAttention(reuse=True) found no keys of an earlier layer; put a SharedAttention() before it."
            )
        return self.mix(x, ctx, *ctx.shared["kept"])
