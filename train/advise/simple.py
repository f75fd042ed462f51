"""Simple methods of scikit-learn for each task: what a model has to beat."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from train.advise.measured import Measured
from train.contracts import PART, Dataset, Labelled, Shows
from train.data.tasks.series import OpenedSeries

MOST = 20_000  # examples that a simple method is trained on


@runtime_checkable
class Estimator(Protocol):
    """An estimator of scikit-learn."""

    def fit(self, x: object, y: np.ndarray) -> object: ...

    def predict(self, x: object) -> np.ndarray: ...


Inputs = Sequence[str] | np.ndarray
Pairs = tuple[Inputs, np.ndarray]  # inputs of examples, and what they are predicted to be


def list_estimators(task: str) -> dict[str, BaseEstimator]:
    """Lists the estimators of a task by their names, the cheapest first."""
    words, scaled = lambda: TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), StandardScaler
    classes: dict[str, BaseEstimator] = {"most frequent class": DummyClassifier()}
    values: dict[str, BaseEstimator] = {"training mean": DummyRegressor()}
    match task:
        case "text classes":
            return classes | {
                "words, linear": make_pipeline(words(), LogisticRegression(C=30, max_iter=1000)),
                "words, nearest": make_pipeline(words(), KNeighborsClassifier(5, metric="cosine")),
            }
        case "text values":
            return values | {
                "words, linear": make_pipeline(words(), Ridge(1.0)),
                "words, nearest": make_pipeline(words(), KNeighborsRegressor(5, metric="cosine")),
            }
        case "image classes" | "video classes":
            return classes | {
                "pixels, linear": make_pipeline(scaled(), LogisticRegression(C=0.01, max_iter=200)),
                "pixels, nearest": KNeighborsClassifier(5),
            }
        case _:
            return values | {"window, linear": Ridge(10.0)}


def measure_simple(
    task: str, data: Dataset, say: Callable[[str], None], shares: Sequence[float] = (1.0,)
) -> Iterator[Measured]:
    """Fits and measures the simple methods of a task; with `shares` also on the first part of the examples."""
    if isinstance(data, OpenedSeries):
        yield from _measure_forecasts(data)
        return
    train, test = (_collect(task, data, part) for part in ("train", "test"))
    for name, estimator in list_estimators(task).items():
        for share in shares:
            say(f"{name}, on {share:.0%} of the examples")
            yield measure_estimator(name, estimator, _take_share(train, share), test, task != "text values", share)


def _take_share(pairs: Pairs, share: float) -> Pairs:
    inputs, targets = pairs
    count = max(2, round(share * len(targets)))
    return inputs[:count], targets[:count]


def measure_estimator(
    name: str, estimator: BaseEstimator, train: Pairs, test: Pairs, right: bool, share: float = 1.0
) -> Measured:
    """Fits an estimator and scores its answers: 1 if right, or absolute errors."""
    assert isinstance(estimator, Estimator)
    began = time.perf_counter()
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        estimator.fit(*train)
    fitted = time.perf_counter()
    answers = estimator.predict(test[0])
    spent = (time.perf_counter() - fitted) / len(test[1])
    scores = (answers == test[1]).astype(float) if right else np.abs(answers - test[1])
    return Measured(name, "simple", scores, fitted - began, spent, describe(estimator), share=share)


def describe(estimator: BaseEstimator) -> str:
    """Describes an estimator in a line: its steps, with the settings that are not scikit-learn's defaults."""
    if isinstance(estimator, Pipeline):
        return ", then ".join(describe(step) for _, step in estimator.steps)
    if isinstance(estimator, ColumnTransformer):
        return " and ".join(f"{describe(step)} of {name}" for name, step, _ in estimator.transformers)
    return " ".join(repr(estimator).split())


def _collect(task: str, data: Dataset, part: PART) -> Pairs:
    """Collects the inputs of a part as texts or as rows of numbers, with their classes or values, in a random order."""
    if task in ("text classes", "text values"):
        assert isinstance(data, Shows)
        targets = _collect_arrays(data, part, "labels" if task == "text classes" else "values").reshape(-1)
        inputs: Inputs = [str(data.show_example(part, index)) for index in range(len(targets))]
    else:
        inputs = _collect_arrays(data, part, "image" if task == "image classes" else "video")
        inputs = inputs.reshape(len(inputs), -1)
        assert isinstance(data, Labelled)
        targets = data.labels(part)
    if part == "test":
        return inputs, targets
    order = np.random.default_rng(0).permutation(len(targets))[:MOST]
    chosen = [inputs[index] for index in order] if isinstance(inputs, list) else np.asarray(inputs)[order]
    return chosen, targets[order]


def _collect_arrays(data: Dataset, part: PART, name: str) -> np.ndarray:
    """Collects an array of all examples of a part, in their order, from unshuffled batches."""
    batches = data.batches(part, 256, 1, None)
    rows: dict[int, np.ndarray] = {}
    for batch in batches.stream(0, len(batches)):
        present = batch["weights"] > 0
        rows |= dict(zip(map(int, batch["index"][present]), batch[name][present], strict=True))
    return np.stack([rows[index] for index in range(len(rows))])


def average_series(data: Dataset, scores: np.ndarray) -> np.ndarray:
    """Averages scores of windows over the series that begin at the same step."""
    if isinstance(data, OpenedSeries) and not data.together:
        return scores.reshape(-1, data.values.shape[1]).mean(1)
    return scores


def _measure_forecasts(data: OpenedSeries) -> Iterator[Measured]:
    """Measures the last value, each lag, and ridge regression on the window, in the units of the data."""
    past, future = _collect_windows(data, "test", data.count("test"))
    horizon = data.spec.horizon

    def scores(guess: np.ndarray) -> np.ndarray:
        return average_series(data, np.abs(guess - future).mean(1))

    yield Measured("last value", "simple", scores(past[:, -1:]), 0.0, 0.0, "y[t + h] = y[t]")
    for lag in data.spec.lags:
        shifted = past[:, len(past[0]) - lag : len(past[0]) - lag + horizon]
        name = f"{lag} steps before"
        yield Measured(name, "simple", scores(shifted), 0.0, 0.0, f"y[t + h] = y[t + h - {lag}]")
    began = time.perf_counter()
    seen, following = _collect_windows(data, "train", MOST)
    model = Ridge(10.0)
    (mean, scale), (centre, spread) = map(_measure_spread, (seen, past))
    model.fit((seen - mean) / scale, (following - mean) / scale)
    fitted = time.perf_counter()
    guess = np.asarray(model.predict((past - centre) / spread)) * spread + centre
    spent = (time.perf_counter() - fitted) / len(past)
    yield Measured("window, linear", "simple", scores(guess), fitted - began, spent, describe(model))


def _measure_spread(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spread = windows.std(1, keepdims=True)
    return windows.mean(1, keepdims=True), np.where(spread > 1e-6, spread, 1.0)


def _collect_windows(data: OpenedSeries, part: PART, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Collects past values (n, before) and what follows (n, horizon), of at most so many windows spread over a part."""
    chosen = np.linspace(0, data.count(part) - 1, min(most, data.count(part))).astype(int)
    both = [data.window(part, int(index)) for index in chosen]
    past, future = (np.stack([window[side][:, 0] for window in both]) for side in (0, 1))
    return past, future
