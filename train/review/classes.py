"""Classification: F1 and calibration, the confusion matrix, the worst errors.  What takes long to import is imported
when it is needed.
"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from train.baselines import Baseline
from train.charts import Matrix, Plot, Series
from train.contracts import Case, Dataset, Evidence, Findings, Labelled
from train.objectives import probabilities
from train.page import Piece, Table, table
from train.review.metrics import balanced_accuracy, macro_f1, share

FEW = 12  # classes that have a metric each
COUNTED = 20  # classes of which the confusion matrix shows numbers


@dataclasses.dataclass(frozen=True)
class Classes:
    """Accuracy, macro-averaged F1 and balanced accuracy by scikit-learn, and the expected calibration error over `bins`
    of confidence.

    ECE = sum_b n_b / n |accuracy_b - confidence_b| (arXiv:1706.04599).  Of up to 12 classes `accuracy_NAME` is the
    share of the examples of each that are told (its recall).  Draws the confusion matrix, with a table of what is
    mistaken most often where classes are many, and the reliability diagram, and shows the `worst` examples that the
    model was surest of and wrong about.
    """

    bins: int = 10
    worst: int = 10

    def __post_init__(self) -> None:
        if self.bins < 1 or self.worst < 0:
            raise ValueError(
                f"Classes has bins {self.bins} and worst {self.worst}; give 1 bin or more, and 0 examples or more."
            )

    def names(self, data: Dataset) -> tuple[str, ...]:
        """The four, and `accuracy_NAME` of each class of few that has an example."""
        occur = np.unique(data.labels("test")) if isinstance(data, Labelled) else range(len(data.classes))
        each = [f"accuracy_{data.names[int(label)]}" for label in occur] if len(data.names) <= FEW else []
        return "accuracy", "macro_f1", "balanced_accuracy", "expected_calibration_error", *each

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """The metrics on all examples: those that count examples have an interval."""
        logits, labels = logits_and_labels(evidence.cases())
        chosen = logits.argmax(-1)
        found = {name: (value, math.inf) for name, value in self.metrics_of(logits, labels).items()}
        names = evidence.data.names
        if names and len(names) <= FEW:
            for label in np.unique(labels):
                found[f"accuracy_{names[int(label)]}"] = share(chosen[labels == label] == label)
        return found | {"accuracy": share(chosen == labels)}

    def review(self, evidence: Evidence) -> Findings:
        """The findings on all examples."""
        return self.found(evidence, list(evidence.cases()))

    def found(self, evidence: Evidence, cases: list[Case]) -> Findings:
        """The findings on these cases."""
        if not cases:
            return Findings()
        logits, labels = logits_and_labels(cases)
        chances = probabilities(logits)
        chosen, surety = chances.argmax(-1), chances.max(-1)
        data = evidence.data
        names = data.names if data.classes else tuple(map(str, range(chances.shape[-1])))
        pictures: dict[str, Piece] = {
            "Confusion matrix: rows are the true classes, numbers count examples": confusion(labels, chosen, names),
            "Reliability: how often the model is right, by how sure it is": reliability(
                *self.binned(chosen == labels, surety)
            ),
        }
        if len(names) > COUNTED:
            pictures["What is taken for what most often"] = mistaken(labels, chosen, names)
        wrong = [place for place in np.argsort(-surety) if chosen[place] != labels[place]][: self.worst]
        if wrong:
            pictures["The errors that the model was surest of"] = worst(evidence, cases, wrong, chances, labels, names)
        found = {int(label): chosen[labels == label] == label for label in np.unique(labels)}
        each = (
            {f"accuracy_{names[label]}": float(right.mean()) for label, right in found.items()}
            if len(names) <= FEW
            else {}
        )
        return Findings(self.metrics_of(logits, labels) | each, pictures, majority(labels))

    def metrics_of(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The metrics of logits (n, c) against labels (n,)."""
        from sklearn import metrics

        chances = probabilities(logits)
        chosen = chances.argmax(-1)
        confidence, right, counts = self.binned(chosen == labels, chances.max(-1))
        return {
            "accuracy": float(metrics.accuracy_score(labels, chosen)),
            "macro_f1": macro_f1(labels, chosen),
            "balanced_accuracy": balanced_accuracy(labels, chosen),
            "expected_calibration_error": float((counts * np.abs(right - confidence)).sum() / counts.sum()),
        }

    def binned(self, right: np.ndarray, surety: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean confidence, accuracy and number of examples of each bin that has any."""
        place = np.minimum((surety * self.bins).astype(int), self.bins - 1)
        counts = np.bincount(place, minlength=self.bins)
        some = counts > 0
        confidence = np.bincount(place, surety, self.bins)[some] / counts[some]
        return confidence, np.bincount(place, right, self.bins)[some] / counts[some], counts[some]


def logits_and_labels(cases: Iterable[Case]) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, c) and labels (n,) of all examples."""
    pairs = [(case.output, int(case.target["labels"])) for case in cases]
    return np.stack([logits for logits, _ in pairs]), np.array([label for _, label in pairs])


def confusion(labels: np.ndarray, chosen: np.ndarray, names: tuple[str, ...]) -> Matrix:
    """The confusion matrix, shaded by the share of its row."""
    from sklearn import metrics

    counts = metrics.confusion_matrix(labels, chosen, labels=range(len(names)))
    cells = tuple(map(tuple, counts.tolist()))
    return Matrix(cells, names, names, "predicted", "true", full=None, numbered=True)


def majority(labels: np.ndarray) -> dict[str, tuple[Baseline, ...]]:
    """Metrics of the most frequent of the labels (n,) as the answer to everything."""
    values, counts = np.unique(labels, return_counts=True)
    always = np.full_like(labels, values[counts.argmax()])
    found = {
        "accuracy": float(counts.max() / len(labels)),
        "macro_f1": macro_f1(labels, always),
        "balanced_accuracy": 1 / len(values),
    }
    return {name: (Baseline("majority class", value, greater=True),) for name, value in found.items()}


def mistaken(labels: np.ndarray, chosen: np.ndarray, names: tuple[str, ...], most: int = 10) -> Table:
    """The most frequent pairs of a true class and another that is predicted."""
    pairs, counts = np.unique(np.stack([labels, chosen], 1)[labels != chosen], axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    rows = [(*(names[side] for side in pairs[place]), f"{counts[place]:,}") for place in order]
    return table(("true", "predicted", "examples"), rows)


def reliability(confidence: np.ndarray, right: np.ndarray, counts: np.ndarray) -> Plot:
    """Accuracy over confidence, each point as large as its bin; the diagonal is perfect calibration."""
    shares = counts / counts.sum()
    points = tuple(zip(confidence.tolist(), right.tolist(), shares.tolist(), strict=True))
    ideal = Series("calibrated", ((0.0, 0.0), (1.0, 1.0)), "dashed", None)
    model = Series("model", points, "points")
    return Plot((ideal, model), "probability of the predicted class", "share that is right", square=True)


def worst(
    evidence: Evidence,
    cases: list[Case],
    places: list[int],
    chances: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
) -> Table:
    """A table of examples with what was predicted and what is true."""
    rows = []
    for place in places:
        chosen = int(chances[place].argmax())
        said = [f"{names[number]} {chances[place, number]:.3f}" for number in (chosen, int(labels[place]))]
        rows.append((evidence.shown(cases[place].index), *said))
    return table(("example", "predicted", "true"), rows)
