"""Simple methods of forecasts, on windows of one series: the last value, lags, ridge regression."""

from typing import Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.linear_model import Ridge

from train.advise.examples import HeldOut
from train.contracts import PART
from train.data.sources import read
from train.data.tasks.series import OpenedSeries
from train.errors import InputError


class Lag(BaseEstimator):
    """y[t + h] = y[t + h - steps] for the next `horizon` steps h; the last value for all of them if steps is 0."""

    def __init__(self, steps: int, horizon: int) -> None:
        self.steps = steps
        self.horizon = horizon

    @property
    def formula(self) -> str:
        """The forecast in a formula."""
        return "y[t + h] = y[t" + (f" + h - {self.steps}]" if self.steps else "]")

    def fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        """Learns nothing."""
        del x, y
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Forecasts (n, horizon) after past values (n, before)."""
        if not self.steps:
            return np.repeat(x[:, -1:], self.horizon, 1)
        first = x.shape[1] - self.steps
        return x[:, first : first + self.horizon]


class WindowRidge(BaseEstimator):
    """Ridge regression from the past values of a window to the next ones, both scaled by mean and spread of it."""

    def __init__(self, alpha: float = 10.0) -> None:
        self.alpha = alpha

    def fit(self, x: np.ndarray, y: np.ndarray) -> Self:
        """Fits past values (n, before) and what follows (n, horizon)."""
        mean, scale = _measure_spread(x)
        self.model_ = Ridge(self.alpha).fit((x - mean) / scale, (y - mean) / scale)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Forecasts (n, horizon) after past values (n, before)."""
        mean, scale = _measure_spread(x)
        return np.asarray(self.model_.predict((x - mean) / scale)) * scale + mean


def list_forecasters(data: OpenedSeries) -> dict[str, BaseEstimator]:
    """Lists the simple methods of forecasts by their names."""
    horizon = data.spec.horizon
    lags: dict[str, BaseEstimator] = {f"{lag} steps before": Lag(lag, horizon) for lag in data.spec.lags}
    return {"last value": Lag(0, horizon)} | lags | {"window, linear": WindowRidge()}


def collect_forecasts(data: OpenedSeries, most: int) -> HeldOut:
    """Collects windows of all series, at most so many to train on; scores are averaged over series, in their units."""

    def score(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return average_series(data, np.abs(answers - targets).mean(1))

    past, future = collect_windows(data, "train", most)
    order = np.random.default_rng(0).permutation(len(past))
    return HeldOut((past[order], future[order]), collect_windows(data, "test", data.count("test")), score)


def average_series(data: object, scores: np.ndarray) -> np.ndarray:
    """Averages scores of windows over the series that begin at the same step; other scores stay as they are."""
    if isinstance(data, OpenedSeries) and not data.together:
        return scores.reshape(-1, data.values.shape[1]).mean(1)
    return scores


def collect_windows(data: OpenedSeries, part: PART, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Collects past values (n, before) and what follows (n, horizon), of at most so many windows spread over a part."""
    chosen = np.linspace(0, data.count(part) - 1, min(most, data.count(part))).astype(int)
    both = [data.window(part, int(index)) for index in chosen]
    past, future = (np.stack([window[side][:, 0] for window in both]) for side in (0, 1))
    return past, future


def collect_last(data: OpenedSeries, path: str) -> np.ndarray:
    """Collects the last values of each series of a file (n, before), in their units."""
    values = data.spec.table(read(path), data.classes, data.notes).values
    if len(values) < data.spec.before:
        raise InputError(f"{path} has {len(values)} rows and {data.spec.before} are looked at; give at least as many.")
    return values[-data.spec.before :].T


def _measure_spread(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spread = windows.std(1, keepdims=True)
    return windows.mean(1, keepdims=True), np.where(spread > 1e-6, spread, 1.0)
