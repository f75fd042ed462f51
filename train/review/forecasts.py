"""Forecasts: errors by horizon beside those of the last value and of the season, and pictures of forecasts."""

import dataclasses
import math

import numpy as np

from train.baselines import Baseline
from train.charts import Plot, Series
from train.contracts import Dataset, Evidence, Findings
from train.errors import InputError
from train.page import Panels, Piece, make_table
from train.review.powers import Windowed, make_missing_error

Panel = tuple[int, np.ndarray, np.ndarray, np.ndarray]  # a window's index, its past, its future, forecast quantiles


@dataclasses.dataclass(frozen=True)
class Forecasts:
    """Mean absolute and root mean squared error by scikit-learn at each of `horizons` steps ahead (from 1).

    Errors are in the units of the data.  The forecast is the middle quantile; `coverage` is the share of values between
    the outer two.  Baselines on the same windows are the last value and, if windows reach so far back, the value
    `season` steps before.  Horizons beyond that of the data are left out.  Draws `shown` windows.
    """

    horizons: tuple[int, ...] = (1, 3, 12)
    season: int = 168
    shown: int = 6

    def __post_init__(self) -> None:
        if not self.horizons or min(*self.horizons, self.season) < 1 or self.shown < 0:
            raise ValueError(
                f"Forecasts has horizons {self.horizons}, season {self.season} and shown {self.shown}; steps count"
                " from 1, shown from 0."
            )

    def ready(self, data: Dataset) -> None:
        """Raises InputError for data of no series, and if none of the horizons is forecast."""
        if not isinstance(data, Windowed):
            raise make_missing_error(self, data, "windows of series")
        if min(self.horizons) > data.spec.horizon:
            raise InputError(
                f"review.horizons is {self.horizons} and data.horizon {data.spec.horizon}; name a step that is"
                " forecast."
            )

    def names(self, data: Dataset) -> tuple[str, ...]:
        """The coverage, and both errors at each horizon that is forecast."""
        if not isinstance(data, Windowed):
            raise make_missing_error(self, data, "windows of series")
        steps = [step for step in self.horizons if step <= data.spec.horizon]
        return "coverage", *(f"{error}_{step}" for step in steps for error in ("mae", "rmse"))

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """The errors on all windows."""
        plain = dataclasses.replace(self, shown=0).review(evidence)
        return {name: (value, math.inf) for name, value in plain.metrics.items()}

    def review(self, evidence: Evidence) -> Findings:
        """The findings on all windows."""
        data = evidence.data
        self.ready(data)
        assert isinstance(data, Windowed)
        steps = [step for step in self.horizons if step <= data.spec.horizon]
        truths, guesses, lasts, seasons, inside = [], [], [], [], []
        panels: list[Panel] = []
        every = max(1, data.count(evidence.part) // max(1, self.shown))
        ahead = np.array(steps) - 1
        reached = max(ahead) < self.season <= data.spec.before
        for case in evidence.cases():
            past, future = data.window(evidence.part, case.index)
            quantiles = data.restored(case.output, case.target)
            truths.append(future[ahead])
            guesses.append(quantiles[ahead, :, quantiles.shape[-1] // 2])
            lasts.append(np.repeat(past[-1:], len(ahead), 0))
            seasons += [past[ahead - self.season]] if reached else []
            inside.append(np.mean((future >= quantiles[..., 0]) & (future <= quantiles[..., -1])))
            if case.index % every == every // 2 and len(panels) < self.shown:
                panels.append((case.index, past, future, quantiles))
        if not truths:
            return Findings()
        truth = np.stack(truths, 1)  # (steps, windows, n)
        metrics = {"coverage": float(np.mean(inside))}
        rows = []
        baselines: dict[str, tuple[Baseline, ...]] = {}
        methods = {"model: MAE / RMSE": guesses, "last value": lasts} | (
            {f"{self.season} steps before": seasons} if reached else {}
        )
        for index, step in enumerate(steps):
            cells = []
            for name, forecasts in methods.items():
                absolute, square = compute_errors(truth[index], np.stack(forecasts, 1)[index])
                cells.append(f"{absolute:.4g} / {square:.4g}")
                for metric, value in ((f"mae_{step}", absolute), (f"rmse_{step}", square)):
                    if forecasts is guesses:
                        metrics[metric] = value
                    else:
                        baselines[metric] = (*baselines.get(metric, ()), Baseline(name, value))
            rows.append((str(step), *cells))
        pictures: dict[str, Piece] = {"Errors on the test part": make_table(("steps ahead", *methods), rows)}
        if panels:
            pictures["Forecasts: the middle quantile and the outer two, over what came"] = self.draw_windows(
                data, evidence, panels
            )
        return Findings(metrics, pictures, baselines)

    def draw_windows(self, data: Windowed, evidence: Evidence, panels: list[Panel]) -> Panels:
        """Draws the windows, each with the last steps of its past."""
        plots = []
        for index, past, future, quantiles in panels:
            seen = past[-min(4 * len(future), data.spec.context) :, 0].tolist()
            before = tuple((float(step - len(seen) + 1), value) for step, value in enumerate(seen))
            ahead = [float(step) for step in range(1, len(future) + 1)]
            each = quantiles[:, 0].tolist()  # of the first series
            series = (
                Series("outer quantiles", tuple((x, q[0], q[-1]) for x, q in zip(ahead, each, strict=True)), "band"),
                Series("", before, colour=None),
                Series("came", tuple(zip(ahead, future[:, 0].tolist(), strict=True)), "dashed", None),
                Series("forecast", tuple((x, q[len(q) // 2]) for x, q in zip(ahead, each, strict=True))),
            )
            plots.append(Plot(series, "steps ahead", title=str(data.show_example(evidence.part, index))))
        return Panels(tuple(plots))


def compute_errors(truth: np.ndarray, guess: np.ndarray) -> tuple[float, float]:
    """Computes mean absolute and root mean squared error."""
    from sklearn import metrics

    flat = truth.reshape(-1), guess.reshape(-1)
    return float(metrics.mean_absolute_error(*flat)), float(metrics.root_mean_squared_error(*flat))
