"""Batches as a pure function of (examples, seed, step): shuffled by epoch, then packed or padded to buckets."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from train.contracts import Arrays

Row = dict[str, Any]  # `tokens`, and a `label` or a `value`


class Batches:
    """Batches made by `make(step)`: `batches[step]`, for any step in any order; `len` is the steps in an epoch."""

    def __init__(self, epoch: int, make: Callable[[int], Arrays]) -> None:
        self.epoch = epoch
        self.make = make

    def __len__(self) -> int:
        return self.epoch

    def __getitem__(self, step: int) -> Arrays:
        return self.make(step)

    def stream(self, start: int, stop: int) -> Iterator[Arrays]:
        """Yields the batches of a range of steps in order, prefetched in a thread."""
        steps = grain.MapDataset.range(start, stop).map(self.make)
        return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


class Sampler(Protocol):
    """Draws the examples of an epoch, some of them several times: `draw(seed, epoch)` gives all indices in order."""

    def draw(self, seed: int, epoch: int) -> np.ndarray: ...


class Order:
    """Maps a step to `batch_size` of `count` example indices: reshuffled every epoch if seeded, otherwise in order.

    With a seed and a `sampler`, the indices that the sampler draws.
    """

    def __init__(self, count: int, batch_size: int, seed: int | None, sampler: Sampler | None = None) -> None:
        self.count = count
        self.batch_size = batch_size
        self.draw = None
        if sampler is not None and seed is not None:
            self.draw = functools.lru_cache(maxsize=2)(functools.partial(sampler.draw, seed))
        # Grain types the elements as optional
        self.indices: Any = None if seed is None else grain.MapDataset.range(count).shuffle(seed=seed).repeat()

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __call__(self, step: int, window: int = 1) -> list[int]:
        """The indices of the step's examples, or of the examples of all the `window` batches that share its window."""
        epoch, position = divmod(step, len(self))
        first = position // window * window
        stop = min((first + window) * self.batch_size, self.count)
        if self.draw is not None:
            return [int(index) for index in self.draw(epoch)[first * self.batch_size : stop]]
        if self.indices is None:
            return list(range(first * self.batch_size, stop))
        return [self.indices[epoch * self.count + index] for index in range(first * self.batch_size, stop)]


def of_rows(
    rows: Sequence[Row],
    collate: Callable[[list[Row]], Arrays],
    batch_size: int,
    seed: int | None = None,
    window: int = 1,
    sampler: Sampler | None = None,
) -> Batches:
    """Batches of rows in an `Order`, joined by `collate`.

    `window` > 1 sorts the examples of that many batches by length before it cuts them into batches, to save padding.
    """
    order = Order(len(rows), batch_size, seed, sampler)

    @functools.lru_cache(maxsize=4)
    def cut(epoch: int, first: int) -> list[list[int]]:
        """The members of each batch of a window, the batches by length."""
        members = order(epoch * len(order) + first, window)
        members.sort(key=lambda index: len(rows[index]["tokens"]))
        return [members[start : start + batch_size] for start in range(0, len(members), batch_size)]

    def make(step: int) -> Arrays:
        if window == 1:
            return collate([rows[index] for index in order(step)])
        epoch, position = divmod(step, len(order))
        first = position // window * window
        cuts = cut(epoch, first)
        chance = np.random.default_rng((seed or 0, epoch, first))
        turn = chance.permutation(len(cuts)) if seed is not None else range(len(cuts))
        return collate([rows[index] for index in cuts[turn[position % window]]])

    return Batches(len(order), make)


