"""Simple methods of scikit-learn for each task: what a model has to beat."""

from collections.abc import Callable

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from train.advise.examples import HeldOut, Inputs, Pairs, measure_estimators, score_classes, score_values
from train.advise.measured import Measured
from train.advise.problem import Problem
from train.advise.windows import collect_forecasts, list_forecasters
from train.contracts import PART, Dataset, Labelled, Shows
from train.data.tasks.series import OpenedSeries

MOST = 20_000  # examples that a simple method is trained on
COLUMN = {"image classes": "image", "video classes": "video"}  # of a batch


def list_estimators(task: str) -> dict[str, BaseEstimator]:
    """Lists the estimators of a task by their names, the cheapest first."""
    words, scaled = lambda: TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), StandardScaler
    classes: dict[str, BaseEstimator] = {"most frequent class": DummyClassifier()}
    match task:
        case "text classes":
            return classes | {
                "words, linear": make_pipeline(words(), LogisticRegression(C=30, max_iter=1000)),
                "words, nearest": make_pipeline(words(), KNeighborsClassifier(5, metric="cosine")),
            }
        case "text values":
            return {
                "training mean": DummyRegressor(),
                "words, linear": make_pipeline(words(), Ridge(1.0)),
                "words, nearest": make_pipeline(words(), KNeighborsRegressor(5, metric="cosine")),
            }
        case _:
            return classes | {
                "pixels, linear": make_pipeline(scaled(), LogisticRegression(C=0.01, max_iter=200)),
                "pixels, nearest": KNeighborsClassifier(5),
            }


def collect(task: str, data: Dataset) -> HeldOut:
    """Collects the examples that simple methods are fitted to and measured on."""
    if isinstance(data, OpenedSeries):
        return collect_forecasts(data, MOST)
    train, test = (_collect_part(task, data, part) for part in ("train", "test"))
    return HeldOut(train, test, score_values if task == "text values" else score_classes)


def measure_simple(
    problem: Problem, data: Dataset, examples: HeldOut, say: Callable[[str], None]
) -> tuple[list[Measured], dict[str, str]]:
    """Fits and measures the simple methods of a task; and the reasons why some were not tried."""
    estimators = list_forecasters(data) if isinstance(data, OpenedSeries) else list_estimators(problem.task)
    return measure_estimators(problem, examples, estimators, say)


def _collect_part(task: str, data: Dataset, part: PART) -> Pairs:
    """Collects the inputs of a part as texts or as rows of numbers, with their classes or values."""
    if task in ("text classes", "text values"):
        assert isinstance(data, Shows)
        targets = collect_arrays(data, part, "labels" if task == "text classes" else "values").reshape(-1)
        texts = [str(data.show_example(part, index)) for index in range(len(targets))]
        return shuffle(texts, targets) if part == "train" else (texts, targets)
    assert isinstance(data, Labelled)
    arrays = collect_arrays(data, part, COLUMN[task])
    pairs = arrays.reshape(len(arrays), -1), data.labels(part)
    return shuffle(*pairs) if part == "train" else pairs


def shuffle(inputs: Inputs, targets: np.ndarray) -> Pairs:
    """Takes at most MOST examples in a random order."""
    order = np.random.default_rng(0).permutation(len(targets))[:MOST]
    chosen = [inputs[index] for index in order] if isinstance(inputs, list) else np.asarray(inputs)[order]
    return chosen, targets[order]


def collect_arrays(data: Dataset, part: PART, name: str) -> np.ndarray:
    """Collects an array of all examples of a part, in their order, from unshuffled batches."""
    batches = data.batches(part, 256, 1, None)
    rows: dict[int, np.ndarray] = {}
    for batch in batches.stream(0, len(batches)):
        present = batch["weights"] > 0
        rows |= dict(zip(map(int, batch["index"][present]), batch[name][present], strict=True))
    return np.stack([rows[index] for index in range(len(rows))])
