"""Requirements that several kinds of data have of a model."""

from models.contracts import Model
from models.embed.grids import count_positions, find_grids
from models.head.pool import EveryToken, FirstToken, MeanPool
from models.head.values import ValueHead
from models.structure import part
from train.contracts import AtLeast, Equal, Objective, PerValue, Requirement

EMBEDS = ("embed", "source_embed")


def positions(length: int, reason: str, instead: str = "") -> dict[str, Requirement]:
    """Learned positions of embeds that hold so many places."""
    return {f"model.{name}.position.length": AtLeast(length, reason, instead=instead) for name in EMBEDS}


def cells(model: Model, extents: tuple[int, ...]) -> dict[str, Requirement]:
    """Grids and learned positions of a model for images of (rows, columns), or videos of (frames, rows, columns).

    Both depend on the embed too, which cuts these into cells.  Raises ValueError if it cannot.
    """
    depends = ("data", *(f"model.{name}" for name in EMBEDS))
    *frames, rows, columns = extents
    whole = f"{f'videos of {frames[0]} frames' if frames else 'images'} of {rows} x {columns} pixels"
    found: dict[str, Requirement] = {}
    for path, grid in find_grids(model, extents).items():
        found[f"model.{path}"] = Equal(grid, f"{whole} make a grid of {' x '.join(map(str, grid))} tokens", depends)
    changed = any(part(model, path.removeprefix("model.")) != one.value for path, one in found.items())
    for path, count in count_positions(model, extents).items():
        found[f"model.{path}"] = AtLeast(count, f"{whole} make {count} tokens", depends, tight=changed)
    return found


def forecasts(
    context: int,
    horizon: int,
    patch: int,
    series: int,
    model: Model,
    objective: Objective,
) -> dict[str, Requirement]:
    """Positions for the patches of a window, and outputs for `series` at each step of the horizon.

    Outputs are those of a value head: of the last tokens, then as many as the horizon has patches, or of one vector.
    Whatever makes the same number of them fits.  Nothing is required of other heads, and for objectives that are not
    `PerValue`.
    """
    patches = (context + horizon) // patch
    found = positions(patches, f"context and horizon have {patches} patches of data.patch={patch}")
    try:
        head = part(model, "head")
    except LookupError:  # of a user's model
        return found
    if not isinstance(head, ValueHead) or not isinstance(objective, PerValue) or not series:
        return found
    outputs, pool = horizon * series * objective.per_value, head.pool
    reason = f"{objective.per_value} numbers for {horizon} steps of {series} series are {outputs} outputs"
    depends = ("data", "objective")
    if isinstance(pool, FirstToken | MeanPool):
        found["model.head.values"] = Equal(outputs, reason, depends)
    elif isinstance(pool, EveryToken) and pool.step == 1 and pool.first < 0 and outputs != -pool.first * head.values:
        ahead = horizon // patch
        last = f"the horizon has {ahead} patches of data.patch={patch}"
        found["model.head.pool.first"] = Equal(-ahead, last, depends)
        found["model.head.values"] = Equal(outputs // ahead, f"{reason}, of {ahead} patches", depends)
    return found
