"""Examples to fit and measure estimators on: inputs and targets, with a held-out part or by cross-validation."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from train.advise.measured import Kind, Measured
from train.advise.problem import Problem
from train.advise.terms import CONSTANT, FEATURES, NOTHING, find_terms

MANY = 20_000  # examples for which several threads pay
Inputs = Sequence[str] | np.ndarray
Pairs = tuple[Inputs, np.ndarray]  # inputs of examples, and what they are predicted to be
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (answers, targets) -> scores (n,)


@runtime_checkable
class Estimator(Protocol):
    """An estimator of scikit-learn."""

    def fit(self, x: object, y: np.ndarray) -> object: ...

    def predict(self, x: object) -> np.ndarray: ...


def score_classes(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """1 for each right answer, 0 for others."""
    return (answers == targets).astype(float)


def score_values(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The absolute error of each answer."""
    return np.abs(answers - targets)


class Examples(Protocol):
    """Examples that an estimator is measured on, fitted to the first `share` of those to train on."""

    def measure(self, name: str, estimator: BaseEstimator, share: float = 1.0) -> Measured: ...


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Examples of a training and a test part; those of the former are in a random order."""

    train: Pairs
    test: Pairs
    score: Score
    kind: Kind = "simple"
    preparing: float = 0.0  # seconds of preparing an example, as by a pretrained model
    seconds: float = 0.0  # of preparing all that are trained on

    def measure(self, name: str, estimator: BaseEstimator, share: float = 1.0) -> Measured:
        """Fits an estimator to the training part and scores its answers on the test part."""
        model = clone(estimator)
        assert isinstance(model, Estimator)
        inputs, targets = take_share(self.train, share)
        began = time.perf_counter()
        threads = 1 if len(targets) < MANY else None  # OpenMP's wait for each other, the longer the busier the machine
        with (
            warnings.catch_warnings(action="ignore", category=ConvergenceWarning),
            threadpool_limits(threads, user_api="openmp"),
        ):
            model.fit(inputs, targets)
        fitted = time.perf_counter()
        answers = model.predict(self.test[0])
        spent = (time.perf_counter() - fitted) / len(self.test[1])
        terms = find_terms(estimator) if self.kind == "simple" else FEATURES
        return Measured(
            name,
            "baseline" if terms in (NOTHING, CONSTANT) else self.kind,
            self.score(answers, self.test[1]),
            fitted - began + share * self.seconds,
            spent + self.preparing,
            describe(estimator),
            terms,
            share=share,
            memory=count_bytes(model),
            estimator=estimator,
            examples=len(targets),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Folded:
    """Examples (n,) by cross-validation: each fold has the indices to train on, in a random order, and to test on."""

    inputs: np.ndarray
    targets: np.ndarray
    folds: Sequence[tuple[np.ndarray, np.ndarray]]
    score: Score

    def measure(self, name: str, estimator: BaseEstimator, share: float = 1.0) -> Measured:
        """Fits an estimator in each fold and scores its answers on all examples; costs are means over folds."""
        scores = np.full(len(self.targets), np.nan)
        trials: list[Measured] = []
        for train, test in self.folds:
            known, asked = ((self.inputs[part], self.targets[part]) for part in (train, test))
            trials.append(HeldOut(known, asked, self.score).measure(name, estimator, share))
            scores[test] = trials[-1].scores
        seconds, answering = np.mean([(trial.seconds, trial.answering) for trial in trials], 0)
        return dataclasses.replace(trials[0], scores=scores, seconds=float(seconds), answering=float(answering))


def measure_estimators(
    problem: Problem, examples: Examples, estimators: Mapping[str, BaseEstimator], say: Callable[[str], None]
) -> tuple[list[Measured], dict[str, str]]:
    """Measures the estimators that the limits of a problem allow; and the reasons why the others were not tried."""
    measured: list[Measured] = []
    refused: dict[str, str] = {}
    for name, estimator in estimators.items():
        terms = find_terms(estimator)
        if (reason := problem.limits.refuse(terms)) is not None:
            refused[name] = reason
            continue
        say(name)
        measured.append(examples.measure(name, estimator))
    return measured, refused


def take_share(pairs: Pairs, share: float) -> Pairs:
    """Takes the first examples."""
    inputs, targets = pairs
    count = max(2, round(share * len(targets)))
    return inputs[:count], targets[:count]


def describe(estimator: BaseEstimator) -> str:
    """Describes an estimator in a line: its steps, with the settings that are not scikit-learn's defaults."""
    if isinstance(estimator, Pipeline):
        return ", then ".join(describe(step) for _, step in estimator.steps)
    if isinstance(estimator, ColumnTransformer):
        return " and ".join(f"{describe(step)} of {name}" for name, step, _ in estimator.transformers)
    return " ".join(repr(estimator).split())


def _list_fields(value: object) -> list[object]:
    try:
        return list(vars(value).values())
    except TypeError:  # of a value without fields
        return []


def count_bytes(fitted: object) -> int:
    """Counts the bytes of the arrays and texts that a fitted estimator holds, each once."""
    seen: set[int] = set()
    left, total = [fitted], 0
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        match value:
            case np.ndarray() if value.dtype != object:
                total += value.nbytes
            case str() | bytes():
                total += len(value)
            case dict():
                left += [*value, *value.values()]
            case list() | tuple() | set() | frozenset():
                left += value
            case np.ndarray():
                left += value.ravel().tolist()
            case int() | float() | None:
                pass
            case _:
                left += _list_fields(value)
    return total
