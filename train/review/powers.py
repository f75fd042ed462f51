"""Protocols of data that reviews read, and the error for data without them."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from train.contracts import PART, Arrays, Dataset, Ends, Restores, Review, Shows
from train.data.readers.scenes import Scene
from train.data.tasks.drives import Drives
from train.data.tasks.series import Series
from train.errors import InputError

Pair = tuple[str, str]


@runtime_checkable
class Boxed(Protocol):
    """Images (rows, columns, channels) with boxes."""

    def picture(self, part: PART, index: int) -> np.ndarray: ...

    def truths(self, part: PART) -> Sequence[Scene]: ...


@runtime_checkable
class Paired(Ends, Protocol):
    """Sentences with their translations; `beside` makes a batch of other pairs."""

    pairs: Mapping[str, Sequence[Pair]]

    def beside(self, pairs: Sequence[Pair], multiple: int) -> Arrays: ...


@runtime_checkable
class Windowed(Restores, Shows, Protocol):
    """Windows of series: values before (t, n) and in the horizon (h, n), in the units of the data."""

    spec: Series

    def count(self, part: PART) -> int: ...

    def window(self, part: PART, index: int) -> tuple[np.ndarray, np.ndarray]: ...


@runtime_checkable
class Driven(Protocol):
    """Trajectories with `features` and `actions` numbers a step."""

    spec: Drives
    features: int
    actions: int


def make_missing_error(review: Review, data: Dataset, what: str) -> InputError:
    """Makes the error for data that lacks what a review reads."""
    review_name, data_name = type(review).__name__, type(data).__name__
    return InputError(
        f"The review {review_name} looks at {what}, and the data has none ({data_name}); set review=none."
    )
