"""Curves of held-out losses by seed: their mean, its band, and what they say about the compute of an equal loss."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

Curve = Sequence[tuple[int, float]]
FEWEST = 4  # seeds of a t interval; of fewer the band is from the lowest to the highest


def average_curves(curves: Sequence[Curve]) -> tuple[tuple[int, float], ...]:
    """Averages curves (step, loss) of several seeds."""
    return tuple((points[0][0], float(np.mean([loss for _, loss in points]))) for points in zip(*curves, strict=False))


def find_share_of_steps(curve: Curve, other: Curve) -> float | None:
    """The share of its steps after which the better of two mean curves has the last loss of the other one."""
    if len(curve) < 2 or len(other) < 2:
        return None
    better, aim = (curve, other[-1][1]) if curve[-1][1] <= other[-1][1] else (other, curve[-1][1])
    for (before, high), (after, low) in zip(better, better[1:], strict=False):
        if low <= aim < high:
            return (before + (high - aim) / (high - low) * (after - before)) / better[-1][0]
    return None


def compute_band(curves: Sequence[Curve], is_interval: bool) -> list[tuple[int, float, float]]:
    """The band (step, low, high) around the mean of curves: its 95 % interval by Student's t, or the lowest to the
    highest.  Empty for one curve."""
    band: list[tuple[int, float, float]] = []
    for points in zip(*curves, strict=False):
        losses = np.array([loss for _, loss in points])
        if len(losses) > 1 and np.isfinite(losses).all():
            low, high = compute_interval(losses) if is_interval else (float(losses.min()), float(losses.max()))
            band.append((points[0][0], low, high))
    return band


def compute_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of two or more values, by Student's t."""
    x = np.asarray(values, np.float64)
    half = float(stdtrit(len(x) - 1, 0.975)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return float(x.mean()) - half, float(x.mean()) + half
