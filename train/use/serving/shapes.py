"""Batches of questions in few static shapes: a question a row, or several packed in a row as in training."""

import itertools
from collections.abc import Hashable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from train.contracts import Arrays, Dataset, Tokenised
from train.data.batches import Pack
from train.use.serving.inputs import get_shape

Place = int | tuple[int, int]  # of a question's output: its row, and its number in the row
FEW = 4  # shapes of questions; each is compiled for more row counts than those of more shapes


@runtime_checkable
class Packs(Tokenised, Protocol):
    """Data of texts several of which may share a row: `packs` are a row's lengths, ascending, and the most texts in it.

    None where each text has a row of its own.
    """

    @property
    def packs(self) -> tuple[Sequence[int], int] | None: ...


class Joins(Protocol):
    """A way to join questions, batches of one row each, to a batch of one of `list_batches`' shapes.

    Questions of one batch share a `key`, and are at most `most`.
    """

    most: int

    def key(self, question: Arrays) -> Hashable: ...

    def join(self, questions: Sequence[Arrays]) -> tuple[Arrays, list[Place]]: ...

    def list_batches(self) -> Iterator[tuple[Arrays, list[Place]]]: ...


def choose_rows(most: int, fine: bool) -> tuple[int, ...]:
    """Chooses row counts of batches, the last of them `most`: powers of 4, or those of 2 and 1.5 times them.

    >>> choose_rows(32, fine=False), choose_rows(10, fine=True)
    ((1, 4, 16, 32), (1, 2, 3, 4, 6, 8, 10))
    """
    every = ((4**power,) for power in itertools.count())
    if fine:
        every = ((2**power, 3 * 2**power // 2) for power in itertools.count())
    counts = itertools.takewhile(lambda count: count < most, itertools.chain.from_iterable(every))
    return (*sorted(set(counts)), most)


class Stacked:
    """Questions a row each, with those of the same shapes, `shapes` being a question of every shape there is."""

    def __init__(self, shapes: Sequence[Arrays], most: int) -> None:
        self.shapes, self.most = shapes, most
        self.rows = choose_rows(most, fine=len(shapes) <= FEW)

    def key(self, question: Arrays) -> Hashable:
        """The shapes of a question."""
        return get_shape(question)

    def join(self, questions: Sequence[Arrays]) -> tuple[Arrays, list[Place]]:
        """Stacks questions, and rows of zeros, of weight zero."""
        count = next(count for count in self.rows if count >= len(questions))
        return _stack(questions, count), list(range(len(questions)))

    def list_batches(self) -> Iterator[tuple[Arrays, list[Place]]]:
        """Yields a batch of every shape and row count, of one question."""
        return ((_stack([row], count), [0]) for row in self.shapes for count in self.rows)


class Packed:
    """Questions of tokens that share rows: one of the shortest length that holds all, or several of one length.

    `lengths` are those of a row, ascending, and `examples` the most in one.  Several rows have the longest length, or,
    if all questions fit, `half`, the least that is half of it: attention in short rows has less to do.
    """

    def __init__(self, lengths: Sequence[int], examples: int, most: int) -> None:
        self.lengths, self.examples, self.most = lengths, examples, most
        self.half = next(length for length in lengths if 2 * length >= lengths[-1])
        self.rows = choose_rows(most, fine=True)

    def key(self, question: Arrays) -> Hashable:
        """The same for all: any length goes with any other."""
        del question
        return None

    def join(self, questions: Sequence[Arrays]) -> tuple[Arrays, list[Place]]:
        """Packs questions, best fit first; the rest of the rows is padding."""
        tokens = [question["tokens"][0, question["segments"][0] > 0] for question in questions]
        sizes = [len(ids) for ids in tokens]
        if sum(sizes) <= self.lengths[-1] and len(questions) <= self.examples:
            length = next(length for length in self.lengths if length >= sum(sizes))
        else:
            length = self.half if max(sizes) <= self.half else self.lengths[-1]
        plan = Pack(length, self.examples, 1, 1).plan(sizes)
        count = next(count for count in self.rows if count >= len(plan))
        places: dict[int, Place] = {}
        for row, members in enumerate(plan):
            places |= {index: (row, number) for number, index in enumerate(members)}
        batch = Pack(length, self.examples, count, 1)([{"tokens": ids} for ids in tokens])
        return batch, [places[index] for index in range(len(tokens))]

    def list_batches(self) -> Iterator[tuple[Arrays, list[Place]]]:
        """Yields a batch of every shape, of one question."""
        alone = ((length, 1) for length in self.lengths)
        together = ((length, count) for length in {self.half, self.lengths[-1]} for count in self.rows[1:])
        for length, count in itertools.chain(alone, together):
            yield Pack(length, self.examples, count, 1)([{"tokens": np.ones(1, np.int32)}]), [(0, 0)]


def choose_join(data: Dataset, shapes: Sequence[Arrays], most: int) -> Joins:
    """Chooses how questions of the data share batches of at most `most`: packed where training packs them."""
    if isinstance(data, Packs) and (packs := data.packs) is not None:
        return Packed(*packs, most)
    return Stacked(shapes, most)


def _stack(rows: Sequence[Arrays], count: int) -> Arrays:
    """Stacks batches of one row, and rows of zeros, up to `count`."""
    return {
        name: np.concatenate([*(row[name] for row in rows), *[np.zeros_like(value)] * (count - len(rows))])
        for name, value in rows[0].items()
    }
