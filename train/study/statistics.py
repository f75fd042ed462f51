"""How sure a measured number is."""

import math
from collections.abc import Sequence

from train.objective import Sum


def interval(parts: Sequence[Sum], z: float = 1.96) -> tuple[float, float]:
    """(mean, half width of its 95 % confidence interval) of a ratio R = sum(s) / sum(w) over batches (s_i, w_i).

    variance = m / (m - 1) * sum (s_i - R w_i)^2 / (sum w)^2, the linearised ratio estimator with batches as clusters
    (Cochran, Sampling Techniques, 1977, chapter 6); infinite with fewer than two batches.
    """
    counted = [(float(part.value), float(part.weight)) for part in parts if float(part.weight) > 0]
    weight = sum(w for _, w in counted)
    if not weight:
        return math.nan, math.inf
    ratio = sum(s for s, _ in counted) / weight
    count = len(counted)
    if count < 2:
        return ratio, math.inf
    squares = sum((s - ratio * w) ** 2 for s, w in counted)
    return ratio, z * math.sqrt(count / (count - 1) * squares) / weight
