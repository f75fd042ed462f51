"""Grids that parts of a model share: the cells that its embed cuts an image or a video into."""

import dataclasses
import math
from collections.abc import Iterator

from models.contracts import Tiles
from models.mixers.axial import Along
from models.position import LearnedPosition
from models.structure import fields

Cells = tuple[int, ...]
EMBEDS = ("source_embed", "embed")  # the first that tiles its input gives the model's cells
APART = (*EMBEDS, "decoder")  # parts that do not see the cells


def find_tiling(model: object) -> tuple[str, Tiles] | None:
    """The path and the value of the embed that cuts a model's images or videos into cells, if it has one."""
    embeds = _parts(model)
    return next(((name, embed) for name in EMBEDS if isinstance(embed := embeds.get(name), Tiles)), None)


def count_positions(model: object, extents: Cells) -> dict[str, int]:
    """Registers and cells of an input of these extents, by the path of the learned positions that must hold them."""
    if (tiled := find_tiling(model)) is None:
        return {}
    path, embed = tiled
    learned = isinstance(_parts(embed).get("position"), LearnedPosition)
    return {f"{path}.position.length": embed.registers + math.prod(embed.cells(extents))} if learned else {}


def find_grids(model: object, extents: Cells) -> dict[str, Cells]:
    """Cells of an input of these extents, by the path of each `grid` of them.

    Extents are (rows, columns) of an image or (frames, rows, columns) of a video.  A mixer `Along` some axes of a grid
    sees these axes alone.  A grid with another number of axes is left out.
    """
    if (tiled := find_tiling(model)) is None:
        return {}
    cells = tiled[1].cells(extents)
    parts = [(name, value) for name, value in _parts(model).items() if name not in APART]
    return {path: grid for name, value in parts for path, grid in _grids(value, name, cells)}


def _parts(value: object) -> dict[str, object]:
    if isinstance(value, tuple):
        return {str(index): item for index, item in enumerate(value)}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return {}
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _grids(value: object, path: str, cells: Cells) -> Iterator[tuple[str, Cells]]:
    parts = _parts(value)
    grid = parts.get("grid")
    if isinstance(grid, tuple) and len(grid) == len(cells):
        yield f"{path}.grid", (-1, *cells[1:]) if grid[0] == -1 else cells
        cells = tuple(cells[axis] for axis in value.axes) if isinstance(value, Along) else cells
    for name, inner in parts.items():
        yield from _grids(inner, f"{path}.{name}", cells)
