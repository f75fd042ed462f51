"""Softmax attention."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.context import Context
from models.contracts import Norm, Position
from models.dropout import Dropout
from models.structure import named

HIDDEN = -1e30  # a score that softmax turns into an exact zero, yet finite: a row with nothing to see stays free of NaN


class Attention(nn.Module):
    """softmax(q k^T / sqrt(k)) v over `heads` heads.  (b, t, d) -> (b, t, d).  arXiv:1706.03762.

    `kv_heads` keys and values serve the query heads in groups: as many as heads is multi-head, 1 is multi-query
    (arXiv:1911.02150), between is grouped-query (arXiv:2305.13245).  `window` lets token i see |i - j| < window (arXiv:2004.05150).
    `cross` reads keys and values from `ctx.memory`.  `position` acts on queries and keys; `qk_norm` normalises them first
    (arXiv:2010.04245).  Tokens never see another segment.  Scores and softmax are float32.
    Raises ValueError for heads that kv_heads does not divide, and for a causal or windowed cross-attention.
    """

    heads: int = 8
    kv_heads: int | None = None  # as many as heads
    head_width: int | None = None  # d / heads
    causal: bool = False
    window: int | None = None
    cross: bool = False
    position: Position | None = None
    qk_norm: Norm | None = None
    bias: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"Attention has {self.heads} heads and {self.kv_heads} kv_heads; kv_heads must divide heads.")
        if (self.kv_heads or 1) < 0 or (self.head_width or 1) < 0:
            raise ValueError(f"Attention has {self.kv_heads} kv_heads and head_width {self.head_width}; give numbers above 0, or none.")
        if self.window is not None and self.window < 1:
            raise ValueError(f"Attention window is {self.window}; it counts tokens, the own one included, so give 1 or more.")
        if self.cross and (self.causal or self.window or self.position is not None):
            raise ValueError("Attention with cross=True reads another sequence, so causal, window and position do not apply to it.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        b, t, d = x.shape
        groups = self.kv_heads or self.heads
        if self.head_width is None and d % self.heads:
            raise ValueError(f"Attention splits width {d} over {self.heads} heads: they must divide it, or give head_width.")
        k = self.head_width or d // self.heads
        if self.cross and ctx.memory is None:
            raise ValueError("Attention with cross=True found no ctx.memory: use it in the decoder of an EncoderDecoder.")
        source = ctx.memory.x if self.cross and ctx.memory is not None else x
        s = source.shape[1]

        def project(tokens: jax.Array, heads: int, name: str) -> jax.Array:  # (b, t, d) -> (b, heads, t, k)
            flat = nn.Dense(heads * k, use_bias=self.bias, name=name)(tokens.reshape(-1, tokens.shape[-1]))
            return flat.reshape(b, tokens.shape[1], heads, k).swapaxes(1, 2)

        query, key, value = project(x, self.heads, "query"), project(source, groups, "key"), project(source, groups, "value")
        if self.qk_norm is not None:
            query = named(self.qk_norm, "query_norm")(query)
            key = named(self.qk_norm, "key_norm")(key)
        if self.position is not None:
            positions = (jnp.arange(t)[None] if ctx.positions is None else ctx.positions)[:, None]
            query, key = self.position(query, positions), self.position(key, positions)

        # Query heads of one group stand below each other, so that a group is one matrix product.
        grouped = (query * k**-0.5).reshape(b, groups, self.heads // groups * t, k)
        scores = jnp.einsum("bgtk,bgsk->bgts", grouped, key, preferred_element_type=jnp.float32).reshape(b, self.heads, t, s)
        visible = self.visible(t, s, ctx)
        if visible is not None:
            scores = jnp.where(visible[:, None], scores, HIDDEN)
        weights = Dropout(self.dropout)(jax.nn.softmax(scores, axis=-1).astype(value.dtype), ctx)
        mixed = jnp.einsum("bgts,bgsk->bgtk", weights.reshape(b, groups, -1, s), value)
        mixed = mixed.reshape(b, self.heads, t, k).swapaxes(1, 2).reshape(b * t, self.heads * k)
        return nn.Dense(d, use_bias=self.bias, name="out")(mixed).reshape(b, t, d)

    def visible(self, t: int, s: int, ctx: Context) -> jax.Array | None:
        """Which source j a token i may see, (1 or b, t, s); None where it is all of them."""
        masks: list[jax.Array] = []
        distance = jnp.arange(t)[:, None] - jnp.arange(s)[None, :]
        if self.causal:
            masks.append((distance >= 0)[None])
        if self.window is not None:
            masks.append((jnp.abs(distance) < self.window)[None])
        own, other = ctx.segments, ctx.memory.segments if self.cross and ctx.memory is not None else ctx.segments
        if own is not None and other is not None:
            masks.append(own[:, :, None] == other[:, None, :])
        if not masks:
            return None
        visible = masks[0]
        for mask in masks[1:]:
            visible = visible & mask
        return visible
