"""Batches as a pure function of (examples, seed, step): shuffled by epoch, then packed into rows or padded to
buckets.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from train.contracts import Arrays

Row = dict[str, Any]  # `tokens`, and a `label` or a `value`


class Batches:
    """`batches[step]` is a batch, for any step in any order, made by `make(step)`; `len` is the number of steps in an
    epoch.
    """

    def __init__(self, epoch: int, make: Callable[[int], Arrays]) -> None:
        self.epoch, self.make = epoch, make

    def __len__(self) -> int:
        return self.epoch

    def __getitem__(self, step: int) -> Arrays:
        return self.make(step)

    def stream(self, start: int, stop: int) -> Iterator[Arrays]:
        """The batches of a range of steps in order, made ahead in a thread."""
        steps = grain.MapDataset.range(start, stop).map(self.make)
        return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


class Sampler(Protocol):
    """Which examples an epoch has, some several times: `draws(seed, epoch)` gives as many as there are, in order."""

    def draws(self, seed: int, epoch: int) -> np.ndarray: ...


class Order:
    """Which examples come in a step: `batch_size` of `count`, shuffled anew every epoch by the seed, or in their order.

    With a seed and a `sampler`, those that it draws.
    """

    def __init__(self, count: int, batch_size: int, seed: int | None, sampler: Sampler | None = None) -> None:
        self.count, self.batch_size = count, batch_size
        self.draws = None
        if sampler is not None and seed is not None:
            self.draws = functools.lru_cache(maxsize=2)(functools.partial(sampler.draws, seed))
        order = grain.MapDataset.range(count)
        self.places: Any = (order if seed is None else order.shuffle(seed=seed)).repeat()

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __call__(self, step: int, window: int = 1) -> list[int]:
        """The indices of the step's examples, or of all of the `window` batches that it is cut with."""
        epoch, place = divmod(step, len(self))
        first = place // window * window
        stop = min((first + window) * self.batch_size, self.count)
        if self.draws is not None:
            return [int(index) for index in self.draws(epoch)[first * self.batch_size : stop]]
        return [self.places[epoch * self.count + index] for index in range(first * self.batch_size, stop)]


