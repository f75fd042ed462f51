"""Sentences with their translations, and a vocabulary learnt from them."""

import dataclasses
import hashlib
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.data.batches import Arrays, Batches, Row, of_rows
from train.data.contracts import PART
from train.data.source import Split, dataset, lines, read
from train.data.tokens import BEGIN, END, Tokenizer, learnt, tokenizer
from train.spec import InputError

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentences and their translations, from a data set by name or from the user's own files.

    `path` is a CSV, TSV or JSONL file with the columns `source` and `target`; or `path` and `parallel` are two text files, line i of one
    the translation of line i of the other.  So are `test` and `test_parallel`; without them a part `holdout` of the pairs, chosen by the
    md5 of the source, is held out.  `tokenizer` is `bpe:N`, N byte-pair tokens for both languages learnt from the training part
    (arXiv:1508.07909) and kept, or a tokenizer.json that has the tokens [BEGIN] and [END].  Pairs are batched by length, padded to
    `buckets`; one longer than `length` tokens is refused, or left out of training with `skip`.
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
            raise ValueError(f"Pairs.length is {self.length}; give 3 or more and at most the largest of its buckets {self.buckets}.")
        if not 0 < self.holdout < 1:
            raise ValueError(f"Pairs.holdout is {self.holdout}; give a part of the pairs between 0 and 1.")
        if (self.parallel or self.test) and not self.path:
            raise ValueError("Pairs has a parallel or a test file and no path; give the file of the training sources too.")
        if self.test is not None and (self.parallel is None) != (self.test_parallel is None):
            raise ValueError("Pairs needs parallel files for training and test alike; give both parallel and test_parallel, or neither.")
        size = self.tokenizer.removeprefix("bpe:")
        if size != self.tokenizer and not (size.isdecimal() and int(size) > 260):
            raise ValueError(f"Pairs.tokenizer is {self.tokenizer!r}; give bpe:N with N above 260, such as bpe:8000, or a tokenizer.json.")

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedPairs":
        """Both splits (or the one asked for), read, checked and tokenised.  Raises InputError for what cannot be used."""
        opened = self.reader()
        for part in ("train", "test") if only is None else (only,):
            opened.add(part, self.pairs(part))
        return opened

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedPairs":
        """Ready for sentences to translate, without the data; but a vocabulary that is not kept yet is learnt from them."""
        return OpenedPairs(self, self._tokens())

    def pairs(self, part: PART) -> list[Pair]:
        """The sentences of a part.  Raises InputError where one is empty or the files are not parallel."""
        if self.path is None:
            return self._columns(dataset(self.dataset, self.splits[part == "test"]))
        if self.test is not None:
            return self._file(*((self.test, self.test_parallel) if part == "test" else (self.path, self.parallel)))
        whole = self._file(self.path, self.parallel)
        limit = self.holdout * 2**32
        found = [pair for pair in whole if (int(hashlib.md5(pair[0].encode()).hexdigest()[:8], 16) < limit) == (part == "test")]
        if not found:
            raise InputError(f"{self.path} leaves nothing for its {part} part; give more pairs, or another holdout.")
        return found

    def _file(self, path: str, parallel: str | None) -> list[Pair]:
        if parallel is None:
            return self._columns(read(path))
        both = lines(path), lines(parallel)
        if len(both[0]) != len(both[1]):
            raise InputError(
                f"{path} has {len(both[0])} lines and {parallel} has {len(both[1])}; line i of one must be the translation of line i of the"
                " other."
            )
        for number, pair in enumerate(zip(*both, strict=True), 1):
            if not all(pair):
                raise InputError(f"Line {number} of {path if not pair[0] else parallel} is empty; remove it from both files or fill it in.")
        return list(zip(*both, strict=True))

    def _columns(self, split: Split) -> list[Pair]:
        if not len(split.examples):
            raise InputError(f"{split.origin} is empty; give at least one pair.")
        for column in (self.source, self.target):
            if column not in split.examples[0]:
                raise InputError(
                    f"{split.origin} has no column {column!r}; it has {', '.join(split.examples[0])}: set data.source and data.target."
                )
        found: list[Pair] = []
        for index in range(len(split.examples)):
            example = split.examples[index]
            given = (example.get(self.source), example.get(self.target))
            source, target = (text.decode("utf-8") if isinstance(text, bytes) else text for text in given)
            if not (isinstance(source, str) and isinstance(target, str) and source.strip() and target.strip()):
                raise InputError(f"{split.where(index)}, lacks a sentence or its translation; remove it or fill it in.")
            found.append((source.strip(), target.strip()))
        return found

    def _tokens(self) -> Tokenizer:
        size = self.tokenizer.removeprefix("bpe:")
        if size == self.tokenizer:
            return tokenizer(self.tokenizer)
        name = f"{self.dataset} {self.source} {self.target} {self.splits[0]}" if self.path is None else ""
        for place in (self.path, self.parallel, self.test, self.test_parallel) if self.path is not None else ():
            name += "" if place is None else _digest(place)
        key = hashlib.sha256(f"{name} {self.holdout if self.path else ''}".encode()).hexdigest()[:16]
        return learnt(key, int(size), lambda: [text for pair in self.pairs("train") for text in pair])


