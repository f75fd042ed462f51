"""Values of measures by group, and gaps between a group and the rest, corrected for their number."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from scipy.special import stdtrit
from scipy.stats import fisher_exact

from train.data.groups import Grouping
from train.sums import LEVEL, Moments, compute_interval, compute_wilson_limits
from train.use.bias.measures import Measure

DRAWS, DRAWS_PER_TEST = 1999, 100  # permutations of one test: at least, and times the number of tests
CELLS = 2_000_000  # numbers that are permuted at a time


@dataclasses.dataclass(frozen=True)
class Level:
    """A measure in one group: the number of examples that count, the value, the half width of its 95 % interval."""

    count: int
    value: float
    half: float


@dataclasses.dataclass(frozen=True)
class Gap:
    """The difference of a measure between a group and the rest, with its simultaneous interval and corrected p-value.

    It is `found` if p is at most 5 % and the interval does not hold 0.
    """

    columns: tuple[str, ...]
    group: str
    rest: str
    measure: str
    values: tuple[float, float]
    low: float
    high: float
    p: float

    @property
    def difference(self) -> float:
        """The value of the group less that of the rest."""
        return self.values[0] - self.values[1]

    @property
    def found(self) -> bool:
        """True if the gap is more than chance explains."""
        return self.p <= 1 - LEVEL and not self.low <= 0 <= self.high


def measure_levels(measure: Measure, grouping: Grouping) -> list[Level]:
    """Measures each group, in the order of their names."""
    return [measure_level(measure, grouping.members == index) for index in range(len(grouping.names))]


def measure_level(measure: Measure, chosen: np.ndarray) -> Level:
    """Measures the chosen examples (boolean, n): the interval is that of `train.sums.compute_interval`."""
    values, weights = measure.values[chosen], measure.weights[chosen]
    value, half = estimate(values, weights)
    return Level(int((weights > 0).sum()), value, half)


def estimate(values: np.ndarray, weights: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Estimates the ratio of sums of terms (n,) and weights (n,): see `train.sums.compute_interval`."""
    weight = weights.sum()
    rest = values - (values.sum() / weight if weight else 0) * weights
    sums = (
        values,
        weights,
        weights > 0,
        rest * rest,
        rest * weights,
        weights * weights,
        np.abs(values * (weights - values)),
    )
    moments = Moments(*(jnp.asarray(terms.sum()) for terms in sums))
    return compute_interval([moments], level)


@dataclasses.dataclass(frozen=True, eq=False)
class _Test:
    measure: Measure
    grouping: Grouping
    index: int

    def divide(self) -> tuple[np.ndarray, np.ndarray]:
        """The examples of the group and of the rest that count, as booleans (n,)."""
        inside, counts = self.grouping.members == self.index, self.measure.weights > 0
        return inside & counts, ~inside & counts

    @property
    def rest(self) -> str:
        """Name of the rest: the other group of two."""
        names = self.grouping.names
        return names[1] if len(names) == 2 else "the rest"


def compare_groups(measures: Sequence[Measure], groupings: Sequence[Grouping], least: int) -> list[Gap]:
    """Compares each group with the rest by every measure: a gap for each test, in the order of the measures.

    A group is tested if it and the rest have `least` examples that count; of two groups the first is, against the
    other.  Over all K tests the chance of any false finding is at most 5 % (Bonferroni): p-values are multiplied by K,
    and intervals have the level 1 - 0.05 / K.

    A share has Fisher's exact test and Newcombe's interval of a difference (Statistics in Medicine 17, 1998, method
    10), any other mean a permutation test of Welch's t (Janssen, Statistics and Probability Letters 36, 1997) and its
    interval.  Both tests are exact if the group says nothing about the terms of the measure.
    """
    tests = [
        test
        for measure in measures
        for grouping in groupings
        for test in (_Test(measure, grouping, index) for index in range(len(grouping.names)))
        if not (len(grouping.names) == 2 and test.index) and min(map(np.count_nonzero, test.divide())) >= least
    ]
    permuted = _permute([test for test in tests if not _is_share(test.measure)], len(tests))
    return [_compare(test, len(tests), permuted) for test in tests]


def _permute(tests: Sequence[_Test], count: int) -> dict[_Test, float]:
    """Computes p-values by permutations that the tests of one grouping and of the same examples share."""
    draws = max(DRAWS, DRAWS_PER_TEST * count)
    alike: dict[tuple[int, bytes], list[_Test]] = {}
    for test in tests:
        alike.setdefault((id(test.grouping), (test.measure.weights > 0).tobytes()), []).append(test)
    chances: dict[_Test, float] = {}
    for several in alike.values():
        measures = list({id(test.measure): test.measure for test in several}.values())
        counts = measures[0].weights > 0
        values, weights = (np.stack([side[counts] for side in sides]) for sides in _list_sides(measures))
        indices = sorted({test.index for test in several})
        p = compute_permuted(values, weights, several[0].grouping.members[counts], indices, draws)
        numbers = {id(measure): number for number, measure in enumerate(measures)}
        chances |= {test: float(p[indices.index(test.index), numbers[id(test.measure)]]) for test in several}
    return chances


