"""Columns of time series: numbers and timestamps, a row for each step."""

import datetime
from collections.abc import Iterator, Sequence
from typing import SupportsFloat

import numpy as np

from models.words import join
from train.data.notes import Note, Notes
from train.data.readers.steps import parse_time, refuse_repeat
from train.data.sources import Example, Split
from train.errors import InputError


def read_steps(split: Split) -> Iterator[Example]:
    """Yields the steps of the examples in order.  Raises InputError if the arrays of an example differ in length."""
    for index in range(len(split.examples)):
        example = split.examples[index]
        try:
            lengths = {np.shape(cell) for cell in example.values()}
        except ValueError:
            raise InputError(
                f"{split.where(index)}, has a list of lists that differ in length; give a number in each column."
            ) from None
        if lengths <= {()}:
            yield example
        elif len(lengths) == 1 and len(next(iter(lengths))) == 1:
            yield from (dict(zip(example, cells, strict=True)) for cells in zip(*example.values(), strict=True))
        else:
            shapes = join(f"{name} {np.shape(cell)}" for name, cell in example.items())
            raise InputError(
                f"{split.where(index)}, has columns of several shapes ({shapes}); give each a number, or each as many."
            )


def read_numbers(
    cells: Sequence[str | bytes | SupportsFloat | None], name: str, split: Split, gaps: int, notes: Notes
) -> np.ndarray:
    """Reads a column of numbers (t,); interpolates linearly across at most `gaps` missing values in a row.

    Raises InputError, with the location, for a cell that is not a number, and for other gaps.
    """
    column = np.full(len(cells), np.nan)
    for index, cell in enumerate(cells):
        text = cell.decode() if isinstance(cell, bytes) else cell
        if text is None or (isinstance(text, str) and text.strip().lower() in ("", "nan", "na", "null", "none")):
            continue
        try:
            column[index] = float(text)
        except OverflowError:
            column[index] = np.inf
        except (TypeError, ValueError):
            raise InputError(
                f"{split.where(index)}, has {str(text)[:20]!r} in {name!r}, which is not a number; correct"
                " it, or name the columns to forecast by data.values."
            ) from None
        if abs(column[index]) > np.finfo(np.float32).max:
            raise InputError(
                f"{split.where(index)}, has {str(text)[:20]!r} in {name!r}, which is too large; change its unit."
            )
    missing, run, start = np.isnan(column), 0, 0
    for index in range(len(column) + 1):
        if index < len(column) and missing[index]:
            run, start = run + 1, start if run else index
            continue
        lacks = f"{split.where(start)}, lacks {run} values of {name!r} in a row; fill them in"
        if run and (start == 0 or index == len(column)):
            raise InputError(f"{lacks}, or leave out these rows: a line is drawn between values alone.")
        if run > gaps:
            raise InputError(f"{lacks}, or set data.gaps={run} to draw a line across gaps that lie between values.")
        run = 0
    if missing.any():
        filled = tuple(split.where(int(index)).rpartition(", ")[2] for index in np.nonzero(missing)[0])
        notes.take(
            [
                Note(
                    split.origin,
                    "were missing and are filled in a straight line",
                    f"values of {name!r}",
                    filled,
                    len(cells),
                )
            ]
        )
        column[missing] = np.interp(np.nonzero(missing)[0], np.nonzero(~missing)[0], column[~missing])
    return column.astype(np.float32)


def read_times(cells: Sequence[object], split: Split) -> list[datetime.datetime]:
    """Reads a column of ascending timestamps.  Raises InputError, with the location, for any other cell."""
    times: list[datetime.datetime] = []
    for index, cell in enumerate(cells):
        text = cell.decode() if isinstance(cell, bytes) else str(cell)
        try:
            times.append(parse_time(text))
        except ValueError:
            raise InputError(
                f"{split.where(index)}, has {text!r} for a time; write it as 2026-01-31 13:00:00, 2026-01 or 2026Q1."
            ) from None
        if (times[index].tzinfo is None) != (times[0].tzinfo is None):
            raise InputError(f"{split.where(index)}, is at {text}; give all times with their offset from UTC, or none.")
        if index and times[index] <= times[index - 1]:
            refuse_repeat(times, split.where(index), text)
    return times
