"""Verdicts on paired differences that stay valid however often they are looked at.

A variant and the baseline are trained on the same seeds; x_i is the difference of their held-out losses for seed i,
below 0 if the variant is better.  The differences are taken to be independent and normal, of unknown mean and variance.

The e-value of the hypothesis that the mean is m, after n seeds, with d = mean(x) - m and S = sum (x_i - mean(x))^2, is

    E(m) = average over g of (1 + n g)^(-1/2) ((S + n d^2) / (S + n d^2 / (1 + n g)))^(n / 2),

the likelihood ratio of the standardised differences for a mean of N(0, g) standard deviations: a test martingale that
starts at 1, whatever the variance (arXiv:2310.03722, the scale-invariant t-test martingale with a Gaussian mixture).
The chance that it ever exceeds 1 / alpha is at most alpha (Ville), so seeds may be added until a verdict is reached.
The set of all m with E(m) < 1 / alpha, for every n so far, is a confidence sequence.
"""

import bisect
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import scipy.optimize
from scipy.special import stdtr

from train.variants import ALPHA

EFFECTS = (1.0, 10.0, 100.0)  # g: variances of the mean in standard deviations of a difference
DRAWS = 10_000  # of the bootstrap
Word = Literal["better", "worse", "no difference shown", "as good", "disqualified"]


def log_e_value(differences: Sequence[float], mean: float = 0.0) -> float:
    """The logarithm of E(mean); 0 for less than two differences, and if all of them equal `mean`."""
    return float(log_e_values(differences, mean)[-1]) if len(differences) else 0.0


