"""Simple methods on tables of numbers and classes, among them boosted trees."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from train.advise.examples import Folded, score_classes, score_values
from train.advise.problem import LOOKED_AT, Problem, describe_columns, is_number
from train.data.sources import Split, read
from train.errors import InputError

FOLDS = 5  # of cross-validation
FEWEST = 50  # different rows


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Rows of a table as numbers (n, k), classes by their index in `orders` of a feature, and targets (n,).

    `classes` are the numbers of the columns of classes, `groups` (n,) the same for equal rows.
    """

    inputs: np.ndarray
    targets: np.ndarray
    classes: list[int]
    groups: np.ndarray
    orders: dict[str, dict[str, int]]


def read_table(problem: Problem, say: Callable[[str], None]) -> Table:
    """Reads a table.  A row without the value to predict is left out and counted."""
    split = read(problem.path)
    rows = [split.examples[index] for index in range(len(split.examples))]
    known = [row for row in rows if row.get(problem.target) not in (None, "")]
    if len(known) < len(rows):
        say(f"{len(rows) - len(known)} of {len(rows)} rows have no {problem.target} and are left out")
    orders = _find_orders(problem, known)
    groups = np.unique([str(sorted(row.items())) for row in known], return_inverse=True)[1]
    kinds = describe_columns(known[:LOOKED_AT])
    classes = [number for number, name in enumerate(problem.features) if kinds[name] == "classes"]
    return Table(encode(problem, known, orders), _read_targets(problem, known, split), classes, groups, orders)


def fold_table(problem: Problem, table: Table) -> Folded:
    """Divides a table for cross-validation: equal rows in the same fold, classes or values alike in all of them.

    With other numbers of a class in each fold, the most frequent class of the others would be rarer in the one.
    """
    if (distinct := table.groups.max(initial=-1) + 1) <= FEWEST:
        raise InputError(f"{problem.path} has {distinct} different rows; give at least {FEWEST + 1}.")
    draw = np.random.default_rng(0)
    first = table.targets[np.unique(table.groups, return_index=True)[1]]  # the target of each group
    ranks = np.unique(first, return_inverse=True)[1] if problem.greater else np.argsort(np.argsort(first)) // FOLDS
    order = np.lexsort((draw.random(distinct), ranks))
    fold = np.argsort(order)[table.groups] % FOLDS
    parts = [(draw.permutation(np.flatnonzero(fold != part)), np.flatnonzero(fold == part)) for part in range(FOLDS)]
    return Folded(table.inputs, table.targets, parts, score_classes if problem.greater else score_values)


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


def _read_targets(problem: Problem, rows: Sequence[Mapping[str, object]], split: Split) -> np.ndarray:
    values = [str(row[problem.target]).strip() for row in rows]
    if problem.greater:
        return np.array(values)
    try:
        return np.array([float(value) for value in values])
    except ValueError as error:
        raise InputError(f"{split.origin} has a {problem.target} that is no number ({error}); correct it.") from None


def _find_orders(problem: Problem, rows: Sequence[Mapping[str, object]]) -> dict[str, dict[str, int]]:
    """Numbers the cells of features that are no numbers, in order of their names."""
    orders: dict[str, dict[str, int]] = {}
    for name in problem.features:
        cells = {_read_cell(row, name) for row in rows} - {""}
        if not all(map(is_number, cells)):
            orders[name] = {cell: number for number, cell in enumerate(sorted(cells))}
    return orders


def encode(
    problem: Problem, rows: Sequence[Mapping[str, object]], orders: Mapping[str, Mapping[str, int]]
) -> np.ndarray:
    """Encodes the features of rows as numbers (n, k); cells that are missing or in no order are NaN."""
    columns: list[list[float]] = []
    for name in problem.features:
        cells = [_read_cell(row, name) for row in rows]
        if name in orders:
            columns.append([orders[name].get(cell, np.nan) for cell in cells])
        else:
            columns.append([float(cell) if is_number(cell) else np.nan for cell in cells])
    return np.array(columns).T


def _read_cell(row: Mapping[str, object], name: str) -> str:
    return "" if row.get(name) is None else str(row[name]).strip()
