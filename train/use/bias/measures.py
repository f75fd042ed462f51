"""Measures of a model that are means over examples: metrics of the objective, rates of classes, calibration, errors."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from train.contracts import Case, Objective
from train.errors import InputError
from train.objectives import Quantiles, to_probabilities

CHUNK = 512  # examples that the objective is computed on at a time


@dataclasses.dataclass(frozen=True)
class Measure:
    """A mean over examples, sum s_i / sum w_i: the terms s = `values` (n,) and w = `weights` (n,).

    An example of weight 0 does not count: those of the other classes for a true positive rate.
    """

    name: str
    words: str
    values: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Classed:
    """Classified examples: probabilities (n, c), labels (n,), chosen classes (n,), and the names of the classes."""

    probabilities: np.ndarray
    labels: np.ndarray
    chosen: np.ndarray
    names: tuple[str, ...]


def find_classes(cases: Sequence[Case], names: tuple[str, ...]) -> Classed | None:
    """Finds classes in cases; None if an output is not a vector of logits beside one label."""
    first = cases[0]
    label = first.target.get("labels")
    if not isinstance(first.output, np.ndarray) or first.output.ndim != 1 or label is None or np.ndim(label):
        return None
    probabilities = to_probabilities(np.stack([case.output for case in cases]))
    names = names or tuple(map(str, range(probabilities.shape[1])))
    labels = np.array([int(case.target["labels"]) for case in cases])
    return Classed(probabilities, labels, probabilities.argmax(-1), names)


def list_measures(
    objective: Objective, cases: Sequence[Case], classed: Classed | None, positives: Sequence[int]
) -> list[Measure]:
    """Lists the objective's metrics, and the measures of its kind of answers; `positives` are indices of classes."""
    measures = [
        Measure(name, name.replace("_", " "), values, weights)
        for name, (values, weights) in sum_cases(objective, cases).items()
    ]
    ones = np.ones(len(cases))
    if classed is not None:
        return measures + list(_measure_classes(classed, positives, ones))
    return measures + list(_measure_values(objective, cases, ones))


def _measure_classes(classed: Classed, positives: Sequence[int], ones: np.ndarray) -> Iterator[Measure]:
    right = classed.chosen == classed.labels
    excess = classed.probabilities.max(-1) - right
    yield Measure("overconfidence", "probability of the answer less the share that is right", excess, ones)
    for index in positives:
        name, chosen, true = classed.names[index], classed.chosen == index, classed.labels == index
        yield Measure(f"selection_rate_{name}", f"share predicted {name}", chosen.astype(float), ones)
        weights = true.astype(float)
        yield Measure(f"true_positive_rate_{name}", f"share of true {name} predicted {name}", chosen * weights, weights)
        others = 1 - weights
        words = f"share of the others predicted {name}"
        yield Measure(f"false_positive_rate_{name}", words, chosen * others, others)


def _measure_values(objective: Objective, cases: Sequence[Case], ones: np.ndarray) -> Iterator[Measure]:
    outputs, values = cases[0].output, cases[0].target.get("values")
    if not isinstance(outputs, np.ndarray) or values is None:
        return
    if isinstance(objective, Quantiles):
        levels = objective.levels
        shaped = (case.output.reshape(*case.target["values"].shape, len(levels)) for case in cases)
        below = np.stack(
            [
                (case.target["values"][..., None] <= quantiles).reshape(-1, len(levels)).mean(0)
                for case, quantiles in zip(cases, shaped, strict=True)
            ]
        )
        for number, level in enumerate(levels):
            yield Measure(
                f"coverage_{level:g}", f"share of values below the quantile {level:g}", below[:, number], ones
            )
    elif outputs.shape == values.shape:
        predicted = np.array([case.output.mean() for case in cases], np.float64)
        true = np.array([case.target["values"].mean() for case in cases], np.float64)
        yield Measure("prediction", "mean prediction", predicted, ones)
        yield Measure("excess", "mean prediction less the true value", predicted - true, ones)


def sum_cases(objective: Objective, cases: Sequence[Case]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Computes the terms (n,) and weights (n,) of each metric of the objective, example by example.

    A metric whose Sum does not tell examples apart is left out.  Raises InputError if none does.
    """
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for chunk in _chunk_cases(cases):
        outputs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(case.output for case in chunk))
        batch = {name: jnp.stack([case.target[name] for case in chunk]) for name in chunk[0].target}
        for name, total in objective(outputs, batch).items():
            if total.each is not None:
                both = (np.asarray(term, np.float64).reshape(len(chunk), -1).sum(-1) for term in total.each)
                values, weights = both
                parts.setdefault(name, []).append((values, weights))
    if not parts:
        raise InputError(
            f"The objective {type(objective).__name__} does not tell examples apart, so no group has a metric; make its"
            " sums by train.sums.sum_weighted."
        )
    return {
        name: (np.concatenate([values for values, _ in several]), np.concatenate([weights for _, weights in several]))
        for name, several in parts.items()
    }


def _chunk_cases(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Cuts cases into parts whose arrays have the same shapes."""

    def shape(case: Case) -> object:
        return [np.shape(leaf) for leaf in (*jax.tree.leaves(case.output), *case.target.values())]

    for _, same in itertools.groupby(cases, shape):
        alike = list(same)
        for start in range(0, len(alike), CHUNK):
            yield alike[start : start + CHUNK]


def compute_calibration_error(classed: Classed, chosen: np.ndarray, bins: int = 10) -> float:
    """Computes the expected calibration error of the chosen examples (boolean, n): arXiv:1706.04599, equation 5."""
    confidence = classed.probabilities.max(-1)[chosen]
    right = (classed.chosen == classed.labels)[chosen]
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    apart = np.bincount(index, right, bins) - np.bincount(index, confidence, bins)
    return float(np.abs(apart).sum() / max(len(right), 1))
