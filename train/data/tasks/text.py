"""Text classification and regression data."""

import array
import dataclasses
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Literal, SupportsFloat, SupportsIndex

import numpy as np

from models.contracts import Model
from train.contracts import PART, Objective, Requirement
from train.data.balance import make_sampler, require_power
from train.data.batches import Batches, Pack, Pad, Row, of_rows
from train.data.classes import admit_classes, read_label, rename_classes, require_unique
from train.data.encoded import Encoded, encode_texts
from train.data.lazy import Lazy
from train.data.needs import Equal, need_positions
from train.data.notes import Note, Notes
from train.data.questions import read_question, read_texts, where
from train.data.sources import Split, is_divided, open_splits, require_source, require_text
from train.data.tokens import Bytes, Published, make_tokenizer
from train.errors import InputError

TYPES = {bool: "a truth value", int: "a whole number", str: "a string"}


@dataclasses.dataclass(frozen=True)
class Text:
    """Sentences with a class or a value each, from a data set by name or from the user's own files.

    `path` and `test` are tables (CSV, TSV, JSONL, Parquet and more: `train.data.sources`) with the columns `text` and
    `target`; unless `test` is given, the fraction `holdout` of `path`, chosen by the md5 of the sentence, is held out.
    `kind` is the type of the target, a class or a number; `labels` fixes the order of the classes, and `names` renames
    them in answers and reports.  `pack` packs up to `segments` sentences into a row of `length` tokens; otherwise
    sentences are batched by length and padded to `buckets`.  A sentence longer than `length` is refused unless
    `truncate` is set, which keeps its first tokens.  `balance` from 0 to 1 draws sentences of rare classes more often
    in training: see `train.data.balance.Balanced`.
    """

    dataset: str = "movie_snippets/labels"
    path: str | None = None
    test: str | None = None
    text: str = "text"
    target: str = "label"
    kind: Literal["class", "value"] = "class"
    labels: tuple[str, ...] = ()
    tokenizer: str = "bytes"
    length: int = 128
    pack: bool = True
    segments: int = 16
    buckets: tuple[int, ...] = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    truncate: bool = False
    holdout: float = 0.1
    splits: tuple[str, str] = ("train", "test")
    names: tuple[str, ...] = ()
    balance: float = 0.0

    def __post_init__(self) -> None:
        require_unique("Text.labels", self.labels)
        require_power("Text", self.balance)
        if self.balance and self.kind == "value":
            raise ValueError("Text.balance draws rare classes more often; kind is value: set balance=0 or kind=class.")
        if self.length < 1 or self.segments < 1:
            raise ValueError(f"Text has length {self.length} and segments {self.segments}; both must be 1 or more.")
        require_source(self, "data")
        if min(self.buckets, default=1) < 1:
            raise ValueError(f"Text.buckets is {self.buckets}; give lengths of 1 or more.")
        if not self.pack and self.length > max(self.buckets, default=0):
            raise ValueError(
                f"Text.length {self.length} is above the largest of its buckets {self.buckets}; set data.buckets or"
                " lower data.length."
            )

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedText":
        """Opens and tokenises both splits (or the one asked for).  Raises InputError for data that cannot be used."""
        opened = self.reader(classes)
        for part, split in open_splits(self, only, self.text).items():
            opened.add(part, split)
        return opened

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedText":
        """The data set without examples, ready for texts to predict from."""
        return OpenedText(self, make_tokenizer(self.tokenizer), classes or self.labels)


