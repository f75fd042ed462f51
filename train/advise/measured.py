"""Measured methods: what one got right on each held-out example, at what cost, and how two compare.

Held-out examples are dealt out to two parts: methods are chosen on `tuning` and reported on `verdict`, on which nothing
was chosen.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from scipy.special import stdtrit
from sklearn.base import BaseEstimator

from train.advise.terms import Terms
from train.sums import LEVEL, wilson_half_width

Kind = Literal["baseline", "simple", "frozen", "fine-tuned", "from scratch"]
Part = Literal["tuning", "verdict"]
QUANTILE = float(stdtrit(math.inf, (1 + LEVEL) / 2))  # of the normal distribution, for intervals of LEVEL


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """A method on the held-out examples: `scores` (n,), 1 or 0 for right or wrong, or errors; NaN if not measured.

    `seconds` are those of training, `answering` those of an answer.  `command` trains it, or is its `estimator` of
    scikit-learn.  `steps` and `parameters` are 0 for what has none, `work` is the FLOPs of training a model.  `memory`
    is in bytes: of a model's training step on one device, or of a fitted estimator.
    """

    name: str
    kind: Kind
    scores: np.ndarray
    seconds: float
    answering: float
    command: str
    terms: Terms
    steps: int = 0
    parameters: int = 0
    work: float = 0.0
    share: float = 1.0  # of the examples to train on that it has seen
    memory: int | None = None
    estimator: BaseEstimator | None = None
    examples: int = 0  # that it was trained on, of estimators


@dataclasses.dataclass(frozen=True)
class Deal:
    """Held-out examples of each part, by their numbers: every other one, or halves if neighbours overlap (`block`).

    Scores of `block` neighbours are averaged before anything is counted.
    """

    count: int
    block: int = 1

    def pick(self, scores: np.ndarray, part: Part) -> np.ndarray:
        """Picks the scores of a part."""
        if self.block == 1:
            return scores[{"tuning": 0, "verdict": 1}[part] :: 2]
        half = self.count // 2
        chosen = scores[:half] if part == "tuning" else scores[half:]
        blocks = max(1, len(chosen) // self.block)
        return np.array([some.mean() for some in np.array_split(chosen, blocks)])

    def pool(self, scores: np.ndarray) -> np.ndarray:
        """The scores of both parts."""
        return np.concatenate([self.pick(scores, "tuning"), self.pick(scores, "verdict")])


def compute_mean(scores: np.ndarray) -> tuple[float, float]:
    """The mean of scores, and half of its 95 % interval: Wilson's if all are 0 or 1, else the normal one."""
    known = scores[~np.isnan(scores)]
    if not len(known):
        return math.nan, math.inf
    mean = float(known.mean())
    if np.isin(known, (0, 1)).all():
        return mean, wilson_half_width(mean, len(known))
    return mean, QUANTILE * float(known.std(ddof=1)) / math.sqrt(len(known)) if len(known) > 1 else math.inf


def is_shown_worse(scores: np.ndarray, best: np.ndarray, greater: bool) -> bool:
    """Tells if paired scores are worse than the best's, beyond the 95 % interval of the mean difference."""
    lost = (best - scores) if greater else (scores - best)
    lost = lost[~np.isnan(lost)]
    if len(lost) < 2:
        return False
    return float(lost.mean()) > QUANTILE * float(lost.std(ddof=1)) / math.sqrt(len(lost))
