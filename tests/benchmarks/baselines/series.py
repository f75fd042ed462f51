"""Series: the last value, last week's, and a linear model of the weeks before."""

from typing import Any

import numpy as np
from sklearn.linear_model import Ridge

from tests.benchmarks.baselines import ALL, Figures
from train.config import load_config

ROWS = 40_000  # windows that the regression learns from, spread over the training part
STRENGTH = 10.0


def forecasts(config: str, most: int = ALL) -> Figures:
    """Mean absolute error at the horizons of a config's review, on the windows that its model is tested on, in the
    units of the data.

    The regression sees every hour that the model may see, of its context and its longest lag, less their mean over
    their deviation, and no covariates.
    """
    experiment: Any = load_config(config, [])[0]
    data, horizons, season = experiment.data.open(), experiment.review.horizons, experiment.review.season
    ahead = np.array(horizons) - 1
    seen, following = windows(data, "train", min(ROWS, most))
    past, future = windows(data, "test", most)
    truth = future[:, ahead]
    scaled, (middle, spread) = normal(past), places(past)
    own, (before, width) = normal(seen), places(seen)
    model = Ridge(STRENGTH).fit(own, (following[:, ahead] - before) / width)
    guesses = {
        "last value": np.repeat(past[:, -1:], len(ahead), 1),
        f"{season} steps before": past[:, ahead - season],
        "ridge regression": np.asarray(model.predict(scaled)) * spread + middle,
    }
    return {
        method: {
            f"mae_{step}": float(np.abs(truth[:, place] - guess[:, place]).mean())
            for place, step in enumerate(horizons)
        }
        for method, guess in guesses.items()
    }


def windows(data: Any, part: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    """What is seen (n, before) and what follows (n, horizon) in `most` windows of each series, spread over the part."""
    chosen = np.linspace(0, data.count(part) - 1, min(most, data.count(part))).astype(int)
    both = [data.window(part, int(index)) for index in chosen]
    seen, following = (np.stack([window[side].T for window in both]) for side in (0, 1))
    return seen.reshape(-1, seen.shape[-1]), following.reshape(-1, following.shape[-1])


def places(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of every window, and its deviation, 1 where there is none."""
    spread = windows.std(1, keepdims=True)
    return windows.mean(1, keepdims=True), np.where(spread > 1e-6, spread, 1.0)


def normal(windows: np.ndarray) -> np.ndarray:
    """Windows of mean 0 and deviation 1."""
    middle, spread = places(windows)
    return (windows - middle) / spread
