"""Baselines: values of metrics without the model, and the warning if the model is worse."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from models.words import join
from train.sums import Sums


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A metric's value without the model, by `name`, such as "last value"; `greater` if larger is better.

    A warning is given if the model is worse than a `simple` baseline; others, such as an expert's, are for comparison.
    """

    name: str
    value: float
    greater: bool = False
    simple: bool = True

    def is_better(self, value: float) -> bool:
        """Tells if the baseline is better than a value."""
        return value < self.value if self.greater else value > self.value


Baselines = Mapping[str, tuple[Baseline, ...]]  # by metric


@runtime_checkable
class HasConstant(Protocol):
    """An objective whose simple baseline is a constant prediction, called `constant`, such as "training mean".

    `fit_constant(batches)` computes the constant (k,) from batches to train on; `measure_constant(constant, batch)`
    returns its Sums on a batch of the test part.
    """

    constant: str

    def fit_constant(self, batches: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray: ...

    def measure_constant(self, constant: np.ndarray, batch: Mapping[str, np.ndarray]) -> Sums: ...


def find_majority(labels: Iterable[np.ndarray]) -> np.ndarray:
    """Finds the most frequent of all labels, (1,); of equally frequent ones the smallest."""
    return np.array([count_labels(labels).argmax()])


def fit_frequencies(labels: Iterable[np.ndarray]) -> np.ndarray:
    """Fits the logarithms of (count + 1) / (all counts + n + 1) for the labels 0 to n - 1, (n + 1,).

    The last is that of any label which did not occur and is larger than those that did.
    """
    counts = np.append(count_labels(labels), 0) + 1.0
    return np.log(counts / counts.sum())


def count_labels(labels: Iterable[np.ndarray]) -> np.ndarray:
    """Counts how often each label from 0 to the largest occurs, (n,)."""
    counts = np.zeros(0, np.int64)
    for some in labels:
        more = np.bincount(some.reshape(-1), minlength=len(counts))
        more[: len(counts)] += counts
        counts = more
    return counts


def record(baselines: Baselines) -> dict[str, dict[str, float]]:
    """Records baselines as JSON values: their values by metric and by name."""
    return {metric: {each.name: each.value for each in several} for metric, several in baselines.items()}


def describe(several: Mapping[str, float | None]) -> str:
    """Describes values by name: last value 160.4, 24 steps before 171.2."""
    return ", ".join(f"{name} {format_number(value)}" for name, value in several.items())


def list_warnings(metrics: Mapping[str, float], baselines: Baselines) -> list[str]:
    """Lists a warning if the model is worse than simple baselines, with the metrics; none otherwise."""
    lost: list[str] = []
    for metric, several in baselines.items():
        value = metrics.get(metric, math.nan)
        if better := {each.name: each.value for each in several if each.simple and each.is_better(value)}:
            lost.append(f"{metric} {format_number(value)} ({describe(better)})")
    if not lost:
        return []
    advice = "train it longer, or with another rate or size"
    return [f"The model is worse than what needs no model: {join(lost, room=160)}; {advice}."]


def format_number(value: float | None) -> str:
    """Formats a number with four decimals, or fewer if it is large."""
    return "-" if value is None else f"{value:.{count_decimals(value)}f}"


def count_decimals(value: float) -> int:
    """Counts the decimals that a number is shown with."""
    return next((places for size, places in ((10, 4), (100, 2), (10_000, 1)) if abs(value) < size), 0)