class OpenedText:
    """The opened data set of `Text`, a `train.contracts.Dataset`."""

    def __init__(self, spec: Text, tokens: Bytes | Published, classes: tuple[str, ...]) -> None:
        self.spec = spec
        self.tokens = tokens
        self.classes = classes
        self.divided = not classes and is_divided(spec)
        self.vocab = len(tokens.names)
        self.rows: dict[str, Sequence[Row]] = {}
        self.targets: dict[str, np.ndarray] = {}
        self.lengths: dict[str, np.ndarray] = {}
        self.splits: dict[str, Split] = {}
        self.notes = Notes()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes in answers."""
        return rename_classes(self.classes, self.spec.names)

    @property
    def unseen(self) -> tuple[str, ...]:
        """The classes without a training example."""
        seen = set(self.labels("train").tolist())
        return tuple(name for label, name in enumerate(self.names) if label not in seen)

    def add(self, part: PART, split: Split) -> None:
        """Adds a split: checks its targets and tokenises its sentences."""
        split.require(text=self.spec.text, target=self.spec.target)
        self.notes.take(split.notes)
        column = Targets(self.spec.kind, split)

        def read_sentences() -> Iterator[str]:
            column.clear()
            for index, example in enumerate(split):
                column.append(example.get(self.spec.target))
                yield require_text(example.get(self.spec.text), split.where(index))

        encoded = encode_texts(self.tokens, read_sentences)
        lengths = self._measure(encoded, split.where, split.origin)
        if self.spec.kind == "value":
            targets, name = column.read_numbers(), "value"
        else:
            targets, name = self._read_labels(column, split), "label"

        def make_row(index: int) -> Row:
            return {"tokens": encoded[index][: self.spec.length], "index": index, name: targets[index].item()}

        self.rows[part], self.splits[part] = Lazy(len(encoded), make_row), split
        self.targets[part], self.lengths[part] = targets, lengths

    def labels(self, part: PART) -> np.ndarray:
        """The class of every sentence (n,), an index of `classes`; empty if targets are values."""
        return self.targets[part] if self.spec.kind == "class" else np.zeros(0, np.int64)

    def read_column(self, part: PART, name: str) -> list[object]:
        """The cells of a column of the table, sentence by sentence."""
        return self.splits[part].read_column(name)

    def show_example(self, part: PART, index: int) -> str:
        """The sentence."""
        return require_text(self.splits[part].examples[index][self.spec.text], self.splits[part].where(index))

    def _read_labels(self, column: "Targets", split: Split) -> np.ndarray:
        known = split.names.get(self.spec.target)
        if known:
            self.classes = self.classes or known
            written = [known[read_label(target, known, column.where(i))] for i, target in enumerate(column.different)]
        else:
            written = read_classes(column.different, column.where)

        def say(name: str) -> str:
            return f"{column.where(written.index(name))}, has the label {name!r}"

        found = sorted(set(written)) if self.classes or not known else known
        self.classes = admit_classes(self.classes, found, self.divided, say)
        index_of = {name: index for index, name in enumerate(self.classes)}
        return np.array([index_of[name] for name in written], np.int64)[np.asarray(column.codes)]

    def _measure(self, encoded: Encoded, locate: Callable[[int], str], origin: str) -> np.ndarray:
        """The number of tokens of each sentence (n,), cut to the length of a row if that is allowed."""
        lengths = encoded.lengths
        long = lengths > self.spec.length
        for index in np.flatnonzero((lengths == 0) | (long & (not self.spec.truncate)))[:1].tolist():
            if not lengths[index]:
                raise InputError(f"{locate(index)} has no tokens; give at least one.")
            raise InputError(
                f"{locate(index)} has {lengths[index]} tokens and data.length is {self.spec.length}; raise it, or set"
                " data.truncate=true to cut."
            )
        if long.any():
            done = f"have more than data.length={self.spec.length} tokens and are cut"
            cut = tuple(locate(index).removeprefix(f"{origin}, ") for index in np.flatnonzero(long).tolist())
            self.notes.take([Note(origin, done, "examples", cut, len(lengths))])
        return np.minimum(lengths, self.spec.length)

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Requires positions for all tokens of a row, and one output if the target is a value."""
        del model, objective
        needs = need_positions(self.spec.length, f"data.length is {self.spec.length}", "data.length")
        value = Equal(1, "the data has one value an example")
        return needs | ({"model.head.values": value} if self.spec.kind == "value" else {})

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `batch_size` sentences, packed or padded."""
        rows = self.rows[part]
        spec = self.spec
        sampler = make_sampler(spec.balance, self.labels(part), part, seed) if spec.balance else None
        if not spec.pack:
            pad = Pad(self._list_buckets(), batch_size, multiple)
            return of_rows(rows, pad, batch_size, seed, window=16, sampler=sampler)
        mean = int(self.lengths[part].sum()) / len(rows)
        floor = math.ceil(min(batch_size, len(rows)) * mean / spec.length)
        return of_rows(rows, Pack(spec.length, spec.segments, floor, multiple), batch_size, seed, sampler=sampler)

    def list_questions(self, inputs: Sequence[str]) -> list[str]:
        """Texts, with files and folders replaced by their column `text`, and a .txt file by its lines."""
        return read_texts(inputs, self.notes, text=self.spec.text)

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Batches of texts to predict from, one a row, in their order."""
        for index in range(len(asked)):
            read_question(asked, index)
        ids = self.tokens.encode(asked)
        encoded = Encoded.of(ids, np.dtype(np.int32), sum(map(len, asked)))
        self._measure(encoded, lambda index: where(asked, index), "the texts")
        rows: list[Row] = [{"tokens": some[: self.spec.length]} for some in ids]
        return of_rows(rows, Pad(self._list_buckets(), batch_size, multiple), batch_size)

    @property
    def packs(self) -> tuple[list[int], int] | None:
        """The lengths of rows, and the most sentences in one; None unless rows are packed."""
        return (self._list_buckets(), self.spec.segments) if self.spec.pack else None

    def _list_buckets(self) -> list[int]:
        return sorted(bucket for bucket in self.spec.buckets if bucket < self.spec.length) + [self.spec.length]


