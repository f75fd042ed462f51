"""Drives on a highway: drivers without a transformer at the wheel, in the review's simulation."""

from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression

from tests.benchmarks.baselines import Figures
from train.data.source import dataset
from train.driving import Highway, Style, drive
from train.review.driving import ClosedLoop, total


def drives(name: str) -> Figures:
    """The expert, no action at all, and a linear regression of the expert's actions on what it saw."""
    examples = dataset(name, "train").examples
    rows: list[Any] = [examples[index] for index in range(len(examples))]
    linear = LinearRegression().fit(*(np.concatenate([row[key] for row in rows]) for key in ("features", "actions")))
    wheels: dict[str, Any] = {
        "expert": None,
        "no action": lambda seen, rewards: np.zeros((len(seen), 2)),
        "linear": lambda seen, rewards: linear.predict(seen),
    }
    review, found, best = ClosedLoop(), dict[str, dict[str, float]](), 0.0
    for driver, wheel in wheels.items():
        trips = drive([Highway("closed", number, [Style()]) for number in range(review.episodes)], wheel, review.steps)
        best = best or total(trips)
        found[driver] = review.measured(trips) | {"reward_ratio": total(trips) / best, "reward": total(trips) / len(trips)}
    return found
