"""Sentences with their translations, and a vocabulary learnt from them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.contracts import Model
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches, Pad, Row, of_rows
from train.data.needs import positions
from train.data.notes import Note, Notes
from train.data.questions import where
from train.data.source import Split, asked_words, dataset, held, lines, read, texts, words
from train.data.tokens import BEGIN, END, Tokenizer, require_size, tokenizer
from train.errors import InputError

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentences and their translations, from a data set by name or from the user's own files.

    `path` is a table (CSV, TSV, JSONL, Parquet and more: `train.data.sources`) with the columns `source` and `target`;
    or `path` and `parallel` are two text files, line i of one the translation of line i of the other.  So are `test`
    and `test_parallel`; without them a part `holdout` of the pairs, chosen by the md5 of the source, is held out.
    `tokenizer` is `bpe:N`, N byte-pair tokens for both languages learnt from the training part (arXiv:1508.07909) and
    kept in the run's folder, or a tokenizer.json that has the tokens [BEGIN] and [END].  Pairs are batched by length,
    padded to `buckets`; one longer than `length` tokens is refused, or left out of training with `skip`.
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
        if not 0 < self.holdout < 1:
            raise ValueError(f"Pairs.holdout is {self.holdout}; give a part of the pairs between 0 and 1.")
        if (self.parallel or self.test) and not self.path:
            raise ValueError(
                "Pairs has a parallel or a test file and no path; give the file of the training sources too."
            )
        if self.test is not None and (self.parallel is None) != (self.test_parallel is None):
            raise ValueError(
                "Pairs needs parallel files for training and test alike; give both parallel and test_parallel, or"
                " neither."
            )
        require_size(self)

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedPairs":
        """Both splits (or the one asked for), read, checked and tokenised.  Raises InputError for what cannot be
        used.
        """
        parts: list[PART] = ["train", "test"] if only is None else [only]
        notes = Notes()
        found: dict[PART, list[Pair]] = {part: self.pairs(part, notes) for part in parts}
        opened = OpenedPairs(self, self._tokens(found.get("train")))
        opened.notes.take(notes)
        for part, pairs in found.items():
            opened.add(part, pairs)
        return opened

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedPairs":
        """Ready for sentences to translate, without the data where the vocabulary is a file: a run keeps what it learnt
        as one.
        """
        return OpenedPairs(self, self._tokens())

    def pairs(self, part: PART, notes: Notes | None = None) -> list[Pair]:
        """The sentences of a part; `notes` takes what the reader says.  Raises InputError where one is empty or files
        are not parallel.
        """
        notes = Notes() if notes is None else notes
        if self.path is None:
            return self._columns(dataset(self.dataset, self.splits[part == "test"]), notes)
        if self.test is not None:
            return self._file(
                *((self.test, self.test_parallel) if part == "test" else (self.path, self.parallel)), notes
            )
        whole = self._file(self.path, self.parallel, notes)
        found = [pair for pair in whole if held(pair[0], self.holdout) == (part == "test")]
        if not found:
            raise InputError(
                f"{self.path} leaves nothing for its {part} part; give more pairs, or another data.holdout."
            )
        return found

    def _file(self, path: str, parallel: str | None, notes: Notes) -> list[Pair]:
        if parallel is None and Path(path).suffix.lower() == ".txt":
            raise InputError(
                f"{path} has one text a line; give the file of the translations by data.parallel, those of data.test"
                " by data.test_parallel, or a table of both."
            )
        if parallel is None:
            return self._columns(read(path), notes)
        both = lines(path), lines(parallel)
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

    def _columns(self, split: Split, notes: Notes) -> list[Pair]:
        split.require(source=self.source, target=self.target)
        notes.take(split.notes)
        examples = [split.examples[index] for index in range(len(split.examples))]
        return [
            (
                words(example.get(self.source), split.where(index)).strip(),
                words(example.get(self.target), split.where(index)).strip(),
            )
            for index, example in enumerate(examples)
        ]

    def _tokens(self, pairs: list[Pair] | None = None) -> Tokenizer:
        return tokenizer(self.tokenizer, lambda: [text for pair in pairs or self.pairs("train") for text in pair])


class OpenedPairs:
    """See `train.contracts.Dataset`.  `begin` and `end` are the ids that a translation starts and ends with."""

    classes: tuple[str, ...] = ()

    def __init__(self, spec: Pairs, tokens: Tokenizer) -> None:
        self.spec, self.tokens = spec, tokens
        self.vocab = len(tokens.names)
        if not {BEGIN, END} <= set(tokens.names):
            raise InputError(
                f"The tokenizer {spec.tokenizer!r} lacks the tokens {BEGIN} and {END}; add them, or learn one with"
                " bpe:N."
            )
        self.begin, self.end = (tokens.names.index(name) for name in (BEGIN, END))
        self.rows: dict[str, list[Row]] = {}
        self.pairs: dict[str, list[Pair]] = {}
        self.notes = Notes()

    @property
    def names(self) -> tuple[str, ...]:
        """The tokens, which an answer chooses from."""
        return self.tokens.names

    def add(self, part: PART, pairs: list[Pair]) -> None:
        """Tokenises one split."""
        both = [self.tokens.encode([pair[side] for pair in pairs]) for side in (0, 1)]
        rows: list[Row] = []
        skipped: list[str] = []
        for index, (source, target) in enumerate(zip(*both, strict=True)):
            longest = max(len(source), len(target) + 2)
            if longest <= self.spec.length:
                rows.append(
                    {"source": source, "tokens": np.array([self.begin, *target, self.end], np.int32), "index": index}
                )
            elif part == "test" or not self.spec.skip:
                raise InputError(
                    f"{part} pair {index + 1} ({pairs[index][0][:40]}...) has {longest} tokens and data.length is"
                    f" {self.spec.length}; raise it, or set data.skip=true to leave long training pairs out."
                )
            else:
                skipped.append(f"{part} pair {index + 1}")
        if not rows:
            raise InputError(f"No {part} pair has at most {self.spec.length} tokens; raise data.length.")
        if skipped:
            done = f"have more than data.length={self.spec.length} tokens and are left out"
            self.notes.take([Note(self.spec.path or self.spec.dataset, done, "pairs", tuple(skipped), len(pairs))])
        self.rows[part], self.pairs[part] = rows, pairs

    def shown(self, part: PART, index: int) -> str:
        """The sentence."""
        return self.pairs[part][index][0]

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Positions for all of a row."""
        del model, objective
        return positions(self.spec.length, f"data.length is {self.spec.length}", "data.length")

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `batch_size` pairs of about the same length."""
        return of_rows(self.rows[part], Collate(self._buckets(), batch_size, multiple), batch_size, seed, window=32)

    def asked(self, given: Sequence[str]) -> list[str]:
        """Sentences, and those of the column `source` of files and folders; a .txt has one a line."""
        return [text.strip() for text in texts(given, self.notes, source=self.spec.source)]

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Sentences to translate, one a row, in their order."""
        rows: list[Row] = []
        for index, ids in enumerate(self.tokens.encode(asked)):
            asked_words(asked, index)
            if not 0 < len(ids) <= self.spec.length:
                raise InputError(
                    f"{where(asked, index)} has {len(ids)} tokens; the model was trained on 1 to"
                    f" {self.spec.length} (data.length): shorten it."
                )
            rows.append({"source": ids, "tokens": np.array([self.begin], np.int32), "index": index})
        return of_rows(rows, Collate(self._buckets(), batch_size, multiple), batch_size)

    def beside(self, pairs: Sequence[Pair], multiple: int) -> Arrays:
        """Sources with translations that somebody gives, as one batch in their order."""
        both = [self.tokens.encode([pair[side] for pair in pairs]) for side in (0, 1)]
        rows: list[Row] = [
            {"source": source, "tokens": np.array([self.begin, *target, self.end], np.int32), "index": index}
            for index, (source, target) in enumerate(zip(*both, strict=True))
        ]
        longest = max(len(row[name]) for row in rows for name in ("source", "tokens"))
        return Collate([longest], len(rows), multiple)(rows)

    def _buckets(self) -> list[int]:
        return [bucket for bucket in self.spec.buckets if bucket < self.spec.length] + [self.spec.length]


class Collate:
    """Pairs as a batch: what `Pad` gives of the translations, and source, source_segments and source_positions (b, t).

    Both sides are padded to the smallest of `buckets` that holds the longest; always `rows` rows, in multiples of
    `multiple`.
    """

    def __init__(self, buckets: Sequence[int], rows: int, multiple: int) -> None:
        self.buckets, self.rows, self.multiple = tuple(buckets), rows, multiple

    def __call__(self, members: list[Row]) -> Arrays:
        longest = max(max(len(member["source"]), len(member["tokens"])) for member in members)
        pad = Pad([next(bucket for bucket in self.buckets if bucket >= longest)], self.rows, self.multiple)
        source = pad([{"tokens": member["source"]} for member in members])
        names = {"source": "tokens", "source_segments": "segments", "source_positions": "positions"}
        return pad(members) | {name: source[other] for name, other in names.items()}