class Targets:
    """The targets of a split: numbers, or each different class once, with the first example that has it."""

    def __init__(self, kind: str, split: Split) -> None:
        self.kind = kind
        self.split = split
        self.clear()

    def clear(self) -> None:
        """Removes all targets."""
        self.known: dict[object, int] = {}
        self.different: list[object] = []
        self.first, self.codes, self.numbers = array.array("q"), array.array("i"), array.array("d")
        self.fault: InputError | None = None

    def append(self, target: object) -> None:
        """Adds the target of the next example."""
        if self.kind == "value":
            try:
                self.numbers.append(_read_number(target, self.split.where(len(self.numbers))))
            except InputError as error:  # raised by `read_numbers`, after the faults of sentences
                self.fault = self.fault or error
                self.numbers.append(math.nan)
            return
        key = (type(target), target) if isinstance(target, Hashable) else (len(self.codes),)
        code = self.known.setdefault(key, len(self.different))
        if code == len(self.different):
            self.different.append(target)
            self.first.append(len(self.codes))
        self.codes.append(code)

    def where(self, index: int) -> str:
        """The location of the first example with different target `index`."""
        return self.split.where(self.first[index])

    def read_numbers(self) -> np.ndarray:
        """Reads the values (n,).  Raises InputError, with its location, for the first target that is no number."""
        if self.fault is not None:
            raise self.fault
        return np.asarray(self.numbers)


def read_classes(targets: Sequence[object], locate: Callable[[int], str]) -> list[str]:
    """Reads class names from targets that are all strings, all integers, or all booleans.

    Raises InputError, with the location and a remedy, for a target that is missing, a fraction, nested, or of another
    type than the first.
    """
    values = [target.item() if isinstance(target, np.generic) else target for target in targets]
    values = [value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value for value in values]
    for index, value in enumerate(values):
        if isinstance(value, list | tuple | dict | np.ndarray):
            raise InputError(
                f"{locate(index)}, has {str(value)[:40]} for a class; an example has one: give its name as a string."
            )
        if not isinstance(value, bool | int | str) or not str(value).strip():
            raise InputError(
                f"{locate(index)}, has {value!r} for a class; give a name, or set data.kind=value for numbers."
            )
        if type(value) is not type(values[0]):
            raise InputError(
                f"{locate(index)}, has {value!r} for a class, {TYPES[type(value)]}, and {locate(0)}, has"
                f" {values[0]!r}, {TYPES[type(values[0])]}; write all classes as strings."
            )
    return [str(value).strip() for value in values]


def _read_number(value: object, where: str) -> float:
    if isinstance(value, bool | np.bool_):
        raise InputError(f"{where}, has {value} for a number; write 1 or 0, or set data.kind=class.")
    try:
        if not isinstance(value, str | bytes | SupportsFloat | SupportsIndex):
            raise TypeError("it is no number")
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        raise InputError(f"{where}, has {value!r} for a number; correct it, or set data.kind=class.") from None
    if not math.isfinite(number):
        raise InputError(f"{where}, has {str(value)[:20]!r} for a number; give a finite one.")
    return number
