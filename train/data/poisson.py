"""Poisson samples of a data set: each step takes each example with the same probability, whatever it takes else."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from train.contracts import Arrays, Counted, Dataset, Steps
from train.data.batches import Batches


@dataclasses.dataclass(frozen=True, eq=False)
class Poisson:
    """Samples of examples, each taken with probability batch_size / n, independently of all others and other steps.

    `alone` has the n examples of epoch e at e n to (e + 1) n - 1, one a batch, in an order of the epoch's own.  Step t
    samples those of epoch t, so that crops, flips and masks are drawn anew whenever an example is.  Batches have as
    many rows as fit a usual draw (`room` standard deviations above the mean, in multiples of `multiple`); missing rows
    are zeros of weight zero.  A larger draw is never cut, which the accounting would have to know: its batch has more
    rows, and the step is compiled for these once.
    """

    alone: Steps
    batch_size: int
    multiple: int
    room: float = 4.0

    def __len__(self) -> int:
        return len(self.alone)

    @property
    def rows(self) -> int:
        """The usual number of rows of a batch."""
        n, mean = len(self), self.batch_size
        usual = min(mean + self.room * math.sqrt(mean * max(1 - mean / n, 0)), n)
        return -(-math.ceil(usual) // self.multiple) * self.multiple

    def draw(self, key: Sequence[int]) -> "Sampled":
        """The batches of a key: a pure function of (key, step)."""

        def make(step: int) -> Arrays:
            chance = np.random.default_rng((*key, step, len(self)))
            taken = np.nonzero(chance.random(len(self)) < self.batch_size / len(self))[0]
            rows = self.rows if len(taken) <= self.rows else -(-len(taken) // self.multiple) * self.multiple
            examples = [self.alone[step * len(self) + int(index)] for index in taken]
            return join_rows(examples or [_empty(self.alone[0])], rows)

        return Sampled(self, make)


class Sampled(Batches):
    """Batches of a Poisson sample, which another key draws anew."""

    def __init__(self, poisson: Poisson, make: Callable[[int], Arrays]) -> None:
        super().__init__(-(-len(poisson) // poisson.batch_size), make)
        self.poisson = poisson


def make_poisson(data: Dataset, batch_size: int, multiple: int, seed: int) -> Poisson:
    """Makes the samples of the training part; windows of a text stay where they are, as they are the examples."""
    return Poisson(data.batches("train", 1, 1, None if isinstance(data, Counted) else seed), batch_size, multiple)


def redraw(batches: Steps, key: np.ndarray) -> Steps:
    """The batches of a Poisson sample with key data (k,) in place of the key that they were made with."""
    assert isinstance(batches, Sampled)
    return batches.poisson.draw(tuple(int(word) for word in key.ravel()))


def count_drawn(batch: Arrays) -> float:
    """Counts the examples of a batch: rows with a weight, or, of a text, with a token."""
    present = batch.get("weights", batch.get("segments"))
    assert present is not None  # examples have an index, and with it weights, or are windows of a text
    return float((present.reshape(len(present), -1).max(1) > 0).sum())


def join_rows(examples: Sequence[Arrays], rows: int) -> Arrays:
    """Joins batches of one row each, padded with zeros to their largest shape and to `rows` rows."""
    batch: Arrays = {}
    for name, first in examples[0].items():
        shape = np.max([example[name].shape[1:] for example in examples], axis=0).astype(int)
        batch[name] = np.zeros((rows, *shape), first.dtype)
        for row, example in enumerate(examples):
            value = example[name][0]
            batch[name][(row, *map(slice, value.shape))] = value
    return batch


def _empty(example: Arrays) -> Arrays:
    return {name: np.zeros_like(value) for name, value in example.items()}
