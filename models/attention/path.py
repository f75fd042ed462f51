"""Attention whose positions are products of reflections that depend on the tokens between query and key."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.attention.core import Reach, locate_sources, locate_tokens
from models.attention.weigh import Softmax
from models.cache import extend, recall, remember
from models.context import Context
from models.contracts import Norm, Weigh
from models.mixers.convolution import ShortConvolution
from models.norm import L2Norm
from models.projection import merge, norm_heads, project
from models.recurrence.delta import invert
from models.structure import copy_as, require_positive

EXACT = jax.lax.Precision.HIGHEST


class PaTHAttention(nn.Module):
    """softmax over j <= i of q_i^T H_i ... H_{j+1} k_j / sqrt(k), times the values, H = I - beta w w^T.

    (b, t, d) -> (b, t, d).  Always causal, and needs no positions.  arXiv:2505.16381.  w is a short convolution of a
    linear map of x, silu, at length one; the map has rank `rank` if each head has keys of its own, as in
    fla/layers/path_attn.py of fla-org/flash-linear-attention.  beta = 2 sigmoid(linear in x) a key head.  `kv_heads`
    keys, values and reflections are shared by groups of query heads.  Time is cut in chunks: within one the products of
    reflections solve a triangular system, and the keys of all chunks before are reflected past each chunk, which takes
    as many products as scores and mixing.  Decoding keeps reflected keys, in float32.  The paper's form with a forget
    gate is left out.
    """

    heads: int = 8
    kv_heads: int | None = None  # None: as many as heads
    rank: int = 32
    convolution: int = 3  # tokens that w sees
    qk_norm: Norm | None = None
    weigh: Weigh = Softmax()
    chunk: int = 64
    causal: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "heads", "rank", "convolution", "chunk")
        if not self.causal:
            raise ValueError("PaTHAttention reflects keys past later tokens and has no other way; causal must be true.")
        if (self.kv_heads or 1) < 1 or self.heads % (self.kv_heads or 1):
            raise ValueError(
                f"PaTHAttention has {self.heads} heads and {self.kv_heads} kv_heads; kv_heads must divide heads."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        b, t, d = x.shape
        if d % self.heads:
            raise ValueError(f"PaTHAttention splits width {d} over {self.heads} heads; they must divide it.")
        h, g, k = self.heads, self.kv_heads or self.heads, d // self.heads
        query, key, value = (project(name, x, n, k) for name, n in (("query", h), ("key", g), ("value", g)))
        if self.qk_norm is not None:
            query = norm_heads(copy_as(self.qk_norm, "query_norm"), query)
            key = norm_heads(copy_as(self.qk_norm, "key_norm"), key)
        direction = x.reshape(-1, d)
        if g == h:
            direction = nn.Dense(self.rank, use_bias=False, name="direction_in")(direction)
        direction = nn.Dense(g * k, use_bias=False, name="direction")(direction).reshape(b, t, g * k)
        direction = ShortConvolution(self.convolution, name="short")(direction, ctx)
        direction = L2Norm(1e-6)(direction.reshape(b, t, g, k).astype(jnp.float32)).swapaxes(1, 2)
        strength = nn.Dense(g, name="strength")(x.reshape(-1, d)).reshape(b, t, g).astype(jnp.float32)
        strength = 2 * jax.nn.sigmoid(strength.swapaxes(1, 2)[..., None])
        tokens, sources = locate_tokens(ctx, t), locate_sources(self, ctx, t, None)
        first = 0 if ctx.decoding is None else ctx.decoding.index
        kept = recall(self, ctx, "keys", jnp.zeros((b, g, t, k), jnp.float32))
        scores, kept = reflect(
            query.reshape(b, g, h // g, t, k) * ctx.score_scale(k), key, direction, strength, kept, first, self.chunk
        )
        slots = kept.shape[2]
        room = 0 if ctx.decoding is None else ctx.decoding.length - slots
        remember(self, ctx, "keys", jnp.pad(kept, ((0, 0), (0, 0), (0, room), (0, 0))))
        visible = Reach(True).visible(tokens, tokens if sources is None else sources)
        weights = self.weigh(scores.reshape(b, h, t, slots), visible).astype(value.dtype)
        values = extend(self, ctx, "values", value, 2)
        mixed = jnp.einsum("bgrts,bgsv->bgrtv", weights.reshape(b, g, h // g, t, slots), values)
        return nn.Dense(d, use_bias=False, name="out")(merge(mixed.reshape(b, h, t, k))).reshape(b, t, d)


def reflect(
    query: jax.Array,
    key: jax.Array,
    direction: jax.Array,
    strength: jax.Array,
    kept: jax.Array,
    first: jax.Array | int,
    size: int,
) -> tuple[jax.Array, jax.Array]:
    """Scores q_i . (H_i ... H_{j+1} k_j) of t new tokens with s keys, and all keys after the last reflection.

    query (b, g, r, t, k), key and direction w (b, g, t, k), strength beta (b, g, t, 1), kept keys (b, g, s, k) of the
    `first` tokens, of which the rest is not read -> (b, g, r, t, s) and (b, g, s, k), in float32.  Scores of later
    tokens are undefined.  Chunks have `size` tokens at most.  H_i ... H_1 = I - sum_m w_m y_m^T with Y = (I + L)^-1
    beta W and L the lower part of beta W W^T.
    """
    t, s = key.shape[2], kept.shape[2]
    size = min(size, t)
    lower, below = jnp.tri(size, dtype=bool), jnp.tri(size, k=-1, dtype=bool)

    def cut(x: jax.Array) -> jax.Array:
        """Chunks of time as the first axis, the last padded by zeros, which reflect nothing."""
        padded = jnp.pad(x.astype(jnp.float32), (*[(0, 0)] * (x.ndim - 2), (0, -t % size), (0, 0)))
        return jnp.moveaxis(padded.reshape(*x.shape[:-2], -1, size, x.shape[-1]), -3, 0)

    def step(
        carry: tuple[jax.Array, jax.Array], parts: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        (keys, start), (q, k, w, beta) = carry, parts
        turned = w.swapaxes(-1, -2)
        solve = invert(jnp.where(below, -beta * jnp.matmul(w, turned, precision=EXACT), 0.0)) * beta.swapaxes(-1, -2)
        y = jnp.matmul(solve, w, precision=EXACT)
        reads = jnp.where(below, jnp.matmul(w, k.swapaxes(-1, -2), precision=EXACT), 0.0)
        read = jnp.matmul(solve, reads, precision=EXACT)  # beta_m w_m . (H_{m-1} ... H_{j+1} k_j)
        seen = jnp.where(lower, jnp.einsum("bgrik,bgmk->bgrim", q, w), 0.0)
        scores = jnp.einsum("bgrik,bgsk->bgris", q - jnp.einsum("bgrim,bgmk->bgrik", seen, y), keys)
        within = jnp.einsum("bgrik,bgjk->bgrij", q, k) - jnp.einsum("bgrim,bgmj->bgrij", seen, read)
        scores = jax.lax.dynamic_update_slice_in_dim(scores, within, start, 4)
        keys = keys - jnp.matmul(jnp.matmul(keys, y.swapaxes(-1, -2), precision=EXACT), w, precision=EXACT)
        fresh = k - jnp.matmul(read.swapaxes(-1, -2), w, precision=EXACT)
        return (jax.lax.dynamic_update_slice_in_dim(keys, fresh, start, 2), start + size), scores[..., :s]

    room = jnp.pad(kept, ((0, 0), (0, 0), (0, size), (0, 0)))  # for the last chunk's padding
    start = jnp.asarray(first, jnp.int32)
    (keys, _), scores = jax.lax.scan(step, (room, start), tuple(map(cut, (query, key, direction, strength))))
    return jnp.moveaxis(scores, 0, 3).reshape(*query.shape[:3], -1, s)[:, :, :, :t], keys[:, :, :s]
