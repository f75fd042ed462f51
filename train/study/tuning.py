"""The setting of a grid that was best for a structure, and if the grid ends there."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from train.errors import Json
from train.page import Table


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The mean losses of a structure on the tuning part, by setting in the order of the grid.

    A setting is an override, `path=value`.
    """

    losses: Mapping[str, float]

    @property
    def best(self) -> str:
        """The setting of the least loss."""
        return min(self.losses, key=self.losses.__getitem__)

    @property
    def end(self) -> str | None:
        """The end of the grid that the best setting is, "least" or "greatest"; None inside, and without numbers."""
        paths, values = zip(*(setting.split("=", 1) for setting in self.losses), strict=True)
        try:
            numbers = sorted({float(value) for value in values})
        except ValueError:
            return None
        if len(set(paths)) > 1:
            return None
        best = float(self.best.split("=", 1)[1])
        return {numbers[0]: "least", numbers[-1]: "greatest"}.get(best) if len(numbers) > 1 else None

    def describe(self) -> str:
        """The setting in words, with what the grid leaves open."""
        if self.end is None:
            return f"best at {self.best}"
        return f"best at {self.best}, the {self.end} of the grid, so a wider one may change this"

    def record(self) -> dict[str, Json]:
        """The setting and the losses as JSON values; a loss that is not finite is null."""
        losses: dict[str, Json] = {name: loss if math.isfinite(loss) else None for name, loss in self.losses.items()}
        return {"best": self.best, "end_of_grid": self.end, "losses": losses}


def make_tuning_table(tuned: Mapping[str, Tuned]) -> Table:
    """The table of mean losses on the tuning part: a row a structure, a column a setting, the best one marked."""
    settings = list(next(iter(tuned.values())).losses)
    paths = {setting.split("=", 1)[0] for setting in settings}
    path = paths.pop() if len(paths) == 1 else ""
    columns = tuple(setting.removeprefix(f"{path}=") for setting in settings)
    rows = [(name, *_format_losses(one, settings)) for name, one in tuned.items()]
    return Table((path or "setting", *columns), tuple(rows))


def _format_losses(tuned: Tuned, settings: Sequence[str]) -> list[str]:
    return [
        (f"{tuned.losses[setting]:.4f}" if math.isfinite(tuned.losses[setting]) else "diverged")
        + (" (best)" if setting == tuned.best else "")
        for setting in settings
    ]
