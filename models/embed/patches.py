"""Embeddings of images and videos: patches, convolutions, tubelets."""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import gelu
from models.context import Context
from models.contracts import Batch, Norm, Position
from models.embed.tokens import add_positions
from models.norm import LayerNorm
from models.roles import UNDECAYED, Roles
from models.structure import copy_as, require_positive

# Those of DeiT (arXiv:2012.12877) and later image models; text models decay their table of positions.
IMAGE_ROLES: Roles = {"registers": UNDECAYED, "position/table": UNDECAYED}


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
    """One linear map of each box of `frames` x `size` x `size` pixels.

    Reads `video` (b, frames, rows, columns, channels).  Gives (b, registers + boxes, d), frame by frame, then row by
    row.  ViViT, arXiv:2103.15691.
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


def _uneven(channels: tuple[int, ...], strides: tuple[int, ...]) -> str:
    return f"ConvEmbed has channels {channels} and strides {strides}; give one number above 0 for each convolution."


def _add_registers(
    module: nn.Module, x: jax.Array, ctx: Context, count: int, position: Position | None
) -> tuple[jax.Array, Context]:
    """Prepends learned tokens; the embed makes the sequence, so the batch's positions and segments do not apply."""
    if count:
        learned = module.param("registers", nn.initializers.normal(0.02), (count, x.shape[-1])).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(learned, (x.shape[0], *learned.shape)), x], axis=1)
    return add_positions(x, dataclasses.replace(ctx, positions=None, segments=None, starts=None), position)


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
