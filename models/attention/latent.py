"""Attention through a compressed latent."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.attention.core import Reach, attend, locate_sources, locate_tokens
from models.attention.weigh import Softmax
from models.backend.implementation import Implementation
from models.cache import extend
from models.context import Context
from models.contracts import Norm, Position, Weigh
from models.norm import RMSNorm
from models.position import RoPE
from models.projection import merge, project
from models.structure import copy_as, require_positive


class LatentAttention(nn.Module):
    """Multi-head latent attention: c = norm(W x), keys and values U c; softmax([q, q_r] [k, k_r]^T / sqrt(k + r)) v.

    (b, t, d) -> (b, t, d).  DeepSeek-V2, arXiv:2405.04434.  c has width `rank`.  q_r and the one k_r that all heads
    share, `rotary` wide, carry the position.  Decoding keeps c and k_r only, rank + rotary numbers a token, and moves U
    to the side of the queries.  `query_rank` compresses the queries too.  Values are as wide as keys unless
    `value_width` is given; the released model's are: 128, with rotary 64, rank 512 and query_rank 1536, at width 5120.
    """

    heads: int = 8
    rank: int = 128
    rotary: int = 32
    head_width: int | None = None  # None: d / heads
    value_width: int | None = None  # None: head_width
    query_rank: int | None = None
    causal: bool = False
    position: Position = RoPE()
    norm: Norm = RMSNorm()
    weigh: Weigh = Softmax()
    implementation: Implementation | None = None  # None: chosen by platform and call

    def __post_init__(self) -> None:
        require_positive(self, "heads", "rank", "rotary")
        require_positive(
            self, *(name for name in ("head_width", "value_width", "query_rank") if getattr(self, name) is not None)
        )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        b, t, d = x.shape
        if ctx.decoding is not None and not self.causal:
            raise ValueError(
                "LatentAttention that sees later tokens cannot decode one token after the other; set causal=True."
            )
        h, r, k, tokens = self.heads, self.rank, self.head_width or max(d // self.heads, 1), locate_tokens(ctx, t)
        positions = tokens.positions[:, None]
        source = x
        if self.query_rank is not None:
            source = copy_as(self.norm, "query_norm")(project("query_compress", x, 1, self.query_rank)[:, 0])
        query = project("query", source, h, k)
        query_rotary = self.position(project("query_rotary", source, h, self.rotary), positions)
        latent = copy_as(self.norm, "latent_norm")(project("compress", x, 1, r)[:, 0])
        key_rotary = self.position(project("key_rotary", x, 1, self.rotary), positions)
        initial, widths = nn.initializers.lecun_normal(), {"up_key": k, "up_value": self.value_width or k}
        up_key, up_value = (
            self.param(name, initial, (r, h * w)).reshape(r, h, w).astype(x.dtype) for name, w in widths.items()
        )
        reach, scale = Reach(self.causal), ctx.score_scale(k + self.rotary)
        latents, rotaries = extend(self, ctx, "latents", latent, 1), extend(self, ctx, "rotaries", key_rotary, 2)
        sources = locate_sources(self, ctx, t, None)
        if sources is None:
            key = jnp.einsum("btr,rhk->bhtk", latent, up_key)
            key = jnp.concatenate([key, jnp.broadcast_to(key_rotary, (b, h, t, self.rotary))], -1)
            value = jnp.einsum("btr,rhv->bhtv", latent, up_value)
            query = jnp.concatenate([query, query_rotary], -1)
            mixed = attend(
                query, key, value, tokens, None, reach, self.weigh, scale, implementation=self.implementation
            )
        else:
            absorbed = jnp.concatenate([jnp.einsum("bhtk,rhk->bhtr", query, up_key), query_rotary], -1)
            key = jnp.concatenate([latents[:, None], rotaries], -1)
            mixed = attend(absorbed, key, latents[:, None], tokens, sources, reach, self.weigh, scale)
            mixed = jnp.einsum("bhtr,rhv->bhtv", mixed, up_value)
        return nn.Dense(d, use_bias=False, name="out")(merge(mixed)).reshape(b, t, d)
