"""Groups of examples by the columns of a user's file, and by the intersection of several columns."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from models.words import join
from train.contracts import PART, Columned
from train.errors import InputError

MISSING = "(missing)"  # group of the examples whose cell is empty
MOST = 50  # groups of a column


@dataclasses.dataclass(frozen=True)
class Grouping:
    """Groups of examples by columns: `names` of the groups, and the group of each example as an index of them (n,)."""

    columns: tuple[str, ...]
    names: tuple[str, ...]
    members: np.ndarray

    @property
    def title(self) -> str:
        """The columns in words."""
        return " and ".join(self.columns)


def read_groupings(
    data: object,
    part: PART,
    columns: Sequence[str],
    cuts: Mapping[str, Sequence[float]],
    indices: np.ndarray | None = None,
) -> list[Grouping]:
    """Reads the groups of the examples `indices` (None: all) by each column, and by the intersection of several.

    `cuts` are the edges of ranges of columns of numbers.  Raises InputError if the data have no columns or not these,
    or if a column has one group or more than 50.
    """
    if not isinstance(data, Columned):
        raise InputError(f"{type(data).__name__} has no columns to group by; audit a run of text, images or series.")
    if twice := [column for number, column in enumerate(columns) if column in columns[:number]]:
        raise InputError(f"--groups names {twice[0]!r} twice; name each column once.")
    if unknown := [column for column in cuts if column not in columns]:
        raise InputError(f"--cut is for {unknown[0]!r}, which --groups does not name; it names {join(columns)}.")
    named: dict[str, list[str]] = {}
    for column in columns:
        cells = data.read_column(part, column)
        chosen = range(len(cells)) if indices is None else indices
        named[column] = [name_group(cells[index], column, cuts.get(column, ())) for index in chosen]
        count = len(set(named[column]))
        if count > MOST:
            raise InputError(
                f"The column {column!r} has {count} different cells, more than {MOST} groups; name a column of"
                f" categories, or cut numbers into ranges by --cut {column}=EDGE,EDGE."
            )
        if count < 2:
            raise InputError(f"The column {column!r} is {named[column][0]!r} in all examples; name one that differs.")
    wanted = [(column,) for column in columns] + ([tuple(columns)] if len(columns) > 1 else [])
    return [make_grouping(some, list(zip(*(named[column] for column in some), strict=True))) for some in wanted]


def make_grouping(columns: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> Grouping:
    """Makes the grouping of examples by their cells in the columns."""
    known = sorted(set(cells), key=lambda several: [_order(cell) for cell in several])
    number = {several: index for index, several in enumerate(known)}
    return Grouping(columns, tuple(map(", ".join, known)), np.array([number[several] for several in cells], np.int64))


def _order(name: str) -> tuple[float, str]:
    """Sorts ranges and numbers by their first number, and names by themselves."""
    first = name.split()[0] if name.split() else name
    try:
        return float(first), name
    except ValueError:
        return (float("-inf") if name.startswith("below ") else float("inf")), name


def name_group(cell: object, column: str, edges: Sequence[float]) -> str:
    """Names the group of a cell: its text, or its range if there are edges.

    Raises InputError if the cell of a column with edges is no number.
    """
    value = cell.item() if isinstance(cell, np.generic) else cell
    text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
    if text is None or (isinstance(text, str) and not text.strip()) or (isinstance(text, float) and text != text):
        return MISSING
    if not edges:
        return str(text).strip()
    try:
        number = float(text) if isinstance(text, str | int | float) else float("nan")
    except ValueError:
        number = float("nan")
    if number != number:
        raise InputError(f"The column {column!r} has {str(text)[:40]!r}, no number; leave --cut out, or correct it.")
    if number < edges[0]:
        return f"below {edges[0]:g}"
    for low, high in itertools.pairwise(edges):
        if number < high:
            return f"{low:g} to below {high:g}"
    return f"{edges[-1]:g} or above"


def parse_cuts(written: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Parses edges of ranges, COLUMN=EDGE,EDGE.  Raises InputError unless they are ascending numbers."""
    cuts: dict[str, tuple[float, ...]] = {}
    for text in written:
        column, _, rest = text.rpartition("=")
        try:
            edges = tuple(float(edge) for edge in rest.split(","))
        except ValueError:
            edges = ()
        if not column or not edges or any(not low < high for low, high in itertools.pairwise(edges)):
            raise InputError(f"--cut is {text!r}; give COLUMN=EDGE,EDGE with ascending numbers, such as age=18,65.")
        cuts[column] = edges
    return cuts
