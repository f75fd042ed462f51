"""Text classification and regression data."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, SupportsFloat, SupportsIndex

import numpy as np

from models.contracts import Model
from models.words import join
from train.contracts import PART, Objective, Requirement
from train.data.balance import make_sampler, require_power
from train.data.batches import Batches, Pack, Pad, Row, of_rows
from train.data.classes import read_label, rename_classes, require_unique
from train.data.needs import Equal, need_positions
from train.data.notes import Note, Notes
from train.data.questions import read_question, read_texts, where
from train.data.sources import Split, open_splits, require_source, require_text
from train.data.tokens import Tokenizer, make_tokenizer
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

    def __init__(self, spec: Text, tokens: Tokenizer, classes: tuple[str, ...]) -> None:
        self.spec = spec
        self.tokens = tokens
        self.classes = classes
        self.vocab = len(tokens.names)
        self.rows: dict[str, list[Row]] = {}
        self.splits: dict[str, Split] = {}
        self.notes = Notes()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes in answers."""
        return rename_classes(self.classes, self.spec.names)

    @property
    def unseen(self) -> tuple[str, ...]:
        """The classes without a training example."""
        seen = {row.get("label") for row in self.rows["train"]}
        return tuple(name for label, name in enumerate(self.names) if label not in seen)

    def add(self, part: PART, split: Split) -> None:
        """Adds a split: checks its targets and tokenises its sentences."""
        split.require(text=self.spec.text, target=self.spec.target)
        self.notes.take(split.notes)
        examples = [split.examples[index] for index in range(len(split.examples))]
        sentences = [
            require_text(example.get(self.spec.text), split.where(index)) for index, example in enumerate(examples)
        ]
        targets = [example.get(self.spec.target) for example in examples]
        rows = self._tokenise(sentences, split)
        if self.spec.kind == "value":
            for index, (row, target) in enumerate(zip(rows, targets, strict=True)):
                row["value"] = _read_number(target, split.where(index))
        else:
            self._add_labels(rows, targets, split)
        self.rows[part], self.splits[part] = rows, split

    def labels(self, part: PART) -> np.ndarray:
        """The class of every sentence (n,), an index of `classes`; empty if targets are values."""
        return np.array([row["label"] for row in self.rows[part] if "label" in row], np.int64)

    def read_column(self, part: PART, name: str) -> list[object]:
        """The cells of a column of the table, sentence by sentence."""
        return self.splits[part].read_column(name)

    def show_example(self, part: PART, index: int) -> str:
        """The sentence."""
        return require_text(self.splits[part].examples[index][self.spec.text], self.splits[part].where(index))

    def _add_labels(self, rows: list[Row], targets: Sequence[object], split: Split) -> None:
        known = split.names.get(self.spec.target)
        if known:
            self.classes = self.classes or known
            written = [known[read_label(target, known, split.where(index))] for index, target in enumerate(targets)]
        else:
            written = read_classes(targets, split)
            self.classes = self.classes or tuple(sorted(set(written)))
        index_of = {name: index for index, name in enumerate(self.classes)}
        for index, (row, name) in enumerate(zip(rows, written, strict=True)):
            if name not in index_of:
                raise InputError(
                    f"{split.where(index)}, has the label {name!r}, which training never saw; known are"
                    f" {join(self.classes)}."
                )
            row["label"] = index_of[name]

    def _tokenise(self, sentences: Sequence[str], split: Split | None) -> list[Row]:
        rows: list[Row] = []
        cut: list[str] = []
        for index, ids in enumerate(self.tokens.encode(sentences)):
            location = where(sentences, index) if split is None else split.where(index)
            if len(ids) > self.spec.length:
                if not self.spec.truncate:
                    raise InputError(
                        f"{location} has {len(ids)} tokens and data.length is {self.spec.length}; raise it, or set"
                        " data.truncate=true to cut."
                    )
                ids = ids[: self.spec.length]
                cut.append(location if split is None else location.rpartition(", ")[2])
            if not len(ids):
                raise InputError(f"{location} has no tokens; give at least one.")
            rows.append({"tokens": ids} if split is None else {"tokens": ids, "index": index})
        if cut:
            done = f"have more than data.length={self.spec.length} tokens and are cut"
            origin = "the texts" if split is None else split.origin
            self.notes.take([Note(origin, done, "examples", tuple(cut), len(rows))])
        return rows

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
        mean = sum(len(row["tokens"]) for row in rows) / len(rows)
        floor = math.ceil(min(batch_size, len(rows)) * mean / spec.length)
        return of_rows(rows, Pack(spec.length, spec.segments, floor, multiple), batch_size, seed, sampler=sampler)

    def list_questions(self, inputs: Sequence[str]) -> list[str]:
        """Texts, with files and folders replaced by their column `text`, and a .txt file by its lines."""
        return read_texts(inputs, self.notes, text=self.spec.text)

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Batches of texts to predict from, one a row, in their order."""
        for index in range(len(asked)):
            read_question(asked, index)
        return of_rows(self._tokenise(asked, None), Pad(self._list_buckets(), batch_size, multiple), batch_size)

    def _list_buckets(self) -> list[int]:
        return [bucket for bucket in self.spec.buckets if bucket < self.spec.length] + [self.spec.length]


def read_classes(targets: Sequence[object], split: Split) -> list[str]:
    """Reads class names from targets that are all strings, all integers, or all booleans.

    Raises InputError, with the location and a remedy, for a target that is missing, a fraction, nested, or of another
    type than the first.
    """
    values = [target.item() if isinstance(target, np.generic) else target for target in targets]
    values = [value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value for value in values]
    for index, value in enumerate(values):
        if isinstance(value, list | tuple | dict | np.ndarray):
            raise InputError(
                f"{split.where(index)}, has {str(value)[:40]} for a class; an example has one: give its name as a"
                " string."
            )
        if not isinstance(value, bool | int | str) or not str(value).strip():
            raise InputError(
                f"{split.where(index)}, has {value!r} for a class; give a name, or set data.kind=value for numbers."
            )
        if type(value) is not type(values[0]):
            raise InputError(
                f"{split.where(index)}, has {value!r} for a class, {TYPES[type(value)]}, and {split.where(0)}, has"
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
