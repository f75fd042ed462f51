"""Probes of sequence mixers: small tasks, each of which asks for one ability.

Batches have tokens, labels and weights (b, length); weights are 1 at the tokens that are asked for.  With a `stretch`
above 1 the held-out rows are that many times as long as those of training: length extrapolation.
"""

import dataclasses
import functools
import itertools
import math

import numpy as np

from train.data.batches import Arrays
from train.data.tasks.synthetic import Made, Rule

TABLE = 7  # the seed of what is the same in all batches: a table to memorise


class Stretched(Rule):
    """Data that a rule makes for rows of any length."""

    stretch: float

    def reader(self, classes: tuple[str, ...] = ()) -> Made:
        """Opens the generated data set."""
        return Made(self, self.stretch)


def _begin(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, and labels and weights of none that is asked for."""
    tokens = tokens.astype(np.int32)
    return tokens, np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)


def _finish(tokens: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Arrays:
    return {"tokens": tokens, "labels": labels, "weights": weights}


def _check(task: Rule, least_length: int, least_vocab: int) -> None:
    if task.length < least_length or task.vocab < least_vocab or task.examples < 1 or task.held < 1:
        raise ValueError(
            f"{type(task).__name__} has length {task.length}, {task.vocab} tokens, {task.examples} examples and"
            f" {task.held} held out; give {least_length} or more, {least_vocab} or more, and 1 or more of each."
        )


@dataclasses.dataclass(frozen=True)
class Copy(Stretched):
    """Copying: half a row of random tokens, then each of them again in their order.  Token 0 asks.  arXiv:2402.01032"""

    length: int = 32
    vocab: int = 16
    stretch: float = 1.0
    examples: int = 64_000
    held: int = 1_024

    def __post_init__(self) -> None:
        _check(self, 2, 2)

    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch."""
        half = length // 2
        tokens, labels, weights = _begin(chance.integers(1, self.vocab, (rows, length)))
        tokens[:, half:], labels[:, half : 2 * half], weights[:, half : 2 * half] = 0, tokens[:, :half], 1.0
        return _finish(tokens, labels, weights)


@dataclasses.dataclass(frozen=True)
class Induction(Stretched):
    """Induction: the token 0 stands once in a random row and again at its end; what followed it is asked for.

    Dao et al., arXiv:2212.14052, section 3.1.
    """

    length: int = 32
    vocab: int = 16
    stretch: float = 1.0
    examples: int = 64_000
    held: int = 1_024

    def __post_init__(self) -> None:
        _check(self, 4, 3)

    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch."""
        tokens, labels, weights = _begin(chance.integers(1, self.vocab, (rows, length)))
        row, column = np.arange(rows), chance.integers(0, length - 2, rows)
        tokens[row, column], tokens[:, -1] = 0, 0
        labels[:, -1], weights[:, -1] = tokens[row, column + 1], 1.0
        return _finish(tokens, labels, weights)


@dataclasses.dataclass(frozen=True)
class Needle(Stretched):
    """A needle in a haystack: one pair of key and value among noise, and the key again at the end asks for the value.

    Keys and values have an eighth of the vocabulary each.
    """

    length: int = 64
    vocab: int = 64
    stretch: float = 1.0
    examples: int = 64_000
    held: int = 1_024

    def __post_init__(self) -> None:
        _check(self, 4, 16)

    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch."""
        part = self.vocab // 8
        tokens, labels, weights = _begin(chance.integers(2 * part, self.vocab, (rows, length)))
        row, column = np.arange(rows), chance.integers(0, length - 2, rows)
        keys, values = chance.integers(0, part, rows), chance.integers(part, 2 * part, rows)
        tokens[row, column], tokens[row, column + 1], tokens[:, -1] = keys, values, keys
        labels[:, -1], weights[:, -1] = values, 1.0
        return _finish(tokens, labels, weights)


@dataclasses.dataclass(frozen=True)
class NoisyRecall(Rule):
    """Recall among noise: `pairs` of key and value with a random number of noise tokens between them, then the keys.

    Each of keys, values and noise has a third of the vocabulary.  arXiv:2403.17844, appendix B.
    """

    pairs: int = 4
    length: int = 32
    vocab: int = 48
    examples: int = 64_000
    held: int = 1_024

    def __post_init__(self) -> None:
        _check(self, 4 * max(self.pairs, 1), 3 * max(self.pairs, 1))

    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch."""
        third, n, end = self.vocab // 3, self.pairs, length - self.pairs
        tokens, labels, weights = _begin(chance.integers(2 * third, 3 * third, (rows, length)))
        keys = chance.permuted(np.tile(np.arange(third), (rows, 1)), axis=1)[:, :n]
        values = chance.integers(third, 2 * third, (rows, n))
        row = np.arange(rows)[:, None]
        gaps = np.sort(chance.integers(0, end - 2 * n + 1, (rows, n)), axis=1)
        places = gaps + 2 * np.arange(n)
        tokens[row, places], tokens[row, places + 1] = keys, values
        order = chance.permuted(np.tile(np.arange(n), (rows, 1)), axis=1)
        tokens[:, end:], labels[:, end:] = keys[row, order], values[row, order]
        weights[:, end:] = 1.0
        return _finish(tokens, labels, weights)


@dataclasses.dataclass(frozen=True)
class FuzzyRecall(Rule):
    """Recall by keys of several tokens: each pair is `width` tokens and a value, and its whole key asks for it later.

    A row has keys that share tokens, so that no single token tells the value.  arXiv:2403.17844, appendix B.
    """

    pairs: int = 4
    width: int = 2
    length: int = 24
    vocab: int = 24
    examples: int = 64_000
    held: int = 1_024

    def __post_init__(self) -> None:
        if self.pairs < 2 or self.width < 2 or (self.vocab // 2) ** self.width < self.pairs:
            raise ValueError(
                f"FuzzyRecall has {self.pairs} pairs and keys of {self.width} tokens; give 2 or more of each."
            )
        _check(self, (2 * self.width + 1) * self.pairs, 4)

    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch."""
        half, n, width = self.vocab // 2, self.pairs, self.width
        tokens, labels, weights = _begin(np.zeros((rows, length)))
        digits = half ** np.arange(width)
        numbers = chance.integers(0, half**width, (rows, n))
        while (same := _find_repeats(numbers)).any():
            numbers[same] = chance.integers(0, half**width, int(same.sum()))
        keys = numbers[..., None] // digits % half  # (rows, n, width)
        values = chance.integers(half, 2 * half, (rows, n))
        pairs = np.concatenate([keys, values[..., None]], -1).reshape(rows, -1)
        order = chance.permuted(np.tile(np.arange(n), (rows, 1)), axis=1)
        asked = np.take_along_axis(keys, order[..., None], 1).reshape(rows, -1)
        start = pairs.shape[1]
        tokens[:, :start], tokens[:, start : start + n * width] = pairs, asked
        last = start + width * np.arange(1, n + 1) - 1
        labels[:, last], weights[:, last] = np.take_along_axis(values, order, 1), 1.0
        return _finish(tokens, labels, weights)


def _find_repeats(numbers: np.ndarray) -> np.ndarray:
    """Marks numbers that stand further left in their row."""
    same = numbers[:, :, None] == numbers[:, None]
    return np.tril(same, -1).any(-1)


@dataclasses.dataclass(frozen=True)
class Memorisation(Rule):
    """Memorisation: a table from keys to values that is the same in every row, and never shown beside its key.

    Every token of a row is a key that asks.  Half the vocabulary are keys.  arXiv:2403.17844, appendix B.
    """

    length: int = 16
    vocab: int = 128
    examples: int = 64_000
    held: int = 1_024

    def __post_init__(self) -> None:
        _check(self, 1, 4)

    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch."""
        half = self.vocab // 2
        table = np.random.default_rng(TABLE).integers(half, 2 * half, half)
        tokens, labels, weights = _begin(chance.integers(0, half, (rows, length)))
        labels[:], weights[:] = table[tokens], 1.0
        return _finish(tokens, labels, weights)


@dataclasses.dataclass(frozen=True)
class Compression(Rule):
    """Compression: every token of a random row is asked for, and the last token of the vocabulary ends the row.

    Beside a head that reads the last token alone, such as `LogitsHead(transform=LastTokenDecoder())`, the row has to be
    in one vector.  arXiv:2403.17844, appendix B.
    """

    length: int = 17
    vocab: int = 16
    examples: int = 64_000
    held: int = 1_024

    def __post_init__(self) -> None:
        _check(self, 2, 2)

    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch."""
        tokens, labels, weights = _begin(chance.integers(0, self.vocab - 1, (rows, length)))
        tokens[:, -1] = self.vocab - 1
        labels[:, :-1], weights[:, :-1] = tokens[:, :-1], 1.0
        return _finish(tokens, labels, weights)


@dataclasses.dataclass(frozen=True)
class Parity(Stretched):
    """Parity: at each bit the parity of all bits up to it is asked for.  arXiv:2207.02098 and arXiv:2411.12537"""

    length: int = 32
    vocab: int = 2
    stretch: float = 1.0
    examples: int = 64_000
    held: int = 1_024

    def __post_init__(self) -> None:
        _check(self, 1, 2)

    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch."""
        tokens, labels, weights = _begin(chance.integers(0, 2, (rows, length)))
        labels[:], weights[:] = np.cumsum(tokens, axis=1) % 2, 1.0
        return _finish(tokens, labels, weights)


@dataclasses.dataclass(frozen=True)
class StateTracking(Stretched):
    """State tracking: tokens are permutations of `items`, and at each the product of all up to it is asked for.

    The word problem of the symmetric group, S5 with 5 items, which no circuit of constant depth solves at all lengths.
    arXiv:2404.08819.  A token is a permutation: 120 for 5 items.
    """

    items: int = 5
    length: int = 16
    vocab: int = 120
    stretch: float = 1.0
    examples: int = 64_000
    held: int = 1_024

    def __post_init__(self) -> None:
        if not 2 <= self.items <= 5 or self.vocab < math.factorial(self.items):
            raise ValueError(
                f"StateTracking has {self.items} items and {self.vocab} tokens; give 2 to 5 items, and a token for each"
                " of their permutations."
            )
        _check(self, 1, 2)

    def make(self, chance: np.random.Generator, rows: int, length: int) -> Arrays:
        """Makes a batch."""
        products = _make_group(self.items)[1]
        tokens, labels, weights = _begin(chance.integers(0, len(products), (rows, length)))
        state = labels[:, 0] = tokens[:, 0]
        for column in range(1, length):
            state = labels[:, column] = products[tokens[:, column], state]
        weights[:] = 1.0
        return _finish(tokens, labels, weights)


@functools.cache
def _make_group(items: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """The permutations of some items, and the table of their products: products[a, b] is a after b."""
    group = list(itertools.permutations(range(items)))
    index = {permutation: number for number, permutation in enumerate(group)}
    table = [[index[tuple(a[b[item]] for item in range(items))] for b in group] for a in group]
    return group, np.array(table, np.int32)
