"""Attention as the difference of two softmaxes."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.attention.core import Reach, attend, locate_sources, locate_tokens
from models.attention.weigh import Softmax
from models.backend.implementation import Implementation
from models.cache import extend
from models.context import Context
from models.contracts import Position
from models.norm import RMSNorm
from models.projection import merge, project
from models.roles import Role, Roles
from models.structure import require_positive


class DifferentialAttention(nn.Module):
    """(softmax(q_1 k_1^T / sqrt(k)) - l softmax(q_2 k_2^T / sqrt(k))) v, normalised a head and times 1 - l_0.

    (b, t, d) -> (b, t, d).  l = exp(a_1 b_1) - exp(a_2 b_2) + l_0 with learned vectors a, b and l_0 = 0.8 - 0.6
    exp(-0.3 layer).  Heads have values twice as wide as keys, so `heads` is half of what attention of the same cost
    has.  arXiv:2410.05258, the first version of microsoft/unilm, without its heads that share keys and values; layers
    count from 0, as there.
    """

    # two vectors each
    roles: ClassVar[Roles] = {name: Role(decay=False, inputs=()) for name in ("query_weight", "key_weight")}
    heads: int = 4
    causal: bool = False
    window: int | None = None
    position: Position | None = None
    implementation: Implementation | None = None  # None: chosen by platform and call

    def __post_init__(self) -> None:
        require_positive(self, "heads")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        b, t, d = x.shape
        if d % (2 * self.heads):
            raise ValueError(
                f"DifferentialAttention splits width {d} over twice {self.heads} heads; these must divide it."
            )
        if ctx.decoding is not None and not self.causal:
            raise ValueError(
                "DifferentialAttention that sees later tokens cannot decode one token after the other; set causal=True."
            )
        h, k, tokens, reach = self.heads, d // (2 * self.heads), locate_tokens(ctx, t), Reach(self.causal, self.window)
        query, key = project("query", x, 2 * h, k), project("key", x, 2 * h, k)
        if self.position is not None:
            query, key = (self.position(part, tokens.positions[:, None]) for part in (query, key))
        value = project("value", x, h, 2 * k)
        key, value = (extend(self, ctx, name, new, 2, reach.span) for name, new in (("keys", key), ("values", value)))
        other = locate_sources(self, ctx, t, reach.span)
        values = jnp.repeat(value, 2, axis=1)  # a head's two stand side by side
        scale = ctx.score_scale(k)
        both = attend(query, key, values, tokens, other, reach, Softmax(), scale, implementation=self.implementation)
        both = both.reshape(b, h, 2, t, 2 * k).astype(jnp.float32)
        start = 0.8 - 0.6 * jnp.exp(-0.3 * jnp.asarray(ctx.layer, jnp.float32))
        learned = nn.initializers.normal(0.1)
        vectors = [self.param(name, learned, (2, k)).astype(jnp.float32) for name in ("query_weight", "key_weight")]
        left, right = jnp.exp(ctx.product_scale(k) * jnp.sum(vectors[0] * vectors[1], axis=-1))
        mixed = both[:, :, 0] - (left - right + start) * both[:, :, 1]
        mixed = (RMSNorm(1e-5, name="norm")(mixed) * (1 - start)).astype(x.dtype)
        return nn.Dense(d, use_bias=False, name="out")(merge(mixed)).reshape(b, t, d)
