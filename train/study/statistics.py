"""How sure a measured number is."""

import math
from collections.abc import Sequence

from scipy.special import stdtrit

from train.sums import Moments

LEVEL = 0.95


def interval(parts: Sequence[Moments]) -> tuple[float, float]:
    """(R, half width of its 95 % confidence interval) of a ratio R = sum(s_i) / sum(w_i) over n examples i, in any number of parts.

    The example is what is drawn anew in another test set: a picture, a sentence, a clip; of a text the document, or the window that it is
    cut into.  The interval does not depend on how examples were put into batches.

    In general the half width is t sqrt(n / (n - 1) sum (s_i - R w_i)^2) / sum(w_i), t the 97.5 % quantile of Student's distribution with
    n - 1 degrees of freedom: the linearised variance of a ratio (Cochran, Sampling Techniques, 1977, equation 6.12), which for equal
    weights is that of a mean.

    If every example is either right or wrong (s_i is w_i or 0) it is Wilson's interval for a proportion (J. Am. Stat. Assoc. 22, 1927),
    which is no point where all are right: (R + z^2 / 2n +- z sqrt(R (1 - R) / n + z^2 / 4n^2)) / (1 + z^2 / n), z = 1.96, and n the
    effective number (sum w)^2 / sum w^2.  It is not symmetric about R; the half width reaches its farther end.

    The half width is infinite where examples are not told apart, or one alone is no right or wrong; R is not a number without weight.
    """
    counted = [tuple(float(number) for number in part) for part in parts if float(part.weight) > 0]
    weight = sum(part[1] for part in counted)
    if not weight:
        return math.nan, math.inf
    ratio = sum(part[0] for part in counted) / weight
    count = squares = weights = mixed = 0.0
    for value, own, number, about, products, heavy, unlike in counted:
        shift = value / own - ratio
        squares += about + 2 * shift * products + shift**2 * heavy
        count, weights, mixed = count + number, weights + heavy, mixed + unlike
    if not count:
        return ratio, math.inf
    if not mixed and 0 <= ratio <= 1:
        return ratio, wilson(ratio, weight**2 / weights)
    if count < 2:
        return ratio, math.inf
    return ratio, float(stdtrit(count - 1, (1 + LEVEL) / 2)) * math.sqrt(max(squares, 0.0) * count / (count - 1)) / weight


def wilson(share: float, count: float) -> float:
    """How far the farther end of Wilson's 95 % interval is from a share of `count` examples."""
    z = float(stdtrit(math.inf, (1 + LEVEL) / 2))
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return half + abs(centre - share)
