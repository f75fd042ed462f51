"""Thresholds of a class by group after training: equal shares of predictions, or equal true positive rates."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from models.words import join
from train.data.groups import Grouping, name_group
from train.data.sources import find_format, read
from train.errors import InputError, Json
from train.sums import LEVEL
from train.use.bias.gaps import estimate
from train.use.bias.measures import Classed

FILE = "thresholds.json"
Kind = Literal["selection", "true_positive"]


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Thresholds of the probability of the class `positive` by group of a column, for equal rates of a kind."""

    column: str
    positive: str
    other: str
    kind: Kind
    by_group: Mapping[str, float]

    def decide(self, probability: float, cell: object) -> str:
        """Decides between the class and the other for an example whose column has the cell.

        Raises InputError for a group without a threshold.
        """
        if (group := name_group(cell, self.column, ())) not in self.by_group:
            raise InputError(
                f"{group!r} of {self.column!r} has no threshold; there are {join(self.by_group)}: correct the cell, or"
                " ask without --thresholds."
            )
        return self.positive if probability >= self.by_group[group] else self.other


@dataclasses.dataclass(frozen=True)
class Price:
    """Accuracy with the half width of its 95 % interval, and the widest gap of the rate over groups, on held-out data.

    Each is a pair: with a threshold of 1/2, and with those of the groups.
    """

    count: int
    accuracy: tuple[tuple[float, float], tuple[float, float]]
    gap: tuple[float, float]


def fit_thresholds(
    scores: np.ndarray, labels: np.ndarray, members: np.ndarray, groups: int, kind: Kind
) -> tuple[np.ndarray, np.ndarray]:
    """Fits thresholds (g,) of scores (n,) against labels (n, 0 or 1) by the groups of examples; returns their rates.

    Of all rates that a group attains the one is chosen at which, with each group's threshold of the nearest rate,
    accuracy is largest: the optimum of Hardt et al., arXiv:1610.02413, section 4, without randomised answers.  A
    threshold is the middle between two scores.
    """
    curves = [_trace_curve(scores[members == group], labels[members == group], kind) for group in range(groups)]
    targets = np.unique(np.concatenate([rates for rates, _, _ in curves]))
    picks = [np.abs(rates[None] - targets[:, None]).argmin(1) for rates, _, _ in curves]
    right = sum(hits[pick] for (_, hits, _), pick in zip(curves, picks, strict=True))
    best = int(np.argmax(right))
    chosen = [pick[best] for pick in picks]
    thresholds = np.array([levels[at] for (_, _, levels), at in zip(curves, chosen, strict=True)])
    return thresholds, np.array([rates[at] for (rates, _, _), at in zip(curves, chosen, strict=True)])


def _trace_curve(scores: np.ndarray, labels: np.ndarray, kind: Kind) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rate, the number of right answers and the threshold of each cut of a group's scores, the strictest first."""
    values = np.unique(scores)
    levels = np.concatenate([[1.0 + 1e-9], (values[1:] + values[:-1])[::-1] / 2, [0.0]])
    chosen = scores[None] >= levels[:, None]
    counted = labels > 0 if kind == "true_positive" else np.ones(len(labels), bool)
    return chosen[:, counted].mean(1), (chosen == (labels > 0)).sum(1), levels


