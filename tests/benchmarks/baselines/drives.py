"""Drives on a highway: drivers without a transformer at the wheel, in the review's simulation."""

from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression

from configs import drive_decision
from tests.benchmarks.baselines import ALL, Figures, rows
from train.data.simulators.highway import Highway, Style, drive
from train.data.tasks.drives import sum_returns
from train.review.driving import ClosedLoop, correlate, sum_rewards


def drives(name: str, most: int = ALL) -> Figures:
    """The expert, no action at all, and a linear regression of the expert's actions on what it saw."""
    logs, review = rows(name, "train", most), ClosedLoop()
    linear = LinearRegression().fit(*(np.concatenate([row[key] for row in logs]) for key in ("features", "actions")))
    wheels: dict[str, Any] = {
        "expert": None,
        "no action": lambda seen, rewards: np.zeros((len(seen), 2)),
        "linear": lambda seen, rewards: linear.predict(seen),
    }
    found, best = dict[str, dict[str, float]](), 0.0
    for driver, wheel in wheels.items():
        trips = drive(
            [Highway("closed", number, [Style()]) for number in range(min(review.episodes, most))], wheel, review.steps
        )
        best = best or sum_rewards(trips)
        found[driver] = review.compute_metrics(trips) | {
            "reward_ratio": sum_rewards(trips) / best,
            "reward": sum_rewards(trips) / len(trips),
        }
    return found


def decisions(name: str, most: int = ALL) -> Figures:
    """A linear regression of what was done on what was seen and the return to go, asked for the returns that the config
    asks for.
    """
    config = drive_decision.experiment()
    spec: Any = config.data
    review: Any = config.review
    logs, episodes = rows(name, "train", most), min(review.episodes, most)
    ahead = [spec.scale_returns(sum_returns(row["rewards"]), np.arange(len(row["rewards"])))[:, None] for row in logs]
    seen = np.concatenate([np.concatenate([row["features"], left], -1) for row, left in zip(logs, ahead, strict=True)])
    linear = LinearRegression().fit(seen, np.concatenate([row["actions"] for row in logs]))
    asked = np.repeat(review.asked, episodes)
    left, step = asked.copy(), 0

    def wheel(seen: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        nonlocal left, step
        left, step = left - rewards, step + 1
        return linear.predict(np.concatenate([seen, spec.scale_returns(left, np.array(step - 1))[:, None]], -1)).clip(
            -1, 1
        )

    trips = drive(
        [Highway("closed", number, [Style()]) for _ in review.asked for number in range(episodes)], wheel, review.steps
    )
    reached = np.array([sum(trip.rewards) for trip in trips])
    means = {f"reached_{one:g}": float(reached[asked == one].mean()) for one in review.asked}
    return {"linear": review.compute_metrics(trips) | {"return_correlation": correlate(asked, reached)} | means}
