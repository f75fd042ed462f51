"""Embeddings of tokens: a table, a narrow table with a projection, tables of n-grams."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.cache import extend, index_new
from models.context import Context
from models.contracts import Batch, Norm, Position
from models.dropout import Dropout
from models.roles import SCALED, Roles
from models.structure import require_positive


class TokenEmbed(nn.Module):
    """dropout(norm(table[token] + types[type] + position)).

    Reads `tokens` (b, t), `positions`, `types`; gives (b, t, d).  `types` > 0 adds BERT's token types
    (arXiv:1810.04805).  `table` is shared with a tied head.
    """

    roles: ClassVar[Roles] = {"token": SCALED}  # scaled by the head that shares it
    vocab: int = 32_000
    width: int = 512
    types: int = 0
    position: Position | None = None
    norm: Norm | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "vocab", "width")
        super().__post_init__()

    def setup(self) -> None:
        self.table = self.param("token", nn.initializers.normal(0.02), (self.vocab, self.width))
        if self.types:
            self.type_table = self.param("type", nn.initializers.normal(0.02), (self.types, self.width))
        self.drop = Dropout(self.dropout)

    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        tokens = batch["tokens"]
        positions = index_new(ctx, tokens.shape[1])[None] if ctx.positions is None else ctx.positions
        x = self.table[tokens]
        if self.types:
            x = x + (self.type_table[batch["types"]] if "types" in batch else self.type_table[0])
        if self.position is not None:
            x = self.position(x, positions)
        if self.norm is not None:
            x = self.norm(x)
        return self.drop(x, ctx), dataclasses.replace(ctx, positions=positions, tokens=tokens)


class FactorisedEmbed(nn.Module):
    """table[token] W with a narrow table: vocabulary times `rank` and rank times width.

    Reads `tokens` (b, t); gives (b, t, d).  ALBERT, arXiv:1909.11942.
    """

    vocab: int = 32_000
    width: int = 512
    rank: int = 128
    position: Position | None = None

    def __post_init__(self) -> None:
        require_positive(self, "vocab", "width", "rank")
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        tokens = batch["tokens"]
        table = self.param("token", nn.initializers.normal(0.02), (self.vocab, self.rank))
        x = nn.Dense(self.width, use_bias=False, name="widen")(table[tokens])
        return add_positions(x, dataclasses.replace(ctx, tokens=tokens), self.position)


class HashedNgramEmbed(nn.Module):
    """table[token] + sum over n = 2 ... `order` of grams_n[hash of the last n tokens].

    Reads `tokens` (b, t); gives (b, t, d).  Hashed n-grams in the manner of the Byte Latent Transformer,
    arXiv:2412.09871: rolling polynomial hashes modulo `buckets`.  Grams do not reach over the start of a segment.
    While decoding the last `order` - 1 tokens are kept.
    """

    roles: ClassVar[Roles] = {"token": SCALED}  # scaled by the head that shares it
    vocab: int = 256
    width: int = 512
    order: int = 3
    buckets: int = 50_021
    position: Position | None = None

    def __post_init__(self) -> None:
        require_positive(self, "vocab", "width", "buckets")
        if self.order < 2:
            raise ValueError(f"HashedNgramEmbed.order is {self.order}; a gram has 2 tokens or more.")
        super().__post_init__()

    def setup(self) -> None:
        self.table = self.param("token", nn.initializers.normal(0.02), (self.vocab, self.width))
        shape = (self.order - 1, self.buckets, self.width)
        self.grams = self.param("grams", nn.initializers.normal(0.02), shape)

    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        tokens = batch["tokens"]
        t = tokens.shape[1]
        segments = jnp.ones_like(tokens) if ctx.segments is None else ctx.segments
        rows = jnp.stack([tokens, segments], -1)
        whole = extend(self, ctx, "last", rows, 1, self.order)
        whole = jnp.pad(whole, ((0, 0), (self.order - 1 + t - whole.shape[1], 0), (0, 0)))
        x, code = self.table[tokens], tokens.astype(jnp.uint32)
        for back in range(1, self.order):
            earlier = whole[:, self.order - 1 - back : self.order - 1 - back + t]
            same = (earlier[..., 1] == segments) & (segments > 0)
            code = code * jnp.uint32(1_000_003) + jnp.where(same, earlier[..., 0] + 1, 0).astype(jnp.uint32)
            x = x + self.grams[back - 1][code % jnp.uint32(self.buckets)]
        return add_positions(x, dataclasses.replace(ctx, tokens=tokens), self.position)


def add_positions(x: jax.Array, ctx: Context, position: Position | None) -> tuple[jax.Array, Context]:
    """Adds positions to the stream, and fills them into the context."""
    positions = index_new(ctx, x.shape[1])[None] if ctx.positions is None else ctx.positions
    return (x if position is None else position(x, positions)), dataclasses.replace(ctx, positions=positions)
