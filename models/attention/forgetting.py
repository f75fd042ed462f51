"""Attention with a data-dependent forget gate."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.attention.core import Reach, attend, locate_sources, locate_tokens
from models.attention.weigh import Softmax
from models.cache import extend
from models.context import Context
from models.contracts import Norm
from models.projection import merge, norm_heads, project
from models.recurrence.scan import recur
from models.structure import copy_as, require_positive


class ForgettingAttention(nn.Module):
    """softmax(q k^T / sqrt(k) + D) v with D_ij = sum of log f over j + 1 ... i and f = sigmoid(w x + b) a head.

    (b, t, d) -> (b, t, d).  Always causal, and needs no positions.  FoX, arXiv:2503.02130.  `qk_norm` and `gate` are
    those of its Pro form, without the shift of keys and values.  b starts at 4, so that forgetting begins slowly.
    """

    heads: int = 8
    qk_norm: Norm | None = None
    gate: bool = False
    causal: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "heads")
        if not self.causal:
            raise ValueError("ForgettingAttention forgets the past and has no other direction; causal must be true.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        b, t, d = x.shape
        if d % self.heads:
            raise ValueError(f"ForgettingAttention splits width {d} over {self.heads} heads; they must divide it.")
        h, k, tokens, reach = self.heads, d // self.heads, locate_tokens(ctx, t), Reach(True)
        query, key, value = (project(name, x, h, k) for name in ("query", "key", "value"))
        if self.qk_norm is not None:
            query, key = (
                norm_heads(copy_as(self.qk_norm, "query_norm"), query),
                norm_heads(copy_as(self.qk_norm, "key_norm"), key),
            )
        forget = jax.nn.log_sigmoid(
            nn.Dense(h, bias_init=nn.initializers.constant(4.0), name="forget")(x).astype(jnp.float32)
        )
        total = recur(self, ctx, jnp.ones_like(forget), forget).swapaxes(1, 2)  # sums start anew with each example
        kept = (("keys", key), ("values", value), ("totals", total))
        key, value, totals = (extend(self, ctx, name, new, 2) for name, new in kept)
        other, scale = locate_sources(self, ctx, t, None), ctx.score_scale(k)
        mixed = attend(query, key, value, tokens, other, reach, Softmax(), scale, decay=(total, totals))
        if self.gate:
            mixed = mixed * jax.nn.sigmoid(project("gate", x, h, k))
        return nn.Dense(d, use_bias=False, name="out")(merge(mixed)).reshape(b, t, d)