def fit_groups(classed: Classed, positive: int, grouping: Grouping, kind: Kind, least: int) -> tuple[Thresholds, Price]:
    """Fits thresholds on a random half of the examples, and measures their price on the other.

    Raises InputError if there are not two classes, several columns, or a group with too few examples in a half (of the
    class, for true positive rates).
    """
    if len(classed.names) != 2 or len(grouping.columns) != 1:
        raise InputError(
            f"--thresholds decides between two classes by one column; the run has {len(classed.names)} classes and"
            f" --groups {len(grouping.columns)} columns."
        )
    labels, scores = (classed.labels == positive).astype(int), classed.probabilities[:, positive]
    first = np.zeros(len(labels), bool)
    first[np.random.default_rng(0).permutation(len(labels))[: len(labels) // 2]] = True
    counted = labels > 0 if kind == "true_positive" else np.ones(len(labels), bool)
    groups = len(grouping.names)
    for half in (first, ~first):
        counts = np.bincount(grouping.members[half & counted], minlength=groups)
        if counts.min() < least:
            few = grouping.names[int(counts.argmin())]
            raise InputError(
                f"The group {few!r} of {grouping.title} has {counts.min()} examples in half of the test part, and"
                f" thresholds need {least}; give more data, or a smaller --least."
            )
    levels, _ = fit_thresholds(scores[first], labels[first], grouping.members[first], groups, kind)
    chosen = (scores >= 0.5, scores >= levels[grouping.members])
    accuracy = [estimate((c == labels)[~first].astype(float), np.ones((~first).sum()), LEVEL) for c in chosen]
    gaps: list[float] = []
    for answers in chosen:
        rates = [answers[~first & counted & (grouping.members == group)].mean() for group in range(groups)]
        gaps.append(float(max(rates) - min(rates)))
    named = {name: float(level) for name, level in zip(grouping.names, levels, strict=True)}
    thresholds = Thresholds(grouping.columns[0], classed.names[positive], classed.names[1 - positive], kind, named)
    return thresholds, Price(int((~first).sum()), (accuracy[0], accuracy[1]), (gaps[0], gaps[1]))


def describe_price(thresholds: Thresholds, price: Price) -> str:
    """Describes thresholds and their price in a sentence."""
    (before, half), (after, half_after) = price.accuracy
    rate = "share predicted" if thresholds.kind == "selection" else "true positive rate of"
    levels = ", ".join(f"{name} {level:.4f}" for name, level in thresholds.by_group.items())
    return (
        f"thresholds of p({thresholds.positive}) by {thresholds.column}: {levels}; on {price.count} other examples the"
        f" widest gap in the {rate} {thresholds.positive} goes from {price.gap[0]:.4f} to {price.gap[1]:.4f}, and"
        f" accuracy from {before:.4f} ± {half:.4f} to {after:.4f} ± {half_after:.4f}"
    )


def write_thresholds(folder: Path, thresholds: Thresholds, price: Price) -> dict[str, Json]:
    """Writes the thresholds beside a run, for `morphax predict --thresholds`; returns what is written."""
    values: dict[str, Json] = {
        "column": thresholds.column,
        "positive": thresholds.positive,
        "other": thresholds.other,
        "kind": thresholds.kind,
        "by_group": dict(thresholds.by_group),
        "examples": price.count,
        "accuracy": [list(both) for both in price.accuracy],
        "gap": list(price.gap),
    }
    (folder / FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return values


def read_thresholds(folder: Path) -> Thresholds:
    """Reads the thresholds beside a run.  Raises InputError if there are none, or if they are damaged."""
    path = folder / FILE
    if not path.is_file():
        raise InputError(
            f"{folder} has no {FILE}; write it by `morphax audit bias {folder} --groups COLUMN --thresholds selection`."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        levels = {str(name): float(level) for name, level in values["by_group"].items()}
        return Thresholds(
            str(values["column"]),
            str(values["positive"]),
            str(values["other"]),
            values["kind"],
            levels,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); write it again.") from None


def change_answer(answer: Mapping[str, object], thresholds: Thresholds, cell: object) -> Mapping[str, object]:
    """Changes the label of an answer to that of its group's threshold.  Raises InputError for other classes."""
    probabilities = answer.get("probabilities")
    if not isinstance(probabilities, dict) or set(probabilities) != {thresholds.positive, thresholds.other}:
        if "unanswered" in answer:
            return answer
        raise InputError(f"{FILE} decides between {thresholds.other} and {thresholds.positive}, other classes.")
    return {**answer, "label": thresholds.decide(float(probabilities[thresholds.positive]), cell)}


def read_cells(inputs: Sequence[str], column: str) -> list[object]:
    """Reads the cells of a column of tables, row by row, for `change_answer`.  Raises InputError if one has none."""
    cells: list[object] = []
    for name in inputs:
        if find_format(name) is None or not Path(name).expanduser().is_file():
            raise InputError(
                f"--thresholds decides by the column {column!r}, which {name[:60]!r} does not have; give tables, or"
                " name the group of all texts by --group."
            )
        cells += read(name).read_column(column)
    return cells
