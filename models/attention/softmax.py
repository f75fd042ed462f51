"""Softmax attention."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.attention.core import Reach, Tokens, attend, locate_sources, locate_tokens
from models.attention.weigh import Softmax
from models.backend.implementation import Implementation
from models.cache import extend, remember
from models.context import Context
from models.contracts import Norm, Position, Relative, Weigh
from models.dropout import Dropout
from models.projection import merge, norm_heads, project, project_together
from models.structure import copy_as


class Attention(nn.Module):
    """softmax(q k^T / sqrt(k)) v over `heads` heads.  (b, t, d) -> (b, t, d).  arXiv:1706.03762.

    `kv_heads` keys and values are shared by groups of query heads: as many as heads is multi-head, 1 is multi-query
    (arXiv:1911.02150), between is grouped-query (arXiv:2305.13245).  `window` lets token i see |i - j| < window
    (arXiv:2004.05150), `chunk` only the tokens of the same chunk of that many, counted from the first token of its
    example (arXiv:1904.10509); both cost t times their size.
    `cross` reads keys and values from `ctx.memory`.  `position` acts on queries and keys, `relative` on scores;
    `qk_norm` normalises queries and keys first (arXiv:2010.04245).  `weigh` turns scores into weights.  `gate`
    multiplies each head's output by a sigmoid of the input (arXiv:2505.06708).  Tokens never see another segment.
    Scores and softmax are float32.  `implementation` is the program that computes it, chosen by platform and call if
    it is None: see `models.backend.implementation`.
    Raises ValueError for heads that kv_heads does not divide, for a causal or windowed cross-attention, and for an
    implementation that cannot compute the call.
    """

    heads: int = 8
    kv_heads: int | None = None  # None: as many as heads
    head_width: int | None = None  # None: d / heads
    causal: bool = False
    window: int | None = None
    chunk: int | None = None
    cross: bool = False
    position: Position | None = None
    relative: Relative | None = None
    qk_norm: Norm | None = None
    weigh: Weigh = Softmax()
    gate: bool = False
    bias: bool = False
    dropout: float = 0.0
    implementation: Implementation | None = None  # None: chosen by platform and call

    def __post_init__(self) -> None:
        if self.heads < 1 or self.heads % (self.kv_heads or self.heads):
            raise ValueError(
                f"Attention has {self.heads} heads and {self.kv_heads} kv_heads; kv_heads must divide heads."
            )
        if (self.kv_heads or 1) < 0 or (self.head_width or 1) < 0:
            raise ValueError(
                f"Attention has {self.kv_heads} kv_heads and head_width {self.head_width}; give numbers above 0, or"
                " none."
            )
        for name in ("window", "chunk"):
            if (size := getattr(self, name)) is not None and size < 1:
                raise ValueError(
                    f"Attention {name} is {size}; it counts tokens, the own one included, so give 1 or more."
                )
        if self.window is not None and self.chunk is not None:
            raise ValueError("Attention has both window and chunk; give one of them.")
        if self.cross and (
            self.causal or self.window or self.chunk or self.position is not None or self.relative is not None
        ):
            raise ValueError(
                "Attention with cross=True reads another sequence, so causal, window, chunk and positions do not"
                " apply to it."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        query, key, value = self.project_all(x, ctx)
        return self.mix(x, ctx, *self.keep(ctx, key, value), query)

    @property
    def reach(self) -> Reach:
        """The attention mask of this layer."""
        return Reach(self.causal, self.window, self.chunk)

    @property
    def no_gradient(self) -> tuple[str, ...]:
        """Names the keys' bias if there are no positions: it shifts a query's scores alike, which softmax cancels."""
        return ("key/bias",) if self.bias and self.position is None and self.qk_norm is None else ()

    def width(self, d: int) -> int:
        """Width of a head."""
        if self.head_width is None and d % self.heads:
            raise ValueError(
                f"Attention splits width {d} over {self.heads} heads: they must divide it, or give head_width."
            )
        return self.head_width or d // self.heads

    def project_all(self, x: jax.Array, ctx: Context) -> tuple[jax.Array | None, jax.Array, jax.Array]:
        """Queries as `mix` takes them, and keys and values of the sequence or of the memory, (b, g, s, k) each.

        Under `cross` `mix` computes the queries, and the keys and values of a cached memory are read back.
        """
        if self.cross and ctx.memory is None:
            raise ValueError(
                "Attention with cross=True found no ctx.memory: use it in the decoder of an EncoderDecoder."
            )
        if self.cross and ctx.decoding is not None and not ctx.decoding.start:
            return None, self.get_variable("cache", "keys"), self.get_variable("cache", "values")
        groups, query = self.kv_heads or self.heads, {} if self.cross else {"query": self.heads}
        source = ctx.memory.x if self.cross and ctx.memory is not None else x
        heads = {**query, "key": groups, "value": groups}
        *queries, key, value = project_together(source, heads, self.width(x.shape[-1]), self.bias)
        if self.qk_norm is not None:
            key = norm_heads(copy_as(self.qk_norm, "key_norm"), key)
        if self.position is not None:
            key = self.position(key, locate_tokens(ctx, x.shape[1]).positions[:, None])
        return queries[0] if queries else None, key, value

    def keep(self, ctx: Context, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array, Tokens | None]:
        """Appends keys and values to the cache while decoding.

        Gives all of them, and their tokens or None if the queries'.
        """
        s, memory, span = key.shape[2], ctx.memory, self.reach.span
        if self.cross and memory is not None:
            for name, new in (("keys", key), ("values", value)):
                remember(self, ctx, name, new)
            index = jnp.arange(s)[None]
            return key, value, Tokens(index, index, memory.segments)
        if ctx.decoding is not None and not self.causal:
            raise ValueError(
                "Attention that sees later tokens cannot decode one token after the other; set causal=True."
            )
        key, value = (extend(self, ctx, name, new, 2, span) for name, new in (("keys", key), ("values", value)))
        return key, value, locate_sources(self, ctx, s, span)

    def mix(
        self,
        x: jax.Array,
        ctx: Context,
        key: jax.Array,
        value: jax.Array,
        other: Tokens | None,
        query: jax.Array | None = None,
    ) -> jax.Array:
        """The attention output for these keys and values, (b, t, d); queries are computed if they are not given."""
        b, t, d = x.shape
        k, tokens = self.width(d), locate_tokens(ctx, t)
        query = project("query", x, self.heads, k, self.bias) if query is None else query
        if self.qk_norm is not None:
            query = norm_heads(copy_as(self.qk_norm, "query_norm"), query)
        if self.position is not None:
            query = self.position(query, tokens.positions[:, None])
        dropout = Dropout(self.dropout)
        mixed = attend(
            query,
            key,
            value,
            tokens,
            other,
            self.reach,
            self.weigh,
            ctx.score_scale(k),
            relative=self.relative,
            dropout=(lambda weights: dropout(weights, ctx)) if dropout.acts(ctx) else None,
            implementation=self.implementation,
        )
        if self.gate:
            mixed = mixed * jax.nn.sigmoid(project("gate", x, self.heads, k))
        return nn.Dense(d, use_bias=self.bias, name="out")(merge(mixed)).reshape(b, t, d)
