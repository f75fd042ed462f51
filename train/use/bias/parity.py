"""Demographic parity and equalised odds of a class, by fairlearn, with intervals over all pairs of groups."""

import dataclasses
import itertools
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from train.data.groups import Grouping
from train.data.sources import import_extra
from train.sums import LEVEL
from train.use.bias.gaps import compute_newcombe
from train.use.bias.measures import Classed


@dataclasses.dataclass(frozen=True)
class Parity:
    """Parity of the predictions of a class over groups.

    `difference` is the largest less the smallest share, between the groups `widest`, in the interval (`low`, `high`),
    which holds for all pairs of groups at once with 95 % (Bonferroni); `ratio` is the smallest over the largest.
    `left` are groups with too few examples to count.
    """

    columns: tuple[str, ...]
    kind: str
    positive: str
    difference: float
    ratio: float
    low: float
    high: float
    widest: tuple[str, str]
    left: tuple[str, ...]


def load_metrics() -> ModuleType:
    """Imports fairlearn's metrics.  Raises InputError if the library is not installed."""
    return import_extra("fairlearn.metrics", "fairness", "morphax audit bias")


def measure_parity(
    classed: Classed, positives: Sequence[int], groupings: Sequence[Grouping], least: int
) -> list[Parity]:
    """Measures demographic parity and equalised odds of each class in `positives` over the groups of each grouping.

    Demographic parity is the equal share of predictions of the class.  Equalised odds are equal true positive and false
    positive rates (Hardt et al., arXiv:1610.02413); the difference is the larger of both, the ratio the smaller.
    Groups need `least` examples, for equalised odds of the class and of the others; with fewer than two groups left
    there is no parity to measure.
    """
    metrics = load_metrics()
    kinds = (
        ("demographic parity", metrics.demographic_parity_difference, metrics.demographic_parity_ratio),
        ("equalised odds", metrics.equalized_odds_difference, metrics.equalized_odds_ratio),
    )
    parities: list[Parity] = []
    for grouping, index, (kind, difference, ratio) in itertools.product(groupings, positives, kinds):
        true, chosen = classed.labels == index, classed.chosen == index
        conditions = (np.ones_like(true),) if kind == "demographic parity" else (true, ~true)
        counts = np.array([_count(grouping, condition) for condition in conditions]).min(0)
        kept = np.nonzero(counts >= least)[0]
        if len(kept) < 2:
            continue
        some = np.isin(grouping.members, kept)
        arguments = {
            "y_true": true[some].astype(int),
            "y_pred": chosen[some].astype(int),
            "sensitive_features": grouping.members[some],
        }
        low, high, widest = _bound(grouping, chosen, conditions, kept)
        names = tuple(name for number, name in enumerate(grouping.names) if number not in kept)
        parities.append(
            Parity(
                grouping.columns,
                kind,
                classed.names[index],
                float(difference(**arguments)),
                float(ratio(**arguments)),
                low,
                high,
                (grouping.names[widest[0]], grouping.names[widest[1]]),
                names,
            )
        )
    return parities


def _count(grouping: Grouping, condition: np.ndarray) -> np.ndarray:
    return np.bincount(grouping.members[condition], minlength=len(grouping.names))


def _bound(
    grouping: Grouping, chosen: np.ndarray, conditions: Sequence[np.ndarray], kept: np.ndarray
) -> tuple[float, float, tuple[int, int]]:
    """Bounds the largest difference of two groups in any condition; returns the interval and both groups."""
    pairs = len(kept) * (len(kept) - 1) // 2 * len(conditions)
    widest, best = -1.0, (0.0, 0.0, (0, 0))
    for condition in conditions:
        counts, hits = _count(grouping, condition), _count(grouping, condition & chosen)
        rates = {int(group): float(hits[group] / counts[group]) for group in kept}
        most, fewest = max(rates, key=lambda group: rates[group]), min(rates, key=lambda group: rates[group])
        if (apart := rates[most] - rates[fewest]) > widest:
            sides = (int(hits[most]), int(counts[most]), int(hits[fewest]), int(counts[fewest]))
            low, high = compute_newcombe(*sides, 1 - (1 - LEVEL) / pairs)
            widest, best = apart, (low, high, (most, fewest))
    return best
