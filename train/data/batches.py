"""Batches as a pure function of (examples, seed, step): shuffled by epoch, then packed into rows or padded to buckets."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

Row = dict[str, Any]  # `tokens`, and a `label` or a `value`
Arrays = dict[str, np.ndarray]


class Batches:
    """`batches[step]` is a batch, for any step in any order; `len` is the number of steps in an epoch.

    A seed shuffles anew every epoch; without one the order stays.  `window` > 1 sorts that many batches' examples by length before
    they are cut into batches, so that little is padded.
    """

    def __init__(
        self, rows: Sequence[Row], collate: Callable[[list[Row]], Arrays], batch_size: int, seed: int | None = None, window: int = 1
    ) -> None:
        self.rows, self.collate, self.batch_size, self.seed, self.window = rows, collate, batch_size, seed, window
        order = grain.MapDataset.range(len(rows))
        self.order: Any = (order if seed is None else order.shuffle(seed=seed)).repeat()

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, step: int) -> Arrays:
        epoch, place = divmod(step, len(self))
        first = place // self.window * self.window
        start, stop = first * self.batch_size, min((first + self.window) * self.batch_size, len(self.rows))
        members = [self.rows[self.order[epoch * len(self.rows) + index]] for index in range(start, stop)]
        if self.window > 1:
            members.sort(key=lambda row: len(row["tokens"]))
            cuts = [members[cut : cut + self.batch_size] for cut in range(0, len(members), self.batch_size)]
            turn = (
                np.random.default_rng((self.seed or 0, epoch, first)).permutation(len(cuts)) if self.seed is not None else range(len(cuts))
            )
            members = cuts[turn[place - first]]
        return self.collate(members)

    def stream(self, start: int, stop: int) -> Iterator[Arrays]:
        """The batches of a range of steps in order, made ahead in a thread."""
        steps = grain.MapDataset.range(start, stop).map(self.__getitem__)
        return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


class Pack:
    """Several examples in each row of `length` tokens, at most `most` of them, best fit first; segments keep them apart.

    Gives tokens, segments, positions (b, length), starts, weights and labels (b, most), or values (b, most, 1).  The number of rows is
    what the examples need but at least `rows`, in multiples of `multiple`, so that few shapes occur.
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
    """One example a row, padded to the smallest of `buckets` that holds the longest; always `rows` rows, in multiples of `multiple`.

    Gives tokens, segments, positions (b, t), weights and labels (b,), or values (b, 1).
    """

    def __init__(self, buckets: Sequence[int], rows: int, multiple: int) -> None:
        self.buckets, self.count = tuple(buckets), _rounded(rows, multiple)

    def __call__(self, members: list[Row]) -> Arrays:
        longest = max(len(member["tokens"]) for member in members)
        batch = _empty(members, self.count, next(bucket for bucket in self.buckets if bucket >= longest), 1)
        for row, member in enumerate(members):
            _write(batch, member, row, 0, 0)
        del batch["starts"]
        return {name: value[:, 0] if name in ("weights", "labels", "values") else value for name, value in batch.items()}


def _rounded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _empty(members: list[Row], rows: int, length: int, most: int) -> Arrays:
    batch: Arrays = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "segments", "positions")}
    batch |= {"starts": np.zeros((rows, most), np.int32), "weights": np.zeros((rows, most), np.float32)}
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
    if "labels" in batch:
        batch["labels"][row, place] = member["label"]
    if "values" in batch:
        batch["values"][row, place] = member["value"]
