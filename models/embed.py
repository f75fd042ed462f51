"""Embeddings: the inputs of a model as vectors."""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import gelu
from models.cache import extend, index_new
from models.context import Context
from models.contracts import Batch, Norm, Position
from models.dropout import Dropout
from models.norm import LayerNorm
from models.roles import SCALED, UNDECAYED, Roles
from models.structure import copy_as, require_positive

# Those of DeiT (arXiv:2012.12877) and later image models; text models decay their table of positions.
IMAGE_ROLES: Roles = {"registers": UNDECAYED, "position/table": UNDECAYED}


class TokenEmbed(nn.Module):
    """dropout(norm(table[token] + types[type] + position)).  Reads `tokens` (b, t), `positions`, `types`; gives (b, t, d).

    `types` > 0 adds BERT's token types (arXiv:1810.04805).  `table` is shared with a tied head.
    """

    roles: ClassVar[Roles] = {"token": SCALED}  # by the head that shares it
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
        return self.drop(x, ctx), dataclasses.replace(ctx, positions=positions)


class FactorisedEmbed(nn.Module):
    """table[token] W with a narrow table: vocabulary times `rank` and rank times width.  Reads `tokens` (b, t); gives (b, t, d).

    ALBERT, arXiv:1909.11942.
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
        return _add_positions(x, ctx, self.position)


class HashedNgramEmbed(nn.Module):
    """table[token] + sum over n = 2 ... `order` of grams_n[hash of the last n tokens].  Reads `tokens` (b, t); gives (b, t, d).

    Hashed n-grams in the manner of the Byte Latent Transformer, arXiv:2412.09871: rolling polynomial hashes modulo `buckets`.  Grams do
    not reach over the start of a segment.  While decoding the last `order` - 1 tokens are kept.
    """

    roles: ClassVar[Roles] = {"token": SCALED}  # by the head that shares it
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
        whole = extend(self, ctx, "last", rows, 1, self.order) if ctx.decoding is not None else None
        if whole is None:
            whole = jnp.pad(rows, ((0, 0), (self.order - 1, 0), (0, 0)))
        x, code = self.table[tokens], tokens.astype(jnp.uint32)
        for back in range(1, self.order):
            earlier = whole[:, self.order - 1 - back : self.order - 1 - back + t]
            same = (earlier[..., 1] == segments) & (segments > 0)
            code = code * jnp.uint32(1_000_003) + jnp.where(same, earlier[..., 0] + 1, 0).astype(jnp.uint32)
            x = x + self.grams[back - 1][code % jnp.uint32(self.buckets)]
        return _add_positions(x, ctx, self.position)


class PatchEmbed(nn.Module):
    """One linear map of each patch of `size` x `size` pixels, after `registers` learned tokens.

    Reads `image` (b, rows, columns, channels); gives (b, registers + patches, d), patches row by row.  ViT,
    arXiv:2010.11929; registers, arXiv:2309.16588; one register is ViT's class token.  Positions count from 0 at the
    first register.  Raises ValueError for an image that patches do not tile.
    """

    roles: ClassVar[Roles] = IMAGE_ROLES
    width: int = 384
    size: int = 16
    registers: int = 1
    position: Position | None = None

    def __post_init__(self) -> None:
        require_positive(self, "width", "size")
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        self.cells(batch["image"].shape[1:3])
        x = _tiles(batch["image"][:, None], (1, self.size, self.size))
        x = nn.Dense(self.width, name="patch")(x)
        return _add_registers(self, x, ctx, self.registers, self.position)

    @nn.nowrap
    def cells(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Patches along the rows and the columns of an image."""
        return _count_cells(extents, (self.size, self.size))