class OpenedPairs:
    """See `train.data.contracts.Opened`.  `begin` and `end` are the ids that a translation starts and ends with."""

    classes: tuple[str, ...] = ()

    def __init__(self, spec: Pairs, tokens: Tokenizer) -> None:
        self.spec, self.tokens = spec, tokens
        self.vocab = len(tokens.names)
        if not {BEGIN, END} <= set(tokens.names):
            raise InputError(f"The tokenizer {spec.tokenizer!r} lacks the tokens {BEGIN} and {END}; add them, or learn one with bpe:N.")
        self.begin, self.end = (tokens.names.index(name) for name in (BEGIN, END))
        self.rows: dict[str, list[Row]] = {}
        self.pairs: dict[str, list[Pair]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The tokens, which an answer chooses from."""
        return self.tokens.names

    def add(self, part: PART, pairs: list[Pair]) -> None:
        """Tokenises one split."""
        both = [self.tokens.encode([pair[side] for pair in pairs]) for side in (0, 1)]
        rows: list[Row] = []
        for index, (source, target) in enumerate(zip(*both, strict=True)):
            longest = max(len(source), len(target) + 2)
            if longest <= self.spec.length:
                rows.append({"source": source, "tokens": np.array([self.begin, *target, self.end], np.int32), "index": index})
            elif part == "test" or not self.spec.skip:
                raise InputError(
                    f"{part} pair {index + 1} ({pairs[index][0][:40]}...) has {longest} tokens and data.length is {self.spec.length};"
                    " raise it, or set data.skip=true to leave long training pairs out."
                )
        if not rows:
            raise InputError(f"No {part} pair has at most {self.spec.length} tokens; raise data.length.")
        self.rows[part], self.pairs[part] = rows, pairs

    def shown(self, part: PART, index: int) -> str:
        """The sentence, as a piece of a page."""
        return html.escape(self.pairs[part][index][0])

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `batch_size` pairs of about the same length."""
        return of_rows(self.rows[part], Collate(self._buckets(), batch_size, multiple), batch_size, seed, window=32)

    def questions(self, texts: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Sentences to translate, one a row, in their order."""
        rows: list[Row] = []
        for index, ids in enumerate(self.tokens.encode(texts)):
            if not 0 < len(ids) <= self.spec.length:
                raise InputError(f"text {index + 1} has {len(ids)} tokens; the model was trained on 1 to {self.spec.length}.")
            rows.append({"source": ids, "tokens": np.array([self.begin], np.int32), "index": index})
        return of_rows(rows, Collate(self._buckets(), batch_size, multiple), batch_size)

    def _buckets(self) -> list[int]:
        return [bucket for bucket in self.spec.buckets if bucket < self.spec.length] + [self.spec.length]


class Collate:
    """Pairs as a batch: tokens, segments and positions (b, t), source, source_segments and source_positions (b, t), weights and index (b,).

    Both sides are padded to the smallest of `buckets` that holds the longest; always `rows` rows, in multiples of `multiple`.
    """

    def __init__(self, buckets: Sequence[int], rows: int, multiple: int) -> None:
        self.buckets, self.rows = tuple(buckets), -(-rows // multiple) * multiple

    def __call__(self, members: list[Row]) -> Arrays:
        longest = max(max(len(member["source"]), len(member["tokens"])) for member in members)
        shape = self.rows, next(bucket for bucket in self.buckets if bucket >= longest)
        batch: Arrays = {"weights": np.zeros(self.rows, np.float32), "index": np.zeros(self.rows, np.int32)}
        for name, prefix in (("tokens", ""), ("source", "source_")):
            arrays: Any = {name: np.zeros(shape, np.int32)}
            arrays |= {prefix + other: np.zeros(shape, np.int32) for other in ("segments", "positions")}
            for row, member in enumerate(members):
                count = len(member[name])
                arrays[name][row, :count] = member[name]
                arrays[prefix + "segments"][row, :count] = 1
                arrays[prefix + "positions"][row, :count] = np.arange(count)
            batch |= arrays
        batch["weights"][: len(members)] = 1.0
        batch["index"][: len(members)] = [member["index"] for member in members]
        return batch


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
    except (OSError, RuntimeError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else error
        raise InputError(f"{path} cannot be read: {reason}; the vocabulary is learnt from it.") from None