def _list_sides(measures: Sequence[Measure]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [measure.values for measure in measures], [measure.weights for measure in measures]


def _compare(test: _Test, count: int, permuted: Mapping[_Test, float]) -> Gap:
    inside, outside = test.divide()
    measure, level = test.measure, 1 - (1 - LEVEL) / count
    sides = [(measure.values[chosen], measure.weights[chosen]) for chosen in (inside, outside)]
    if test in permuted:
        low, high = compute_welch(*sides, level=level)
        p = permuted[test]
    else:
        (hits, first), (others, second) = ((int(values.sum()), len(values)) for values, _ in sides)
        low, high = compute_newcombe(hits, first, others, second, level)
        p = float(np.asarray(fisher_exact([[hits, first - hits], [others, second - others]]))[1])
    shares = [values.sum() / weights.sum() for values, weights in sides]
    grouping = test.grouping
    return Gap(
        grouping.columns,
        grouping.names[test.index],
        test.rest,
        measure.name,
        (float(shares[0]), float(shares[1])),
        low,
        high,
        min(1.0, count * p),
    )


def _is_share(measure: Measure) -> bool:
    """Tells if every example that counts is 0 or 1, of weight 1."""
    counted = measure.weights > 0
    return bool(np.isin(measure.values[counted], (0, 1)).all() and (measure.weights[counted] == 1).all())


def compute_newcombe(hits: int, count: int, others: int, second: int, level: float) -> tuple[float, float]:
    """Computes the interval of the difference of two shares, hits / count - others / second, from Wilson's limits."""
    share, other = hits / count, others / second
    (low, high), (under, over) = (compute_wilson_limits(*both, level) for both in ((share, count), (other, second)))
    difference = share - other
    return (
        difference - math.hypot(share - low, over - other),
        difference + math.hypot(high - share, other - under),
    )


def compute_welch(
    side: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], level: float
) -> tuple[float, float]:
    """Computes Welch's interval of the difference of two ratios sum(s) / sum(w), with Satterthwaite's degrees."""
    (ratio, variance, count), (ratio2, variance2, count2) = (_estimate(*both) for both in (side, other))
    total = variance + variance2
    if not total:
        return ratio - ratio2, ratio - ratio2
    degrees = total**2 / (variance**2 / (count - 1) + variance2**2 / (count2 - 1))
    half = float(stdtrit(degrees, (1 + level) / 2)) * math.sqrt(total)
    return ratio - ratio2 - half, ratio - ratio2 + half


def _estimate(values: np.ndarray, weights: np.ndarray) -> tuple[float, float, int]:
    """The ratio, its linearised variance (see `train.sums.compute_interval`), and the number of examples."""
    count, weight = len(values), weights.sum()
    ratio = values.sum() / weight
    return float(ratio), float(np.square(values - ratio * weights).sum() / weight**2 * count / (count - 1)), count


def compute_permuted(
    values: np.ndarray, weights: np.ndarray, members: np.ndarray, groups: Sequence[int], draws: int, seed: int = 0
) -> np.ndarray:
    """Computes p-values (groups, m) of Welch's t between each group and the others by permutations of the groups.

    Terms are (m, n), of m measures.  p = (1 + permutations with |t| of the data's or more) / (1 + draws).
    """
    products = (values, weights, values * values, values * weights, weights * weights)
    terms = np.stack(products).reshape(5 * len(values), -1).T  # (n, 5 m)
    least = _compute_t(terms, members[None], groups) * (1 - 1e-9)
    chance = np.random.default_rng(seed)
    size = max(1, CELLS // len(members))
    more = np.zeros(least.shape[1:])
    for start in range(0, draws, size):
        shape = min(size, draws - start), len(members)
        drawn = chance.permuted(np.broadcast_to(members.astype(np.int16), shape), axis=1)
        more += (_compute_t(terms, drawn, groups) >= least).sum(0)
    return (1 + more) / (1 + draws)


def _compute_t(terms: np.ndarray, members: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Computes |t| of each group against the others, (d, groups, m), in d assignments of examples to groups (d, n)."""
    masks = [members == group for group in groups]
    counts = np.array([mask[0].sum() for mask in masks])[:, None]
    inside = np.stack([mask.astype(np.float64) @ terms for mask in masks], 1)  # (d, groups, 5 m)
    inside, whole = (sums.reshape(*sums.shape[:-1], 5, -1) for sums in (inside, terms.sum(0)))
    ratios, variances = [], []
    for sums, count in ((inside, counts), (whole - inside, len(terms) - counts)):
        total, weight, squares, products, heavy = np.moveaxis(sums, -2, 0)
        ratio = total / weight
        rest = np.maximum(squares - 2 * ratio * products + ratio * ratio * heavy, 0)
        ratios.append(ratio)
        variances.append(rest / weight**2 * count / (count - 1))
    apart, spread = np.abs(ratios[0] - ratios[1]), np.sqrt(variances[0] + variances[1])
    return np.divide(apart, spread, out=np.where(apart > 0, np.inf, 0.0), where=spread > 0)