class ConvEmbed(nn.Module):
    """A patch embedding by convolutions of 3 x 3, each followed by `norm` over channels and GELU, then one of 1 x 1.

    Reads `image` (b, rows, columns, channels); gives (b, registers + patches, d), patches row by row.  `channels` and
    `strides` are those of the convolutions, strides 2 by default; a patch is as many pixels wide as the product of the
    strides.  A norm removes local brightness; if `norm` is None the convolutions have biases.  Early convolutions,
    arXiv:2106.14881, which normalises over batches.  Raises ValueError for an image that patches do not tile.
    """

    roles: ClassVar[Roles] = IMAGE_ROLES
    width: int = 384
    channels: tuple[int, ...] = (48, 96, 192, 384)
    strides: tuple[int, ...] = ()
    norm: Norm | None = LayerNorm()
    registers: int = 1
    position: Position | None = None

    def __post_init__(self) -> None:
        require_positive(self, "width")
        if not self.channels or min(self.channels + self.strides) < 1:
            raise ValueError(_uneven(self.channels, self.strides))
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        x, strides = batch["image"], self.strides or (2,) * len(self.channels)
        self.cells(x.shape[1:3])
        for layer, (channels, stride) in enumerate(zip(self.channels, strides, strict=True)):
            x = nn.Conv(channels, (3, 3), (stride, stride), use_bias=self.norm is None, name=f"conv_{layer}")(x)
            x = gelu(x if self.norm is None else copy_as(self.norm, f"norm_{layer}")(x))
        x = nn.Dense(self.width, name="out")(x.reshape(x.shape[0], -1, x.shape[-1]))
        return _add_registers(self, x, ctx, self.registers, self.position)

    @nn.nowrap
    def cells(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Patches along the rows and the columns of an image."""
        strides = self.strides or (2,) * len(self.channels)
        if len(strides) != len(self.channels):
            raise ValueError(_uneven(self.channels, self.strides))
        return _count_cells(extents, (math.prod(strides),) * 2)


class TubeletEmbed(nn.Module):
    """One linear map of each box of `frames` x `size` x `size` pixels.  Reads `video` (b, frames, rows, columns, channels).

    Gives (b, registers + boxes, d), frame by frame, then row by row.  ViViT, arXiv:2103.15691.
    """

    roles: ClassVar[Roles] = IMAGE_ROLES
    width: int = 384
    frames: int = 2
    size: int = 16
    registers: int = 0
    position: Position | None = None

    def __post_init__(self) -> None:
        require_positive(self, "width", "frames", "size")
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        self.cells(batch["video"].shape[1:4])
        x = nn.Dense(self.width, name="tubelet")(_tiles(batch["video"], (self.frames, self.size, self.size)))
        return _add_registers(self, x, ctx, self.registers, self.position)

    @nn.nowrap
    def cells(self, extents: tuple[int, ...]) -> tuple[int, ...]:
        """Boxes along the frames, the rows and the columns of a video."""
        return _count_cells(extents, (self.frames, self.size, self.size))


class QueryEmbed(nn.Module):
    """`queries` learned vectors, the same for every example: the object queries of DETR (arXiv:2005.12872).  Gives (b, queries, d)."""

    roles: ClassVar[Roles] = {"query": SCALED}  # a stream, not a kernel
    queries: int = 100
    width: int = 256

    def __post_init__(self) -> None:
        require_positive(self, "queries", "width")
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        table = self.param("query", nn.initializers.normal(1.0), (self.queries, self.width))
        b = next(iter(batch.values())).shape[0]
        plain = dataclasses.replace(ctx, positions=None, segments=None, starts=None)
        return _add_positions(jnp.broadcast_to(table, (b, *table.shape)), plain, None)


class FeatureEmbed(nn.Module):
    """W f + b for continuous features.  Reads `features` (b, t, any width); gives (b, t, d)."""

    width: int = 512
    position: Position | None = None

    def __post_init__(self) -> None:
        require_positive(self, "width")
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        return _add_positions(nn.Dense(self.width, name="in")(batch["features"]), ctx, self.position)


class TrajectoryEmbed(nn.Module):
    """Three tokens a step, a map of each of return to go, features and action, with one position.  Decision Transformer, arXiv:2106.01345.

    Reads `returns` (b, t, 1), `features` (b, t, k), `actions` (b, t, m), `positions` (b, t); gives (b, 3 t, d), in that
    order.  Under causal attention the output at the features' tokens does not depend on the action of the same step:
    `EveryToken(3, 1)` selects it.
    """

    width: int = 128
    position: Position | None = None

    def __post_init__(self) -> None:
        require_positive(self, "width")
        super().__post_init__()

    @nn.compact
    def __call__(self, batch: Batch, ctx: Context) -> tuple[jax.Array, Context]:
        x = [nn.Dense(self.width, name=name)(batch[name]) for name in ("returns", "features", "actions")]
        b, t, d = x[0].shape
        positions = index_new(ctx, t)[None] if ctx.positions is None else ctx.positions
        x = x if self.position is None else [self.position(part, positions) for part in x]
        interleaved = (3 * positions[..., None] + jnp.arange(3)).reshape(positions.shape[0], 3 * t)
        segments = None if ctx.segments is None else jnp.repeat(ctx.segments, 3, axis=1)
        starts = None if ctx.starts is None else 3 * ctx.starts
        return jnp.stack(x, axis=2).reshape(b, 3 * t, d), dataclasses.replace(ctx, positions=interleaved, segments=segments, starts=starts)


def _uneven(channels: tuple[int, ...], strides: tuple[int, ...]) -> str:
    return f"ConvEmbed has channels {channels} and strides {strides}; give one number above 0 for each convolution."


def _add_positions(x: jax.Array, ctx: Context, position: Position | None) -> tuple[jax.Array, Context]:
    """Adds positions to the stream, and fills them into the context."""
    positions = index_new(ctx, x.shape[1])[None] if ctx.positions is None else ctx.positions
    return (x if position is None else position(x, positions)), dataclasses.replace(ctx, positions=positions)


def _add_registers(module: nn.Module, x: jax.Array, ctx: Context, count: int, position: Position | None) -> tuple[jax.Array, Context]:
    """Prepends learned tokens; the embed makes the sequence, so the batch's positions and segments do not apply to it."""
    if count:
        learned = module.param("registers", nn.initializers.normal(0.02), (count, x.shape[-1])).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(learned, (x.shape[0], *learned.shape)), x], axis=1)
    return _add_positions(x, dataclasses.replace(ctx, positions=None, segments=None, starts=None), position)


def _count_cells(extents: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Cells of these sizes along each axis.  Raises ValueError if they do not tile the extents."""
    if any(extent % size for extent, size in zip(extents, sizes, strict=True)):
        axes = " (frames, rows, columns)" if len(sizes) == 3 else " (rows, columns)"
        cell, whole = " x ".join(map(str, sizes)), " x ".join(map(str, extents))
        raise ValueError(f"Patches of {cell}{axes} do not tile an input of {whole}; change the embed, or data.size.")
    return tuple(extent // size for extent, size in zip(extents, sizes, strict=True))


def _tiles(video: jax.Array, sizes: tuple[int, int, int]) -> jax.Array:
    """(b, frames, rows, columns, channels) -> (b, boxes, pixels of a box)."""
    b, *extents, channels = video.shape
    counts = [extent // size for extent, size in zip(extents, sizes, strict=True)]
    split = [part for both in zip(counts, sizes, strict=True) for part in both]
    boxes = video.reshape(b, *split, channels).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return boxes.reshape(b, -1, boxes.shape[-4] * boxes.shape[-3] * boxes.shape[-2] * channels)
