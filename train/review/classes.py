"""Classification: F1 and calibration, the confusion matrix, the worst errors.  Slow imports are deferred."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from train.baselines import Baseline
from train.charts import Matrix, Plot, Series
from train.contracts import Case, Dataset, Evidence, Findings, Labelled
from train.objectives import to_probabilities
from train.page import Piece, Table, make_table
from train.review.metrics import compute_balanced_accuracy, compute_macro_f1, compute_share

FEW = 12  # classes that have a metric each
COUNTED = 20  # with more classes, a table lists the most frequent confusions


@dataclasses.dataclass(frozen=True)
class Classes:
    """Accuracy, macro-averaged F1 and balanced accuracy by scikit-learn, and the expected calibration error.

    ECE = sum_b n_b / n |accuracy_b - confidence_b| over `bins` of confidence (arXiv:1706.04599).  With at most 12
    classes, also reports per-class recall as `accuracy_NAME`.  Draws the confusion matrix and the reliability diagram;
    with many classes, also a table of the most frequent confusions.  Shows the `worst` examples: wrong predictions of
    the highest confidence.
    """

    bins: int = 10
    worst: int = 10

    def __post_init__(self) -> None:
        if self.bins < 1 or self.worst < 0:
            raise ValueError(
                f"Classes has bins {self.bins} and worst {self.worst}; give 1 bin or more, and 0 examples or more."
            )

    def names(self, data: Dataset) -> tuple[str, ...]:
        """The four metrics, and `accuracy_NAME` of each class that has an example, if classes are few."""
        present = np.unique(data.labels("test")) if isinstance(data, Labelled) else range(len(data.classes))
        each = [f"accuracy_{data.names[int(label)]}" for label in present] if len(data.names) <= FEW else []
        return "accuracy", "macro_f1", "balanced_accuracy", "expected_calibration_error", *each

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """The metrics on all examples; those that count examples have an interval."""
        logits, labels = stack_cases(evidence.cases())
        chosen = logits.argmax(-1)
        metrics = {name: (value, math.inf) for name, value in self.compute_metrics(logits, labels).items()}
        names = evidence.data.names
        if names and len(names) <= FEW:
            for label in np.unique(labels):
                metrics[f"accuracy_{names[int(label)]}"] = compute_share(chosen[labels == label] == label)
        return metrics | {"accuracy": compute_share(chosen == labels)}

    def review(self, evidence: Evidence) -> Findings:
        """The findings on all examples."""
        return self.review_cases(evidence, list(evidence.cases()))

    def review_cases(self, evidence: Evidence, cases: list[Case]) -> Findings:
        """Reviews these cases."""
        if not cases:
            return Findings()
        logits, labels = stack_cases(cases)
        probabilities = to_probabilities(logits)
        chosen, confidence = probabilities.argmax(-1), probabilities.max(-1)
        data = evidence.data
        names = data.names if data.classes else tuple(map(str, range(probabilities.shape[-1])))
        confusion = draw_confusion(labels, chosen, names)
        pictures: dict[str, Piece] = {
            "Confusion matrix: rows are the true classes, numbers count examples": confusion,
            "Reliability: how often the model is right, by how sure it is": draw_reliability(
                *self.bin_confidence(chosen == labels, confidence)
            ),
        }
        if len(names) > COUNTED:
            pictures["What is taken for what most often"] = tabulate_mistakes(labels, chosen, names)
        wrong = [index for index in np.argsort(-confidence) if chosen[index] != labels[index]][: self.worst]
        if wrong:
            errors = tabulate_worst(evidence, cases, wrong, probabilities, labels, names)
            pictures["The errors that the model was surest of"] = errors
        right = {int(label): chosen[labels == label] == label for label in np.unique(labels)}
        each = (
            {f"accuracy_{names[label]}": float(hits.mean()) for label, hits in right.items()}
            if len(names) <= FEW
            else {}
        )
        return Findings(self.compute_metrics(logits, labels) | each, pictures, measure_majority(labels))

    def compute_metrics(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Computes the metrics of logits (n, c) against labels (n,)."""
        from sklearn import metrics

        probabilities = to_probabilities(logits)
        chosen = probabilities.argmax(-1)
        confidence, right, counts = self.bin_confidence(chosen == labels, probabilities.max(-1))
        return {
            "accuracy": float(metrics.accuracy_score(labels, chosen)),
            "macro_f1": compute_macro_f1(labels, chosen),
            "balanced_accuracy": compute_balanced_accuracy(labels, chosen),
            "expected_calibration_error": float((counts * np.abs(right - confidence)).sum() / counts.sum()),
        }

    def bin_confidence(self, right: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bins examples by confidence: mean confidence, accuracy and number of examples of each bin that has any."""
        index = np.minimum((confidence * self.bins).astype(int), self.bins - 1)
        counts = np.bincount(index, minlength=self.bins)
        some = counts > 0
        mean = np.bincount(index, confidence, self.bins)[some] / counts[some]
        return mean, np.bincount(index, right, self.bins)[some] / counts[some], counts[some]


def stack_cases(cases: Iterable[Case]) -> tuple[np.ndarray, np.ndarray]:
    """Stacks logits (n, c) and labels (n,) of all examples."""
    pairs = [(case.output, int(case.target["labels"])) for case in cases]
    return np.stack([logits for logits, _ in pairs]), np.array([label for _, label in pairs])


def draw_confusion(labels: np.ndarray, chosen: np.ndarray, names: tuple[str, ...]) -> Matrix:
    """Draws the confusion matrix, each cell shaded by its share of the row."""
    from sklearn import metrics

    counts = metrics.confusion_matrix(labels, chosen, labels=range(len(names)))
    cells = tuple(map(tuple, counts.tolist()))
    return Matrix(cells, names, names, "predicted", "true", full=None, numbered=True)


def measure_majority(labels: np.ndarray) -> dict[str, tuple[Baseline, ...]]:
    """Measures the most frequent of the labels (n,) as the prediction for every example."""
    values, counts = np.unique(labels, return_counts=True)
    always = np.full_like(labels, values[counts.argmax()])
    metrics = {
        "accuracy": float(counts.max() / len(labels)),
        "macro_f1": compute_macro_f1(labels, always),
        "balanced_accuracy": 1 / len(values),
    }
    return {name: (Baseline("majority class", value, greater=True),) for name, value in metrics.items()}


def tabulate_mistakes(labels: np.ndarray, chosen: np.ndarray, names: tuple[str, ...], most: int = 10) -> Table:
    """Tabulates the most frequent pairs of a true class and another that is predicted."""
    pairs, counts = np.unique(np.stack([labels, chosen], 1)[labels != chosen], axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    rows = [(*(names[side] for side in pairs[index]), f"{counts[index]:,}") for index in order]
    return make_table(("true", "predicted", "examples"), rows)


def draw_reliability(confidence: np.ndarray, right: np.ndarray, counts: np.ndarray) -> Plot:
    """Draws accuracy over confidence, each point as large as its bin; the diagonal is perfect calibration."""
    shares = counts / counts.sum()
    points = tuple(zip(confidence.tolist(), right.tolist(), shares.tolist(), strict=True))
    ideal = Series("calibrated", ((0.0, 0.0), (1.0, 1.0)), "dashed", None)
    model = Series("model", points, "points")
    return Plot((ideal, model), "probability of the predicted class", "share that is right", square=True)


def tabulate_worst(
    evidence: Evidence,
    cases: list[Case],
    indices: list[int],
    probabilities: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
) -> Table:
    """Tabulates examples with their predicted and their true class, and the probability of each."""
    rows = []
    for index in indices:
        chosen = int(probabilities[index].argmax())
        cells = [f"{names[label]} {probabilities[index, label]:.3f}" for label in (chosen, int(labels[index]))]
        rows.append((evidence.show_example(cases[index].index), *cells))
    return make_table(("example", "predicted", "true"), rows)