def of_examples(
    count: int,
    make_example: Callable[[int, np.random.Generator | None], Arrays],
    batch_size: int,
    multiple: int,
    seed: int | None = None,
    mix: Callable[[Arrays, np.random.Generator], Arrays] | None = None,
    sampler: Sampler | None = None,
) -> Batches:
    """Batches of examples of one shape, in an `Order`: stacks the arrays that `make_example(index, chance)` returns.

    `chance` is the random generator of an example (crops, flips, noise).  It depends on (seed, epoch, index) alone, or,
    with a `sampler`, which may draw an example several times, also on its position in the epoch; None without a seed.
    `mix` changes a whole batch if there is a seed.  Adds `weights` and `index` (b,) unless examples have their own.
    Always `batch_size` rows in multiples of `multiple`; missing rows are zeros of weight zero.
    """
    order = Order(count, batch_size, seed, sampler)
    rows = _round_up(batch_size, multiple)

    def make(step: int) -> Arrays:
        epoch, members = step // len(order), order(step)
        first = step % len(order) * batch_size
        chances: list[np.random.Generator | None] = [None] * len(members)
        if seed is not None:
            keys = [(index,) if sampler is None else (index, first + row) for row, index in enumerate(members)]
            chances = [np.random.default_rng((seed, epoch, *key)) for key in keys]
        examples = [make_example(index, chance) for index, chance in zip(members, chances, strict=True)]
        spare = ((0, rows - len(examples)),)
        batch: Arrays = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
        if mix is not None and seed is not None:
            batch = mix(batch, np.random.default_rng((seed, epoch, order.count, step)))
        batch = {name: np.pad(value, spare + ((0, 0),) * (value.ndim - 1)) for name, value in batch.items()}
        weights, index = np.ones(len(members), np.float32), np.array(members, np.int32)
        return {"weights": np.pad(weights, spare), "index": np.pad(index, spare)} | batch

    return Batches(len(order), make)


class Pack:
    """Packs up to `most` examples into each row of `length` tokens, best fit first; segments keep them apart.

    Returns tokens, segments, positions (b, length), starts, weights, index and labels (b, most), or values
    (b, most, 1).  As many rows as the examples need but at least `rows`, in multiples of `multiple`, so that few shapes
    occur.
    """

    def __init__(self, length: int, most: int, rows: int, multiple: int) -> None:
        self.length = length
        self.most = most
        self.rows = rows
        self.multiple = multiple

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """Assigns examples to rows: longest first, each into the fullest row that still has room."""
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
        count = _round_up(max(len(plan), self.rows), self.multiple)
        batch = _allocate(members, count, self.length, self.most)
        for row, indices in enumerate(plan):
            start = 0
            for segment, index in enumerate(indices):
                _write(batch, members[index], row, start, segment)
                start += len(members[index]["tokens"])
        return batch


class Pad:
    """Pads one example a row to the smallest of `buckets` that holds the longest.

    Returns tokens, segments, positions (b, t), weights, index and labels (b,), or values (b, 1).  Always `rows` rows,
    in multiples of `multiple`.
    """

    def __init__(self, buckets: Sequence[int], rows: int, multiple: int) -> None:
        self.buckets = tuple(buckets)
        self.count = _round_up(rows, multiple)

    def __call__(self, members: list[Row]) -> Arrays:
        longest = max(len(member["tokens"]) for member in members)
        batch = _allocate(members, self.count, next(bucket for bucket in self.buckets if bucket >= longest), 1)
        for row, member in enumerate(members):
            _write(batch, member, row, 0, 0)
        del batch["starts"]
        return {
            name: value[:, 0] if name in ("weights", "index", "labels", "values") else value
            for name, value in batch.items()
        }


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _allocate(members: list[Row], rows: int, length: int, most: int) -> Arrays:
    batch: Arrays = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "segments", "positions")}
    batch |= {"starts": np.zeros((rows, most), np.int32), "weights": np.zeros((rows, most), np.float32)}
    if "index" in members[0]:
        batch["index"] = np.zeros((rows, most), np.int32)
    if "label" in members[0]:
        batch["labels"] = np.zeros((rows, most), np.int32)
    if "value" in members[0]:
        batch["values"] = np.zeros((rows, most, 1), np.float32)
    return batch


def _write(batch: Arrays, member: Row, row: int, start: int, segment: int) -> None:
    stop = start + len(member["tokens"])
    batch["tokens"][row, start:stop] = member["tokens"]
    batch["segments"][row, start:stop] = segment + 1
    batch["positions"][row, start:stop] = np.arange(stop - start)
    batch["starts"][row, segment] = start
    batch["weights"][row, segment] = 1.0
    if "index" in batch:
        batch["index"][row, segment] = member["index"]
    if "labels" in batch:
        batch["labels"][row, segment] = member["label"]
    if "values" in batch:
        batch["values"][row, segment] = member["value"]
