"""Learning curves: held-out quality over sizes, such as examples or steps, and what twice the largest would give.

Errors are fitted by E + A n^-a with E, A >= 0 (arXiv:1712.00409), a from a grid, by least squares.  There are about as
many sizes as parameters, so that residuals tell little: intervals are those of a bootstrap over held-out examples, for
each draw of which the curve is fitted again.  They do not have what another sample to train on would change.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from train.study.scaling import DRAWS, EXPONENTS, LEVELS

FEWEST = 3  # sizes


@dataclasses.dataclass(frozen=True)
class Growth:
    """The quality of a method over `sizes` of a `unit`; at `twice` the largest with its interval, by the fit.

    `gain` is the interval of what twice the size adds to the quality, and `last` of what the last size added to the
    one before, above 0 for better.
    """

    name: str
    unit: str
    sizes: tuple[int, ...]
    means: tuple[float, ...]
    twice: float
    interval: tuple[float, float]
    gain: tuple[float, float]
    last: tuple[float, float]

    @property
    def pays(self) -> bool:
        """True if the last size was better than the one before and twice of it is expected to be, beyond intervals."""
        return min(self.gain[0], self.last[0]) > 0


def fit_growth(
    name: str, unit: str, sizes: Sequence[int], scores: Sequence[np.ndarray], greater: bool, seed: int = 0
) -> Growth | None:
    """Fits the scores (n,) of the same held-out examples at each size; None for fewer than three sizes.

    Scores are 1 or 0 for right or wrong if `greater`, and else errors.
    """
    if len(set(sizes)) < FEWEST:
        return None
    order = np.argsort(sizes, kind="stable")
    ordered = np.array(sizes, np.float64)[order]
    errors = np.stack([1 - scores[index] if greater else scores[index] for index in order], 1)
    errors = errors[~np.isnan(errors).any(1)]
    if len(errors) < 2:
        return None
    count = len(errors)
    kinds, counts = np.unique(errors, axis=0, return_counts=True)  # few, of right and wrong
    draws = np.random.default_rng(seed).multinomial(count, counts / count, DRAWS) / count
    means = np.concatenate([errors.mean(0)[None], draws @ kinds])  # the first row is that of the data
    at = fit_curves(ordered, means, np.array([ordered[-1], 2 * ordered[-1]]))
    sign, offset = (-1, 1) if greater else (1, 0)
    low, high = np.sort(offset + sign * np.percentile(at[1:, 1], LEVELS))
    gain, last = (np.percentile(some, LEVELS) for some in (at[1:, 0] - at[1:, 1], means[1:, -2] - means[1:, -1]))
    return Growth(
        name,
        unit,
        tuple(int(size) for size in ordered),
        tuple((offset + sign * means[0]).tolist()),
        float(offset + sign * at[0, 1]),
        (float(low), float(high)),
        (float(gain[0]), float(gain[1])),
        (float(last[0]), float(last[1])),
    )


def fit_curves(sizes: np.ndarray, errors: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Fits E + A n^-a to each row of errors (rows, k) at sizes (k,); the fitted errors (rows, m) at sizes `where`."""
    least = np.full(len(errors), np.inf)
    fitted = np.zeros((len(errors), len(where)))
    for exponent in EXPONENTS:
        z, ahead = (sizes / sizes[-1]) ** -exponent, (where / sizes[-1]) ** -exponent
        centred = z - z.mean()
        factor = errors @ centred / (centred @ centred)
        floor = errors.mean(1) - factor * z.mean()
        # where one of both would be negative, the other is fitted alone
        alone = errors @ z / (z @ z)
        factor, floor = np.where(floor < 0, alone, factor), np.maximum(floor, 0)
        factor, floor = np.maximum(factor, 0), np.where(factor < 0, errors.mean(1), floor)
        lost = np.square(floor[:, None] + factor[:, None] * z - errors).sum(1)
        better = lost < least
        least = np.where(better, lost, least)
        fitted[better] = floor[better, None] + factor[better, None] * ahead
    return fitted
