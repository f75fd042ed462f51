"""Attacks on privacy as measurement: how well losses tell members from others, and what that says of epsilon.

A score is higher the likelier an example was in the training data; members and others are examples that did and did
not train the model, of one distribution.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri
from scipy.stats import beta

LEVEL = 0.95
RATES = (0.001, 0.01, 0.1)  # false positive rates at which true positive rates are given
Interval = tuple[float, float, float]  # an estimate, and the ends of its 95 % interval


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack's success: its AUC, and true positive rates by false positive rate, each with a 95 % interval.

    `epsilon` is a 95 % lower confidence bound of the epsilon of any (epsilon, delta)-private training that the attack
    would leave possible: see `bound_epsilon`.
    """

    members: int
    others: int
    auc: Interval
    rates: dict[float, Interval]
    epsilon: float


def measure_attack(members: np.ndarray, others: np.ndarray, delta: float = 0.0, seed: int = 0) -> Attack:
    """Measures how well scores (n,) and (m,) tell members from others."""
    rates = {rate: find_rate(members, others, rate) for rate in RATES if rate * len(others) >= 1}
    epsilon = bound_epsilon(members, others, delta, seed)
    return Attack(len(members), len(others), compute_auc(members, others), rates, epsilon)


def compute_auc(members: np.ndarray, others: np.ndarray) -> Interval:
    """Computes P(member > other) + P(equal) / 2 with its interval by Newcombe's fifth method.

    The bounds are the A with |A - auc| = z sqrt(A (1 - A) (1 + N (1 - A) / (2 - A) + N A / (1 + A)) / (n m)),
    N = (n + m) / 2 - 1 (Statistics in Medicine 25, 2006, pages 559 to 573): no point even if the AUC is 1.
    """
    order = np.sort(others)
    below, upto = np.searchsorted(order, members, "left"), np.searchsorted(order, members, "right")
    n, m = len(members), len(others)
    auc = float((below + upto).sum() / (2 * n * m))
    z, size = float(ndtri((1 + LEVEL) / 2)), (n + m) / 2 - 1

    def reaches(other: float) -> bool:
        spread = 1 + size * (1 - other) / (2 - other) + size * other / (1 + other)
        return abs(other - auc) <= z * math.sqrt(max(other * (1 - other) * spread, 0) / (n * m))

    return auc, _bisect(reaches, auc, 0.0), _bisect(reaches, auc, 1.0)


def _bisect(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """The last number from `inside` on, towards `outside`, for which a condition holds."""
    inside = min(max(inside, 1e-9), 1 - 1e-9)
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return inside


def find_rate(members: np.ndarray, others: np.ndarray, rate: float) -> Interval:
    """The true positive rate at the threshold that at most `rate` of the others pass, with Clopper-Pearson's interval.

    The threshold is taken as given.
    """
    ranked = np.sort(others)[::-1]
    threshold = ranked[min(int(rate * len(others)), len(others) - 1)]
    hits = int((members > threshold).sum())
    low, high = bound_share(hits, len(members))
    return hits / len(members), float(low), float(high)


def bound_share(hits: ArrayLike, count: int, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """The two-sided interval of Clopper and Pearson for shares (Biometrika 26, 1934), exact for binomial counts."""
    hits, tail = np.asarray(hits, float), (1 - level) / 2
    low = np.where(hits == 0, 0.0, beta.ppf(tail, np.maximum(hits, 1), count - hits + 1))
    return low, np.where(hits == count, 1.0, beta.ppf(1 - tail, hits + 1, np.maximum(count - hits, 1)))


def bound_epsilon(members: np.ndarray, others: np.ndarray, delta: float, seed: int = 0) -> float:
    """A 95 % lower confidence bound of epsilon: log((TPR - delta) / FPR), by bounds of both rates.

    Of (epsilon, delta)-private training every attack has TPR <= exp(epsilon) FPR + delta, and the same of the rates at
    which it says no (arXiv:1311.0776).  The attack, a threshold and a side, is chosen on half of the examples, and its
    rates are bounded on the other half by Clopper and Pearson (arXiv:2101.04535, arXiv:2302.07956), at 97.5 % each.
    Examples count as trials of their own.  0 if nothing is shown.
    """
    chance = np.random.default_rng(seed)
    (first, second), (third, fourth) = (np.array_split(chance.permutation(each), 2) for each in (members, others))
    if min(map(len, (first, second, third, fourth))) == 0:
        return 0.0
    thresholds = np.unique(np.quantile(np.concatenate([first, third]), np.linspace(0, 1, 200)))
    chosen = int(np.argmax(_bound_tests(first, third, thresholds, delta)))
    return max(float(_bound_tests(second, fourth, thresholds, delta)[chosen]), 0.0)


def _bound_tests(members: np.ndarray, others: np.ndarray, thresholds: np.ndarray, delta: float) -> np.ndarray:
    """The bounds of all tests: who is above a threshold is a member, then, who is below one is none."""
    above = [len(each) - np.searchsorted(np.sort(each), thresholds, "right") for each in (members, others)]
    below = [np.searchsorted(np.sort(each), thresholds, "left") for each in (others, members)]
    sizes = (len(members), len(others))
    bounds = []
    for (right, wrong), (count, other) in ((above, sizes), (below, sizes[::-1])):
        low, high = bound_share(right, count)[0] - delta, bound_share(wrong, other)[1]
        bounds.append(np.where(low > 0, np.log(np.maximum(low, 1e-300) / high), -math.inf))
    return np.concatenate(bounds)


def compute_exposure(canary: float, others: np.ndarray) -> Interval:
    """The exposure of a secret in bits: -log2 of the share of possible secrets that are at least as likely as it.

    arXiv:1802.08232, estimated from `others`, the losses of secrets drawn at random, beside the loss of the one that
    was in the training data: at most log2(len(others) + 1), and about 1 bit if nothing was memorised.
    """
    hits, count = int((others <= canary).sum()), len(others)
    low, high = map(float, bound_share(hits, count))
    return -math.log2((hits + 1) / (count + 1)), -math.log2(high), -math.log2(low) if low > 0 else math.inf
