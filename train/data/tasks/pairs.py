"""Translation data: pairs of sentences, and a vocabulary learnt from them."""

import array
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from models.contracts import Model
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches, Pad, Row, of_rows
from train.data.encoded import encode_texts
from train.data.lazy import Lazy
from train.data.needs import need_positions
from train.data.notes import Note, Notes
from train.data.questions import read_question, read_texts, where
from train.data.sources import Example, Split, divide, open_dataset, open_parts, read, require_source, require_text
from train.data.sources.text_files import read_lines
from train.data.tokens import BEGIN, END, Bytes, Published, make_tokenizer, require_size
from train.errors import InputError

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentences and their translations, from a data set by name or from the user's own files.

    `path` is a table (CSV, TSV, JSONL, Parquet and more: `train.data.sources`) with the columns `source` and `target`;
    or `path` and `parallel` are two text files, line i of one the translation of line i of the other.  So are `test`
    and `test_parallel`; if these are absent, the fraction `holdout` of the pairs, chosen by the md5 of the source, is
    held out.  `tokenizer` is `bpe:N`, N byte-pair tokens for both languages learnt from the training part
    (arXiv:1508.07909) and kept in the run's folder, or a tokenizer.json that has the tokens [BEGIN] and [END].  Pairs
    are batched by length and padded to `buckets`; a pair longer than `length` tokens is refused, or, with `skip`, left
    out of training.
    """

    dataset: str = "number_words"
    path: str | None = None
    parallel: str | None = None
    test: str | None = None
    test_parallel: str | None = None
    source: str = "source"
    target: str = "target"
    tokenizer: str = "bpe:512"
    length: int = 64
    buckets: tuple[int, ...] = (16, 24, 32, 48, 64, 96, 128, 192, 256)
    skip: bool = False
    holdout: float = 0.1
    splits: tuple[str, str] = ("train", "test")

    def __post_init__(self) -> None:
        if not 3 <= self.length <= max(self.buckets, default=0):
            raise ValueError(
                f"Pairs.length is {self.length}; give 3 or more and at most the largest of its buckets {self.buckets}."
            )
        require_source(self, "pairs")
        if self.parallel and not self.path:
            raise ValueError("Pairs.parallel is given without path; give the file of the training sources as path.")
        if self.test is not None and (self.parallel is None) != (self.test_parallel is None):
            raise ValueError(
                "Pairs needs parallel files for training and test alike; give both parallel and test_parallel, or"
                " neither."
            )
        require_size(self)

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedPairs":
        """Opens and tokenises both splits (or the one asked for).  Raises InputError for data that cannot be used."""
        notes = Notes()
        splits = self.read_parts(only, notes)
        opened = OpenedPairs(self, self._make_tokenizer(splits.get("train")))
        opened.notes.take(notes)
        for part, pairs in splits.items():
            opened.add(part, pairs)
        return opened

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedPairs":
        """The data set without examples, ready for sentences to translate; reads the data if `tokenizer` is `bpe:N`."""
        return OpenedPairs(self, self._make_tokenizer())

    def read_parts(self, only: PART | None, notes: Notes) -> dict[PART, Sequence[Pair]]:
        """Reads the pairs of both parts, or of one; `notes` takes the reader's notes.

        Raises InputError for an empty sentence, for files that are not parallel, and for an empty part.
        """
        parts = open_parts(
            self,
            only,
            lambda name, split: self._read_columns(open_dataset(name, split), notes),
            lambda path, part: self._read_file(path, self.test_parallel if part == "test" else self.parallel, notes),
            self._divide,
        )
        for part, pairs in parts.items():
            if not len(pairs):
                raise InputError(
                    f"{self.path} leaves nothing for its {part} part; give more pairs, or another data.holdout."
                )
        return parts

    def _divide(self, pairs: Sequence[Pair]) -> dict[PART, Sequence[Pair]]:
        parts = divide(range(len(pairs)), (pair[0] for pair in pairs), self.holdout)
        return {part: _select(pairs, indices) for part, indices in parts.items()}

    def _read_file(self, path: str, parallel: str | None, notes: Notes) -> Sequence[Pair]:
        if parallel is None and Path(path).suffix.lower() == ".txt":
            raise InputError(
                f"{path} has one text a line; give the file of the translations by data.parallel, those of data.test"
                " by data.test_parallel, or a table of both."
            )
        if parallel is None:
            return self._read_columns(read(path), notes)
        both = read_lines(path), read_lines(parallel)
        if len(both[0]) != len(both[1]):
            raise InputError(
                f"{path} has {len(both[0])} lines and {parallel} has {len(both[1])}; line i of one must be the"
                " translation of line i of the other."
            )
        for number, pair in enumerate(zip(*both, strict=True), 1):
            if not all(pair):
                raise InputError(
                    f"Line {number} of {path if not pair[0] else parallel} is empty; remove it from both files or"
                    " fill it in."
                )
        return list(zip(*both, strict=True))

    def _read_columns(self, split: Split, notes: Notes) -> Sequence[Pair]:
        split.require(source=self.source, target=self.target)
        notes.take(split.notes)

        def read_pair(index: int, example: Example) -> Pair:
            source, target = (
                require_text(example.get(name), split.where(index)).strip() for name in (self.source, self.target)
            )
            return source, target

        return Lazy(
            len(split.examples),
            lambda index: read_pair(index, split.examples[index]),
            lambda: itertools.starmap(read_pair, enumerate(split)),
        )

    def _make_tokenizer(self, pairs: Sequence[Pair] | None = None) -> Bytes | Published:
        def read_sentences() -> Iterator[str]:
            return itertools.chain.from_iterable(pairs or self.read_parts("train", Notes())["train"])

        return make_tokenizer(self.tokenizer, read_sentences)


def _select(pairs: Sequence[Pair], indices: Sequence[int]) -> Sequence[Pair]:
    places = array.array("q", indices)
    return Lazy(len(places), lambda index: pairs[places[index]])


class OpenedPairs:
    """The opened data set of `Pairs`, a `train.contracts.Dataset`; translations start with `begin`, end with `end`."""

    classes: tuple[str, ...] = ()

    def __init__(self, spec: Pairs, tokens: Bytes | Published) -> None:
        self.spec = spec
        self.tokens = tokens
        self.vocab = len(tokens.names)
        if not {BEGIN, END} <= set(tokens.names):
            raise InputError(
                f"The tokenizer {spec.tokenizer!r} lacks the tokens {BEGIN} and {END}; add them, or learn one with"
                " bpe:N."
            )
        self.begin, self.end = (tokens.names.index(name) for name in (BEGIN, END))
        self.rows: dict[str, Sequence[Row]] = {}
        self.pairs: dict[str, Sequence[Pair]] = {}
        self.notes = Notes()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tokens in answers."""
        return self.tokens.names

    def add(self, part: PART, pairs: Sequence[Pair]) -> None:
        """Adds and tokenises a split."""
        sources, targets = (
            encode_texts(self.tokens, lambda side=side: (pair[side] for pair in pairs)) for side in (0, 1)
        )
        longest = np.maximum(sources.lengths, targets.lengths + 2)
        long, kept = np.flatnonzero(longest > self.spec.length), np.flatnonzero(longest <= self.spec.length)
        if len(long) and (part == "test" or not self.spec.skip):
            index = int(long[0])
            raise InputError(
                f"{part} pair {index + 1} ({pairs[index][0][:40]}...) has {longest[index]} tokens and data.length is"
                f" {self.spec.length}; raise it, or set data.skip=true to leave long training pairs out."
            )
        if not len(kept):
            raise InputError(f"No {part} pair has at most {self.spec.length} tokens; raise data.length.")
        if len(long):
            done = f"have more than data.length={self.spec.length} tokens and are left out"
            names = tuple(f"{part} pair {index + 1}" for index in long)
            self.notes.take([Note(self.spec.path or self.spec.dataset, done, "pairs", names, len(pairs))])

        def make_row(place: int) -> Row:
            index = int(kept[place])
            tokens = np.array([self.begin, *targets[index], self.end], np.int32)
            return {"source": sources[index], "tokens": tokens, "index": index}

        self.rows[part], self.pairs[part] = Lazy(len(kept), make_row), pairs

    def show_example(self, part: PART, index: int) -> str:
        """The source sentence."""
        return self.pairs[part][index][0]

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Requires positions for all tokens of a row."""
        del model, objective
        return need_positions(self.spec.length, f"data.length is {self.spec.length}", "data.length")

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `batch_size` pairs of similar length."""
        return of_rows(
            self.rows[part], Collate(self._list_buckets(), batch_size, multiple), batch_size, seed, window=32
        )

    def list_questions(self, inputs: Sequence[str]) -> list[str]:
        """Sentences, with files and folders replaced by their column `source`, and a .txt file by its lines."""
        return [text.strip() for text in read_texts(inputs, self.notes, source=self.spec.source)]

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Batches of sentences to translate, one a row, in their order."""
        rows: list[Row] = []
        for index, ids in enumerate(self.tokens.encode(asked)):
            read_question(asked, index)
            if not 0 < len(ids) <= self.spec.length:
                raise InputError(
                    f"{where(asked, index)} has {len(ids)} tokens; the model was trained on 1 to"
                    f" {self.spec.length} (data.length): shorten it."
                )
            rows.append({"source": ids, "tokens": np.array([self.begin], np.int32), "index": index})
        return of_rows(rows, Collate(self._list_buckets(), batch_size, multiple), batch_size)

    def beside(self, pairs: Sequence[Pair], multiple: int) -> Arrays:
        """One batch of sources with other translations than those of the data, in their order."""
        both = [self.tokens.encode([pair[side] for pair in pairs]) for side in (0, 1)]
        rows: list[Row] = [
            {"source": source, "tokens": np.array([self.begin, *target, self.end], np.int32), "index": index}
            for index, (source, target) in enumerate(zip(*both, strict=True))
        ]
        longest = max(len(row[name]) for row in rows for name in ("source", "tokens"))
        return Collate([longest], len(rows), multiple)(rows)

    def _list_buckets(self) -> list[int]:
        return [bucket for bucket in self.spec.buckets if bucket < self.spec.length] + [self.spec.length]


class Collate:
    """Collates pairs: the arrays of `Pad` for the translations, and source, source_segments, source_positions (b, t).

    Both sides are padded to the smallest of `buckets` that holds the longest; always `rows` rows, in multiples of
    `multiple`.
    """

    def __init__(self, buckets: Sequence[int], rows: int, multiple: int) -> None:
        self.buckets = tuple(buckets)
        self.rows = rows
        self.multiple = multiple

    def __call__(self, members: list[Row]) -> Arrays:
        longest = max(max(len(member["source"]), len(member["tokens"])) for member in members)
        pad = Pad([next(bucket for bucket in self.buckets if bucket >= longest)], self.rows, self.multiple)
        source = pad([{"tokens": member["source"]} for member in members])
        names = {"source": "tokens", "source_segments": "segments", "source_positions": "positions"}
        return pad(members) | {name: source[other] for name, other in names.items()}