def log_e_values(differences: Sequence[float] | np.ndarray, mean: float = 0.0) -> np.ndarray:
    """The logarithms of E(mean) after 1, ..., n differences; (..., n) for differences (..., n)."""
    x = np.asarray(differences, np.float64) - mean
    n = np.arange(1, x.shape[-1] + 1)
    sums = np.cumsum(x, axis=-1)
    means = sums / n
    before = np.concatenate([np.zeros_like(x[..., :1]), means[..., :-1]], axis=-1)
    spread, shift = np.cumsum((x - before) * (x - means), axis=-1), n * means**2  # by Welford's recurrence
    sure = (n > 1) & (np.cumsum(x != 0, axis=-1) > 0)
    g, count = np.asarray(EFFECTS), n[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(spread + shift)[..., None] - np.log(spread[..., None] + shift[..., None] / (1 + count * g))
        values = np.logaddexp.reduce(count / 2 * ratio - np.log1p(count * g) / 2, axis=-1)
    return np.where(sure, values - math.log(len(g)), 0.0)


def find_p_value(differences: Sequence[float]) -> float:
    """The least 1 / E(0) over all looks so far: a p-value that is valid at any time."""
    return min(1.0, math.exp(-max(log_e_values(differences, 0.0), default=0.0)))


def find_interval(differences: Sequence[float], alpha: float = ALPHA) -> tuple[float, float]:
    """The confidence sequence of the mean after the last look: the intersection of the intervals of all looks.

    It is empty, with the lower end above the upper one, with probability at most alpha.
    """
    low, high = -math.inf, math.inf
    for n in range(2, len(differences) + 1):
        center, half = float(np.mean(differences[:n])), _half_width(differences[:n], alpha)
        low, high = max(low, center - half), min(high, center + half)
    return low, high


def _half_width(differences: Sequence[float], alpha: float) -> float:
    """The largest |d| with E(mean(x) - d) < 1 / alpha; E grows with |d|, up to a bound."""
    x = np.asarray(differences, np.float64)
    center, limit, scale = float(x.mean()), -math.log(alpha), float(x.std())
    if scale <= 1e-12 * abs(center):  # equal but for rounding
        return 0.0 if len(x) > 2 else math.inf

    def excess(log_d: float) -> float:
        return log_e_value(differences, center - math.exp(log_d)) - limit

    largest = math.log(scale) + 30.0
    if excess(largest) < 0:
        return math.inf
    return math.exp(scipy.optimize.root_scalar(excess, bracket=(math.log(scale) - 30.0, largest)).root)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A verdict on a variant after `seeds` paired runs; differences are of the loss, below 0 if it is better.

    `low` and `high` are the confidence sequence at the level alpha over the number of variants; one that reaches over 0
    ends there if Holm's steps, which reject more, exclude the other sign (doi:10.1002/sim.3338).  `p` is the
    anytime-valid p-value.  `t_p` and `bootstrap` are those of textbooks, for the reader: they hold for one look alone.
    `needed` is the number of seeds at which an undecided variant would be decided if its mean and spread stay.
    """

    word: Word
    seeds: int
    mean: float
    low: float
    high: float
    p: float
    t_p: float
    bootstrap: tuple[float, float]
    needed: int | None = None

    @property
    def is_decided(self) -> bool:
        """If no further seed is asked for."""
        return self.word != "no difference shown"


def judge(
    differences: Mapping[str, Sequence[float]], alpha: float = ALPHA, smallest: float = 0.0
) -> dict[str, Verdict]:
    """Verdicts on all variants together; the chance of one false `better` or `worse` is at most alpha (Holm).

    A variant is `as good` if its confidence sequence lies within `smallest` of 0, the smallest difference of interest.
    """
    p = {name: find_p_value(x) for name, x in differences.items()}
    rejected: set[str] = set()
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        if p[name] > alpha / (len(p) - rank):
            break
        rejected.add(name)
    return {name: _describe(x, p[name], name in rejected, alpha / len(p), smallest) for name, x in differences.items()}


def _describe(x: Sequence[float], p: float, is_rejected: bool, alpha: float, smallest: float) -> Verdict:
    mean = float(np.mean(x)) if x else math.nan
    low, high = find_interval(x, alpha)
    word: Word = "no difference shown"
    if is_rejected and mean < 0:
        word, high = "better", min(high, 0.0)
    elif is_rejected:
        word, low = "worse", max(low, 0.0)
    elif -smallest < low and high < smallest:
        word = "as good"
    needed = count_seeds(x, alpha) if word == "no difference shown" else None
    return Verdict(word, len(x), mean, low, high, p, _t_test(x), _bootstrap(x), needed)


def _t_test(x: Sequence[float]) -> float:
    if len(x) < 2 or not np.std(x):
        return 1.0 if not np.any(np.asarray(x)) else 0.0
    statistic = math.sqrt(len(x)) * float(np.mean(x)) / float(np.std(x, ddof=1))
    return 2 * float(stdtr(len(x) - 1, -abs(statistic)))


def _bootstrap(x: Sequence[float]) -> tuple[float, float]:
    """Percentiles 2.5 and 97.5 of the mean over resamples."""
    if len(x) < 2:
        return -math.inf, math.inf
    draws = np.random.default_rng(0).integers(len(x), size=(DRAWS, len(x)))
    low, high = np.percentile(np.asarray(x)[draws].mean(1), (2.5, 97.5))
    return float(low), float(high)


def count_seeds(differences: Sequence[float], alpha: float = ALPHA, most: int = 1000) -> int | None:
    """Seeds at which E(0) reaches 1 / alpha if mean and variance stay as they are; None if `most` are too few."""
    n = len(differences)
    if n < 2 or not np.mean(differences):
        return None
    mean, deviation = float(np.mean(differences)), float(np.std(differences, ddof=1))

    def decides(count: int) -> bool:
        half = deviation * math.sqrt((count - 1) / count)
        x = np.where(np.arange(count) % 2, half, -half)
        return log_e_value((x - x.mean() + mean).tolist()) >= -math.log(alpha)

    counts = range(n, most + 1)
    index = bisect.bisect_left(counts, True, key=decides)
    return counts[index] if index < len(counts) else None
