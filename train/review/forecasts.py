"""Forecasts: errors by how far ahead, against what a clock and a calendar would say, and pictures of what was forecast."""

import dataclasses
import math

import numpy as np

from train.contracts import Dataset, Evidence, Findings
from train.errors import InputError
from train.page import Figure, Piece, drawn, table
from train.review.powers import Windowed, missing

BLUE, GREY = "#4269d0", "#555555"


Panel = tuple[int, np.ndarray, np.ndarray, np.ndarray]  # a window's place, what came before and after, its quantiles


@dataclasses.dataclass(frozen=True)
class Forecasts:
    """Mean absolute and root mean squared error by scikit-learn at each of `horizons` steps ahead (from 1), in the units of the data.

    The forecast is the middle quantile; `coverage` is the share of values between the outer two.  Beside them stand the errors of two
    forecasts that need no model, on the same windows: the last value, and the value `season` steps before, where the windows of the data
    reach so far back.  Horizons beyond that of the data are left out.  Draws `shown` windows.
    """

    horizons: tuple[int, ...] = (1, 3, 12)
    season: int = 168
    shown: int = 6

    def __post_init__(self) -> None:
        if not self.horizons or min(*self.horizons, self.season) < 1 or self.shown < 0:
            raise ValueError(
                f"Forecasts has horizons {self.horizons}, season {self.season} and shown {self.shown}; steps count from 1, shown from 0."
            )

    def ready(self, data: Dataset) -> None:
        """Raises InputError for data of no series, and if none of the horizons is forecast."""
        if not isinstance(data, Windowed):
            raise missing(self, data, "windows of series")
        if min(self.horizons) > data.spec.horizon:
            raise InputError(f"review.horizons is {self.horizons} and data.horizon {data.spec.horizon}; name a step that is forecast.")

    def names(self, data: Dataset) -> tuple[str, ...]:
        """The coverage, and both errors at each horizon that is forecast."""
        if not isinstance(data, Windowed):
            raise missing(self, data, "windows of series")
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
        truth, coverage = np.stack(truths, 1), float(np.mean(inside))  # (steps, windows, n)
        metrics, rows = {"coverage": coverage}, []
        methods = {"model: MAE / RMSE": guesses, "last value": lasts} | ({f"{self.season} steps before": seasons} if reached else {})
        for place, step in enumerate(steps):
            cells = []
            for given in methods.values():
                absolute, square = errors(truth[place], np.stack(given, 1)[place])
                cells.append(f"{absolute:.4g} / {square:.4g}")
                if given is guesses:
                    metrics |= {f"mae_{step}": absolute, f"rmse_{step}": square}
            rows.append((str(step), *cells))
        pictures: dict[str, Piece] = {"Errors on the test part": table(("steps ahead", *methods), rows)}
        if panels:
            pictures["Forecasts: the middle quantile and the outer two, over what came"] = self.drawn(data, evidence, panels)
        return Findings(metrics, pictures)

    def drawn(self, data: Windowed, evidence: Evidence, panels: list[Panel]) -> Figure:
        """The windows, each with the last steps that were seen."""
        from matplotlib.figure import Figure as Canvas

        across = 2 if len(panels) > 1 else 1
        down = -(-len(panels) // across)
        figure = Canvas((10, 2.3 * down), layout="tight")
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.axis("off")
        for axes, (index, past, future, quantiles) in zip(grid.flat, panels, strict=False):
            seen = min(4 * len(future), data.spec.context)
            shown, horizon = past[-seen:, 0], np.arange(len(future))
            axes.plot(np.arange(-len(shown), 0), shown, color=GREY, linewidth=1)
            axes.plot(horizon, future[:, 0], color=GREY, linewidth=1, linestyle="--", label="came")
            axes.fill_between(horizon, quantiles[:, 0, 0], quantiles[:, 0, -1], color=BLUE, alpha=0.25, linewidth=0)
            axes.plot(horizon, quantiles[:, 0, quantiles.shape[-1] // 2], color=BLUE, linewidth=1.5, label="forecast")
            axes.axvline(-0.5, color="#bbbbbb", linewidth=0.8)
            axes.set_title(data.shown(evidence.part, index), size=8)
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
        grid.flat[0].legend(frameon=False, fontsize=7)
        return drawn(figure)


def errors(truth: np.ndarray, guess: np.ndarray) -> tuple[float, float]:
    """Mean absolute and root mean squared error."""
    from sklearn import metrics

    flat = truth.reshape(-1), guess.reshape(-1)
    return float(metrics.mean_absolute_error(*flat)), float(metrics.root_mean_squared_error(*flat))
