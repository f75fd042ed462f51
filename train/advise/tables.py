"""Simple methods on tables of numbers and classes, among them boosted trees."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from train.advise.measured import Measured
from train.advise.problem import LOOKED_AT, Problem, describe_columns
from train.advise.simple import measure_estimator
from train.data.sources import Split, read
from train.errors import InputError

FOLDS = 5  # of cross-validation
FEWEST = 50  # different rows


def measure_table(problem: Problem, say: Callable[[str], None]) -> Iterator[Measured]:
    """Fits and measures simple methods on a table by cross-validation, equal rows in the same fold.

    A row without the value to predict is left out and counted.
    """
    split = read(problem.path)
    rows = [split.examples[index] for index in range(len(split.examples))]
    known = [row for row in rows if row.get(problem.target) not in (None, "")]
    if len(known) < len(rows):
        say(f"{len(rows) - len(known)} of {len(rows)} rows have no {problem.target} and are left out")
    targets = _read_targets(problem, known, split)
    inputs = _encode(problem, known)
    groups = np.unique([str(sorted(row.items())) for row in known], return_inverse=True)[1]  # of equal rows
    if groups.max(initial=0) < FEWEST:
        raise InputError(f"{problem.path} has {groups.max(initial=-1) + 1} different rows; give at least {FEWEST + 1}.")
    kinds = describe_columns(known[:LOOKED_AT])
    classes = [number for number, name in enumerate(problem.features) if kinds[name] == "classes"]
    folds = list(GroupKFold(FOLDS, shuffle=True, random_state=0).split(inputs, targets, groups))
    for name, estimator in list_table_estimators(problem.greater, classes, len(problem.features)).items():
        say(name)
        fold = [
            measure_estimator(
                name, estimator, (inputs[train], targets[train]), (inputs[test], targets[test]), problem.greater
            )
            for train, test in folds
        ]
        scores = np.zeros(len(targets))
        for (_, test), trial in zip(folds, fold, strict=True):
            scores[test] = trial.scores
        seconds, answering = np.mean([(trial.seconds, trial.answering) for trial in fold], 0)
        yield dataclasses.replace(fold[0], scores=scores, seconds=float(seconds), answering=float(answering))


def list_table_estimators(greater: bool, classes: Sequence[int], count: int) -> dict[str, BaseEstimator]:
    """Lists the estimators of tables of `count` columns, of which `classes` are; `greater` for those of classes."""
    numbers = [number for number in range(count) if number not in classes]

    def prepare() -> ColumnTransformer:
        return ColumnTransformer(
            [
                ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), numbers),
                ("classes", OneHotEncoder(handle_unknown="ignore"), list(classes)),
            ]
        )

    if greater:
        return {
            "most frequent class": DummyClassifier(),
            "linear": make_pipeline(prepare(), LogisticRegression(max_iter=1000)),
            "nearest": make_pipeline(prepare(), KNeighborsClassifier(5)),
            "boosted trees": HistGradientBoostingClassifier().set_params(categorical_features=list(classes)),
        }
    return {
        "training mean": DummyRegressor(),
        "linear": make_pipeline(prepare(), Ridge(1.0)),
        "nearest": make_pipeline(prepare(), KNeighborsRegressor(5)),
        "boosted trees": HistGradientBoostingRegressor().set_params(categorical_features=list(classes)),
    }


def _read_targets(problem: Problem, rows: Sequence[dict[str, object]], split: Split) -> np.ndarray:
    values = [str(row[problem.target]).strip() for row in rows]
    if problem.greater:
        return np.array(values)
    try:
        return np.array([float(value) for value in values])
    except ValueError as error:
        raise InputError(f"{split.origin} has a {problem.target} that is no number ({error}); correct it.") from None


def _encode(problem: Problem, rows: Sequence[dict[str, object]]) -> np.ndarray:
    """Encodes rows as numbers (n, k): classes by their index in order of their names, missing values as NaN."""
    columns: list[list[float]] = []
    for name in problem.features:
        cells = [str(row.get(name) if row.get(name) is not None else "").strip() for row in rows]
        try:
            columns.append([float(cell) if cell else np.nan for cell in cells])
        except ValueError:
            index = {cell: float(number) for number, cell in enumerate(sorted(set(cells) - {""}))}
            columns.append([index.get(cell, np.nan) for cell in cells])
    return np.array(columns).T
