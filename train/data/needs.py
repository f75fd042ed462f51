"""Requirements of data for a model, shared by several tasks."""

import dataclasses

from models.contracts import Model
from models.embed.grids import count_positions, find_grids
from models.head.pool import EveryToken, FirstToken, MeanPool
from models.head.values import ValueHead
from models.structure import part
from train.contracts import Objective, PerValue, Requirement

EMBEDS = ("embed", "source_embed")


@dataclasses.dataclass(frozen=True)
class Equal:
    """Requires exactly one value."""

    value: object
    reason: str
    depends: tuple[str, ...] = ("data",)
    instead: str = ""
    tight: bool = True

    def holds(self, value: object) -> bool:
        """Tells if a setting is the value."""
        return value == self.value


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Requires a value or more; with `tight`, a setting that follows the data becomes the value even if larger."""

    value: int
    reason: str
    depends: tuple[str, ...] = ("data",)
    instead: str = ""
    tight: bool = False

    def holds(self, value: object) -> bool:
        """Tells if a setting is the value or above."""
        return isinstance(value, int | float) and value >= self.value


def need_positions(length: int, reason: str, instead: str = "") -> dict[str, Requirement]:
    """Requires that learned positions of the embeds hold `length` tokens."""
    return {f"model.{name}.position.length": AtLeast(length, reason, instead=instead) for name in EMBEDS}


def need_cells(model: Model, extents: tuple[int, ...]) -> dict[str, Requirement]:
    """Requires grids and learned positions that fit images (rows, columns) or videos (frames, rows, columns).

    Both depend on the embed too, which cuts images into cells.  Raises ValueError if cells do not tile them.
    """
    depends = ("data", *(f"model.{name}" for name in EMBEDS))
    *frames, rows, columns = extents
    whole = f"{f'videos of {frames[0]} frames' if frames else 'images'} of {rows} x {columns} pixels"
    needs: dict[str, Requirement] = {}
    for path, grid in find_grids(model, extents).items():
        needs[f"model.{path}"] = Equal(grid, f"{whole} make a grid of {' x '.join(map(str, grid))} tokens", depends)
    changed = any(part(model, path.removeprefix("model.")) != need.value for path, need in needs.items())
    for path, count in count_positions(model, extents).items():
        needs[f"model.{path}"] = AtLeast(count, f"{whole} make {count} tokens", depends, tight=changed)
    return needs


def need_forecasts(
    context: int,
    horizon: int,
    patch: int,
    series: int,
    model: Model,
    objective: Objective,
) -> dict[str, Requirement]:
    """Requires positions for the patches of a window, and outputs for `series` at each step of the horizon.

    A value head makes the outputs from the last tokens, as many as the horizon has patches, or from one pooled vector.
    Every head with the same number of outputs fits.  Other heads, and objectives that are not `PerValue`, have no
    requirement.
    """
    patches = (context + horizon) // patch
    needs = need_positions(patches, f"context and horizon have {patches} patches of data.patch={patch}")
    try:
        head = part(model, "head")
    except LookupError:  # a user's model without a field `head`
        return needs
    if not isinstance(head, ValueHead) or not isinstance(objective, PerValue) or not series:
        return needs
    pool = head.pool
    outputs = horizon * series * objective.per_value
    reason = f"{objective.per_value} numbers for {horizon} steps of {series} series are {outputs} outputs"
    depends = ("data", "objective")
    if isinstance(pool, FirstToken | MeanPool):
        needs["model.head.values"] = Equal(outputs, reason, depends)
    elif isinstance(pool, EveryToken) and pool.step == 1 and pool.first < 0 and outputs != -pool.first * head.values:
        ahead = horizon // patch
        last = f"the horizon has {ahead} patches of data.patch={patch}"
        needs["model.head.pool.first"] = Equal(-ahead, last, depends)
        needs["model.head.values"] = Equal(outputs // ahead, f"{reason}, of {ahead} patches", depends)
    return needs
