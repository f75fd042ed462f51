"""Distributions that first values of parameters are checked against."""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike


class Distribution(Protocol):
    """Raises AssertionError for values that it does not explain."""

    def explain(self, values: np.ndarray) -> None: ...


@dataclasses.dataclass(frozen=True)
class Constant:
    """One number everywhere."""

    value: float

    def explain(self, values: np.ndarray) -> None:
        np.testing.assert_allclose(values, self.value, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Values:
    """Numbers that follow from the shape."""

    of: Callable[[tuple[int, ...]], ArrayLike]

    def explain(self, values: np.ndarray) -> None:
        np.testing.assert_allclose(values, np.broadcast_to(self.of(values.shape), values.shape), atol=2e-5)


@dataclasses.dataclass(frozen=True)
class Normal:
    """Normal with mean 0, `deviation` a number or a function of the shape, cut at two deviations of the uncut one if
    `cut`.
    """

    deviation: float | Callable[[tuple[int, ...]], float]
    cut: bool = False

    def explain(self, values: np.ndarray) -> None:
        deviation = self.deviation(values.shape) if callable(self.deviation) else self.deviation
        count = values.size
        assert abs(values.mean()) < 4 * deviation / count**0.5, f"mean {values.mean()}, not 0"
        assert abs(values.std() / deviation - 1) < 4 / (2 * count) ** 0.5, f"deviation {values.std()}, not {deviation}"
        largest = np.abs(values).max() / deviation
        assert (largest <= 2.28) == self.cut or count < 1024, (
            f"largest {largest} deviations, which is {'not ' * self.cut}cut"
        )


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Uniform between two numbers after a transformation, `low` and `high` numbers or functions of the shape."""

    low: float | Callable[[tuple[int, ...]], float]
    high: float | Callable[[tuple[int, ...]], float]
    through: Callable[[np.ndarray], np.ndarray] = staticmethod(lambda values: values)

    def explain(self, values: np.ndarray) -> None:
        low, high = (end(values.shape) if callable(end) else end for end in (self.low, self.high))
        found, margin, count = self.through(values), (high - low) * 8 / values.size, values.size
        assert count >= 128, f"{count} numbers are too few to tell their range; make the form larger"
        slack = 1e-4 * (high - low)
        assert low - slack <= found.min() <= low + margin, f"from {found.min()}, not {low}"
        assert high - margin <= found.max() <= high + slack, f"to {found.max()}, not {high}"
        assert abs(found.mean() - (low + high) / 2) < 4 * (high - low) / (12 * count) ** 0.5, (
            f"mean {found.mean()}, not {(low + high) / 2}"
        )
        assert abs(found.std() / (high - low) * 12**0.5 - 1) < 2 / count**0.5, (
            f"deviation {found.std()} between {low} and {high}"
        )


@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """Rows or columns, whichever are fewer, at right angles and of one length."""

    gain: float

    def explain(self, values: np.ndarray) -> None:
        thin = values if values.shape[0] <= values.shape[1] else values.T
        np.testing.assert_allclose(thin @ thin.T, self.gain**2 * np.eye(len(thin)), atol=1e-5 * self.gain)
        assert abs(values.mean()) < 5 * values.std() / values.size**0.5


def rows(shape: tuple[int, ...]) -> float:
    """1 / sqrt of the length of the last axis but one."""
    return shape[-2] ** -0.5


def columns(shape: tuple[int, ...]) -> float:
    """1 / sqrt of the length of the last axis."""
    return shape[-1] ** -0.5


def window(shape: tuple[int, ...]) -> float:
    """1 / sqrt of all axes but the last, as of a convolution's kernel."""
    return math.prod(shape[:-1]) ** -0.5
