"""Synthetic tasks for sequence mixers: associative recall and selective copying."""

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np

from models.contracts import Model
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches
from train.data.needs import need_positions
from train.errors import InputError


class Made:
    """A `train.contracts.Dataset` of generated batches: fresh at each step, the same for all seeds in the test part."""

    classes: tuple[str, ...] = ()
    unasked = "data are made by a rule, not from text"

    def __init__(self, task: "Rule", stretch: float = 1.0) -> None:
        self.task = task
        self.vocab = task.vocab
        self.lengths = {"train": task.length, "test": max(task.length, round(stretch * task.length))}
        self.length = max(self.lengths.values())
        self.sizes = {"train": task.examples, "test": task.held}
        self.names = tuple(map(str, range(task.vocab)))

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Requires positions for all tokens of a row."""
        del model, objective
        return need_positions(self.length, f"data.length is {self.length}", "data.length")

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `batch_size` examples."""
        rows = -(-batch_size // multiple) * multiple
        root = 0 if part == "test" else 1 + (seed or 0)
        length = self.lengths[part]
        return Batches(
            -(-self.sizes[part] // rows), lambda step: self.task.make(np.random.default_rng((root, step)), rows, length)
        )

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Raises InputError, as nothing can be asked."""
        raise InputError(f"This run's {self.unasked}, so {asked[0]!r} cannot be asked; use morphax eval.")


class Rule(abc.ABC):
    """Data that a rule makes: a class has the fields below, and `make`."""

    vocab: int
    length: int
    examples: int
    held: int

    @abc.abstractmethod
    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch: tokens, labels and weights, each (rows, length)."""

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> Made:
        """Opens the generated data set."""
        return self.reader()

    def reader(self, classes: tuple[str, ...] = ()) -> Made:
        """Opens the generated data set, as `open` does."""
        return Made(self)


@dataclasses.dataclass(frozen=True)
class Recall(Rule):
    """Multi-query associative recall: `pairs` of key and value, then each key again at a random position as a query.

    Batches have tokens, labels and weights (b, length).  Keys, values and the noise in between have a third of the
    vocabulary each.  Zoology, arXiv:2312.04927, with uniform positions.  An epoch has `examples` examples, the test
    part has `held`.
    """

    pairs: int = 6
    length: int = 24
    vocab: int = 72
    examples: int = 64_000
    held: int = 1_024

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.vocab // 3 < self.pairs or self.length < 3 * self.pairs:
            raise ValueError(
                f"Recall has {self.pairs} pairs, {self.vocab} tokens and length {self.length}; the vocabulary must"
                " hold 3 times the pairs, and so must the length."
            )

    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch of rows."""
        third, n = self.vocab // 3, self.pairs
        tokens = chance.integers(2 * third, 3 * third, (rows, length)).astype(np.int32)
        labels, weights = np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)
        keys = chance.permuted(np.tile(np.arange(third), (rows, 1)), axis=1)[:, :n]
        values = chance.integers(third, 2 * third, (rows, n))
        tokens[:, 0 : 2 * n : 2], tokens[:, 1 : 2 * n : 2] = keys, values
        places = 2 * n + chance.permuted(np.tile(np.arange(length - 2 * n), (rows, 1)), axis=1)[:, :n]
        row = np.arange(rows)[:, None]
        tokens[row, places], labels[row, places], weights[row, places] = keys, values, 1.0
        return {"tokens": tokens, "labels": labels, "weights": weights}


@dataclasses.dataclass(frozen=True)
class SelectiveCopy(Rule):
    """Selective copying: `data` tokens at random positions among noise, to be repeated in their order at the end.

    Batches have tokens, labels and weights (b, length).  Token 0 is noise, 1 is a query.  arXiv:2312.00752, section
    3.1.
    """

    data: int = 6
    length: int = 24
    vocab: int = 12
    examples: int = 64_000
    held: int = 1_024

    def __post_init__(self) -> None:
        if self.data < 1 or self.vocab < 3 or self.length < 2 * self.data:
            raise ValueError(
                f"SelectiveCopy has {self.data} data tokens, {self.vocab} tokens and length {self.length}; give 3"
                " tokens or more, and a length of twice the data or more."
            )

    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch of rows."""
        n, first = self.data, length - self.data
        tokens = np.zeros((rows, length), np.int32)
        labels, weights = np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)
        values = chance.integers(2, self.vocab, (rows, n))
        places = np.sort(chance.permuted(np.tile(np.arange(first), (rows, 1)), axis=1)[:, :n], axis=1)
        tokens[np.arange(rows)[:, None], places] = values
        tokens[:, first:], labels[:, first:], weights[:, first:] = 1, values, 1.0
        return {"tokens": tokens, "labels": labels, "weights": weights}