def of_rows(
    rows: Sequence[Row],
    collate: Callable[[list[Row]], Arrays],
    batch_size: int,
    seed: int | None = None,
    window: int = 1,
    sampler: Sampler | None = None,
) -> Batches:
    """Batches of rows in an `Order`, put together by `collate`.

    `window` > 1 sorts that many batches' examples by length before they are cut into batches, so that little is padded.
    """
    order = Order(len(rows), batch_size, seed, sampler)

    def make(step: int) -> Arrays:
        members = [rows[index] for index in order(step, window)]
        if window > 1:
            epoch, place = divmod(step, len(order))
            members.sort(key=lambda row: len(row["tokens"]))
            cuts = [members[cut : cut + batch_size] for cut in range(0, len(members), batch_size)]
            chance = np.random.default_rng((seed or 0, epoch, place // window * window))
            turn = chance.permutation(len(cuts)) if seed is not None else range(len(cuts))
            members = cuts[turn[place % window]]
        return collate(members)

    return Batches(len(order), make)


def of_examples(
    count: int,
    one: Callable[[int, np.random.Generator | None], Arrays],
    batch_size: int,
    multiple: int,
    seed: int | None = None,
    mix: Callable[[Arrays, np.random.Generator], Arrays] | None = None,
    sampler: Sampler | None = None,
) -> Batches:
    """Batches of examples whose arrays have one shape, in an `Order`: `one(index, chance)` gives an example's, stacked
    here.

    `chance` draws what is random about an example (crops, flips, noise) and depends on (seed, epoch, index) alone, and
    with a `sampler`, which may draw an example several times, on its place in the epoch; without a seed it is None.
    `mix` changes a whole batch that has a seed.  Adds `weights` and `index` (b,) where examples have none of their own;
    always `batch_size` rows in multiples of `multiple`, the missing ones zeros of weight zero.
    """
    order, rows = Order(count, batch_size, seed, sampler), _rounded(batch_size, multiple)

    def make(step: int) -> Arrays:
        epoch, members = step // len(order), order(step)
        first = step % len(order) * batch_size
        chances: list[np.random.Generator | None] = [None] * len(members)
        if seed is not None:
            own = [(index,) if sampler is None else (index, first + place) for place, index in enumerate(members)]
            chances = [np.random.default_rng((seed, epoch, *numbers)) for numbers in own]
        found = [one(index, chance) for index, chance in zip(members, chances, strict=True)]
        spare = ((0, rows - len(found)),)
        batch: Arrays = {name: np.stack([example[name] for example in found]) for name in found[0]}
        if mix is not None and seed is not None:
            batch = mix(batch, np.random.default_rng((seed, epoch, order.count, step)))
        batch = {name: np.pad(value, spare + ((0, 0),) * (value.ndim - 1)) for name, value in batch.items()}
        weights, index = np.ones(len(members), np.float32), np.array(members, np.int32)
        return {"weights": np.pad(weights, spare), "index": np.pad(index, spare)} | batch

    return Batches(len(order), make)


class Pack:
    """Several examples in each row of `length` tokens, at most `most` of them, best fit first; segments keep them
    apart.

    Gives tokens, segments, positions (b, length), starts, weights, index and labels (b, most), or values (b, most, 1).
    The number of rows is what the examples need but at least `rows`, in multiples of `multiple`, so that few shapes
    occur.
    """

    def __init__(self, length: int, most: int, rows: int, multiple: int) -> None:
        self.length, self.most, self.rows, self.multiple = length, most, rows, multiple

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which examples go into which row: longest first, each into the fullest row that still has room."""
        rows: list[list[int]] = []
        room: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            fitting = [row for row in range(len(rows)) if room[row] >= lengths[index] and len(rows[row]) < self.most]
            if fitting:
                row = min(fitting, key=lambda row: room[row])
            else:
                row = len(rows)
                rows.append([])
                room.append(self.length)
            rows[row].append(index)
            room[row] -= lengths[index]
        return rows

    def __call__(self, members: list[Row]) -> Arrays:
        plan = self.plan([len(member["tokens"]) for member in members])
        count = _rounded(max(len(plan), self.rows), self.multiple)
        batch = _empty(members, count, self.length, self.most)
        for row, indices in enumerate(plan):
            start = 0
            for place, index in enumerate(indices):
                _write(batch, members[index], row, start, place)
                start += len(members[index]["tokens"])
        return batch


class Pad:
    """One example a row, padded to the smallest of `buckets` that holds the longest; always `rows` rows, in multiples
    of `multiple`.

    Gives tokens, segments, positions (b, t), weights, index and labels (b,), or values (b, 1).
    """

    def __init__(self, buckets: Sequence[int], rows: int, multiple: int) -> None:
        self.buckets, self.count = tuple(buckets), _rounded(rows, multiple)

    def __call__(self, members: list[Row]) -> Arrays:
        longest = max(len(member["tokens"]) for member in members)
        batch = _empty(members, self.count, next(bucket for bucket in self.buckets if bucket >= longest), 1)
        for row, member in enumerate(members):
            _write(batch, member, row, 0, 0)
        del batch["starts"]
        return {
            name: value[:, 0] if name in ("weights", "index", "labels", "values") else value
            for name, value in batch.items()
        }


def _rounded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _empty(members: list[Row], rows: int, length: int, most: int) -> Arrays:
    batch: Arrays = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "segments", "positions")}
    batch |= {"starts": np.zeros((rows, most), np.int32), "weights": np.zeros((rows, most), np.float32)}
    if "index" in members[0]:
        batch["index"] = np.zeros((rows, most), np.int32)
    if "label" in members[0]:
        batch["labels"] = np.zeros((rows, most), np.int32)
    if "value" in members[0]:
        batch["values"] = np.zeros((rows, most, 1), np.float32)
    return batch


def _write(batch: Arrays, member: Row, row: int, start: int, place: int) -> None:
    stop = start + len(member["tokens"])
    batch["tokens"][row, start:stop] = member["tokens"]
    batch["segments"][row, start:stop] = place + 1
    batch["positions"][row, start:stop] = np.arange(stop - start)
    batch["starts"][row, place] = start
    batch["weights"][row, place] = 1.0
    if "index" in batch:
        batch["index"][row, place] = member["index"]
    if "labels" in batch:
        batch["labels"][row, place] = member["label"]
    if "values" in batch:
        batch["values"][row, place] = member["value"]
