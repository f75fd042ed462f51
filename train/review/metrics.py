"""Metrics of classification over all examples, by scikit-learn, and the interval of a share."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from train.contracts import Dataset, Evidence
from train.sums import compute_interval, compute_moments, sum_weighted


@dataclasses.dataclass(frozen=True)
class MacroF1:
    """`macro_f1`: the mean over classes of F1 = 2 TP / (2 TP + FP + FN); rare classes weigh as much as others."""

    def names(self, data: Dataset) -> tuple[str, ...]:
        """Its name.  Raises ValueError for data without classes."""
        _require_classes(self, data)
        return ("macro_f1",)

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """F1 on all examples.  It does not add up over examples and has no interval."""
        pairs = [(int(case.target["labels"]), int(case.output.argmax())) for case in evidence.cases()]
        return {"macro_f1": (compute_macro_f1(*np.array(pairs).T), math.inf)}


@dataclasses.dataclass(frozen=True)
class TopK:
    """`top_K_accuracy`: the share of examples whose class is among the `k` largest logits, with its interval."""

    k: int = 5

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"TopK.k is {self.k}; give 1 or more.")

    def names(self, data: Dataset) -> tuple[str, ...]:
        """Its name.  Raises ValueError for data without classes."""
        _require_classes(self, data)
        return (f"top_{self.k}_accuracy",)

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """The share of examples with fewer than k logits above that of their class."""
        above = [(case.output > case.output[case.target["labels"]]).sum() for case in evidence.cases()]
        return {f"top_{self.k}_accuracy": compute_share(np.array(above) < self.k)}


def _require_classes(metric: MacroF1 | TopK, data: Dataset) -> None:
    if not data.classes:
        raise ValueError(f"{type(metric).__name__} compares classes, and the data has none; leave it out of metrics")


def compute_macro_f1(labels: np.ndarray, chosen: np.ndarray) -> float:
    """Computes the mean of F1 over classes that are true or predicted."""
    from sklearn import metrics

    return float(metrics.f1_score(labels, chosen, average="macro"))


def compute_balanced_accuracy(labels: np.ndarray, chosen: np.ndarray) -> float:
    """Computes the mean of recall over classes that are true."""
    from sklearn import metrics

    return float(metrics.recall_score(labels, chosen, labels=np.unique(labels), average="macro"))


def compute_share(right: np.ndarray) -> tuple[float, float]:
    """Computes the share of examples (n,) that are right, and the half width of its 95 % interval (Wilson's)."""
    total = sum_weighted(jnp.asarray(right, jnp.float32), None)
    return compute_interval([compute_moments(total, total.each, {})])
