"""Layers that look vectors up by the ids of tokens, which an embed of tokens gives, and weigh them by the stream."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.activation import gelu_tanh, silu
from models.cache import extend
from models.context import Context
from models.contracts import Activation
from models.mixers.convolution import neighbours
from models.norm import RMSNorm
from models.roles import SCALED, UNDECAYED, Roles
from models.structure import require_positive


class Engram(nn.Module):
    """v + silu(sum_j kernel_j norm(v)_{t - j order}), v = sigmoid(root(norm(x) . norm(W_k e) / sqrt(d))) W_v e.

    (b, t, d) -> (b, t, d), a branch of its own.  arXiv:2601.07372; root(s) = sign(s) sqrt(max(|s|, 1e-6)) as in
    engram_demo_v1.py of deepseek-ai/Engram.  e are the rows, `width` wide for each of 2 ... `order`, of the last that
    many tokens in `heads` tables each: the xor of tokens times odd numbers, modulo primes from `buckets` on.  Grams do
    not reach over the start of a segment.  One table holds all, so that layers hash alike, where the paper has other
    numbers a layer; it merges tokens of one spelling before, which is left to the tokenizer.  The table starts as of
    tokens, and kernel at 0.  While decoding the last `order` - 1 tokens and 3 `order` vectors are kept.  Raises
    ValueError without an embed of tokens.
    """

    causal: ClassVar[bool] = True
    # a step reads few rows, and decay would shrink all; the product of the norms is scaled
    roles: ClassVar[Roles] = {"table": UNDECAYED, "norm/scale": SCALED, "key_norm/scale": SCALED}
    order: int = 3
    heads: int = 8
    buckets: int = 50_000  # rows of a head's table, at least
    width: int = 512
    kernel: int = 4  # taps of the convolution

    def __post_init__(self) -> None:
        require_positive(self, "heads", "buckets", "width", "kernel")
        if self.order < 2 or self.width % self.heads:
            raise ValueError(
                f"Engram has order {self.order}, of 2 at least, and width {self.width}, which {self.heads} heads must"
                " divide."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        b, t, d = x.shape
        sizes = find_primes(self.buckets, (self.order - 1) * self.heads)
        table = self.param("table", nn.initializers.normal(0.02), (sum(sizes), self.width // self.heads))
        firsts = np.cumsum([0, *sizes[:-1]])
        rows = self.hash_grams(ctx, t)[..., None] % jnp.asarray(sizes, jnp.uint32).reshape(self.order - 1, self.heads)
        rows = rows.astype(jnp.int32) + jnp.asarray(firsts, jnp.int32).reshape(self.order - 1, self.heads)
        values = table[rows].astype(x.dtype).reshape(b * t, -1)
        key, value = (nn.Dense(d, name=name)(values).reshape(x.shape) for name in ("key", "value"))
        score = (RMSNorm(name="norm")(x) * RMSNorm(name="key_norm")(key)).astype(jnp.float32).sum(-1, keepdims=True)
        score = score * ctx.score_scale(d)
        gate = nn.sigmoid(jnp.sign(score) * jnp.sqrt(jnp.maximum(jnp.abs(score), 1e-6))).astype(x.dtype)
        value = gate * value
        kernel = self.param("kernel", nn.initializers.zeros, (self.kernel, d)).astype(x.dtype)
        past = neighbours(self, RMSNorm(name="value_norm")(value), ctx, (self.kernel - 1) * self.order + 1)
        mixed = jnp.zeros_like(value)
        for lag, row in enumerate(past[:: -self.order]):
            mixed = mixed + kernel[lag] * row
        return value + silu(mixed)

    def hash_grams(self, ctx: Context, t: int) -> jax.Array:
        """Numbers of the grams of 2 ... `order` tokens that end at each token: (b, t, order - 1), uint32."""
        tokens = require_tokens(self, ctx)
        segments = jnp.ones_like(tokens) if ctx.segments is None else ctx.segments
        rows = jnp.stack([tokens + 1, segments], -1)
        whole = extend(self, ctx, "last", rows, 1, self.order)
        whole = jnp.pad(whole, ((0, 0), (self.order - 1 + t - whole.shape[1], 0), (0, 0)))
        odd = 2 * np.random.default_rng(0).integers(0, 2**31, self.order, np.uint32) + 1
        code, grams = rows[..., 0].astype(jnp.uint32) * odd[0], list[jax.Array]()
        for back in range(1, self.order):
            earlier = whole[:, self.order - 1 - back : self.order - 1 - back + t]
            same = (earlier[..., 1] == segments) & (segments > 0)
            code = code ^ (jnp.where(same, earlier[..., 0], 0).astype(jnp.uint32) * odd[back])
            grams.append(code)
        return jnp.stack(grams, -1)


class PerLayerEmbedding(nn.Module):
    """norm(out(activation(gate(x)) * sqrt(width) table[token])): an embedding of the token for this layer alone.

    (b, t, d) -> (b, t, d), gate (d, width), table (vocab, width), out (width, d).  Gemma 3n, as in
    models/gemma3n/modeling_gemma3n.py of huggingface/transformers, without the projection of the first embeddings that
    is averaged with the table there.  It changes no other token, and is a branch of its own.  Raises ValueError
    without an embed of tokens.
    """

    roles: ClassVar[Roles] = {"table": UNDECAYED}  # a step reads few rows, and decay would shrink all
    vocab: int = 32_000
    width: int = 256
    activation: Activation = gelu_tanh

    def __post_init__(self) -> None:
        require_positive(self, "vocab", "width")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        table = self.param("table", nn.initializers.normal(0.02), (self.vocab, self.width))
        own = self.width**0.5 * table[require_tokens(self, ctx)].reshape(-1, self.width).astype(x.dtype)
        gate = self.activation(nn.Dense(self.width, use_bias=False, name="gate")(x.reshape(-1, x.shape[-1])))
        y = nn.Dense(x.shape[-1], use_bias=False, name="out")(gate * own)
        return RMSNorm(name="norm")(y).reshape(x.shape)


def require_tokens(layer: nn.Module, ctx: Context) -> jax.Array:
    """The ids of the stream's tokens, (b, t).  Raises ValueError if there are none."""
    if ctx.tokens is None:
        raise ValueError(
            f"{type(layer).__name__} looks up the ids of tokens and found no ctx.tokens; use an embed of tokens,"
            " such as TokenEmbed."
        )
    return ctx.tokens


def find_primes(least: int, count: int) -> list[int]:
    """The first primes that are not below a number."""
    primes, candidate = list[int](), max(least, 2)
    while len(primes) < count:
        if all(candidate % divisor for divisor in range(2, int(candidate**0.5) + 1)):
            primes.append(candidate)
        candidate += 1
    return primes
