"""Language modelling data: one long text in windows."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from models.contracts import Model
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches, Order, Pad, Row, of_rows
from train.data.encoded import Texts, encode_blocks
from train.data.needs import need_positions
from train.data.notes import Notes
from train.data.questions import read_question, read_texts, where
from train.data.sources import Split, find_cut, open_dataset, open_parts, read, require_source
from train.data.sources.text_files import read_blocks
from train.data.tokens import Bytes, Published, make_tokenizer, require_size
from train.errors import InputError


@dataclasses.dataclass(frozen=True)
class Masking:
    """BERT's masking: of a fraction `rate` of the tokens, 80 % become `token`, 10 % a random token, 10 % stay.

    arXiv:1810.04805.
    """

    rate: float = 0.15
    token: str = "[MASK]"

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"Masking.rate is {self.rate}; give a part of the tokens between 0 and 1.")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Windows of `length` tokens of a text: every epoch cuts the text at another offset and shuffles the windows.

    The text is a data set by name or a file `path` (with a file `test`, or the last fraction `holdout` held out).
    `tokenizer` is `bytes`, a tokenizer.json, or `bpe:N`, N byte-pair tokens learnt from the training part and kept in
    the run's folder.  `masking` makes batches for a masked language model: corrupted `tokens`, original `labels` (b,
    t), and `weights` (b, t) that are 1 for tokens to predict.
    """

    dataset: str = "shakespeare_plays"
    path: str | None = None
    test: str | None = None
    text: str = "text"
    tokenizer: str = "bytes"
    length: int = 128
    masking: Masking | None = None
    holdout: float = 0.1
    splits: tuple[str, str] = ("train", "test")

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"Corpus.length is {self.length}; a window needs 2 tokens or more.")
        require_size(self)
        require_source(self, "text")

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedCorpus":
        """Opens and tokenises both splits (or the one asked for).  Raises InputError for data that cannot be used."""
        opened = self.reader()
        for part, blocks in self._read_parts(only, opened.notes).items():
            opened.add(part, blocks)
        return opened

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedCorpus":
        """The data set without examples, ready for texts to predict from."""
        return OpenedCorpus(
            self, make_tokenizer(self.tokenizer, lambda: _cut_lines(self._read_parts("train", Notes())["train"]()))
        )

    def _read_parts(self, only: PART | None, notes: Notes) -> dict[PART, Texts]:
        """The text of both parts, or of one, in blocks that are read whenever they are asked for."""
        return open_parts(
            self,
            only,
            lambda name, split: self._join(open_dataset(name, split), notes),
            lambda path, part: self._read_file(path, notes),
            self._divide,
        )

    def _divide(self, blocks: Texts) -> dict[PART, Texts]:
        cut = find_cut(sum(map(len, blocks())), self.holdout)
        return {"train": lambda: _select(blocks(), 0, cut), "test": lambda: _select(blocks(), cut, sys.maxsize)}

    def _read_file(self, path: str, notes: Notes) -> Texts:
        """Reads a text file unchanged, or the texts of the rows of a table or of JSON lines."""
        if Path(path).suffix.lower() != ".txt":
            return self._join(read(path), notes)
        return lambda: read_blocks(path)

    def _join(self, split: Split, notes: Notes) -> Texts:
        split.require(text=self.text)
        notes.take(split.notes)

        def read_rows() -> Iterator[str]:
            for index, example in enumerate(split):
                text = example.get(self.text)
                text = text.decode("utf-8") if isinstance(text, bytes) else text
                if not isinstance(text, str):
                    raise InputError(
                        f"{split.where(index)}, has no text in the column {self.text!r}; remove it or fill it in."
                    )
                yield f"\n{text}" if index else text

        return read_rows


def _select(blocks: Iterable[str], start: int, stop: int) -> Iterator[str]:
    """Yields the characters from `start` up to `stop` of a text in blocks."""
    first = 0
    for block in blocks:
        if first >= stop:
            return
        if first + len(block) > start:
            yield block[max(start - first, 0) : stop - first]
        first += len(block)


def _cut_lines(blocks: Iterable[str]) -> Iterator[str]:
    """Yields the lines of a text in blocks, as `str.splitlines` cuts them."""
    held: list[str] = []
    for block in blocks:
        held.append(block)
        if block.splitlines() != [block]:
            *lines, last = "".join(held).splitlines(keepends=True)
            yield from (line.splitlines()[0] for line in lines)
            held = [last]
    yield from "".join(held).splitlines()


class OpenedCorpus:
    """The opened data set of `Corpus`, a `train.contracts.Dataset`."""

    classes: tuple[str, ...] = ()

    def __init__(self, spec: Corpus, tokens: Bytes | Published) -> None:
        self.spec = spec
        self.tokens = tokens
        self.vocab = len(tokens.names)
        if spec.masking is not None and spec.masking.token not in tokens.names:
            raise InputError(
                f"The tokenizer {spec.tokenizer!r} has no token {spec.masking.token!r}; set data.masking.token to"
                " one it has."
            )
        self.ids: dict[str, np.ndarray] = {}
        self.characters: dict[str, int] = {}
        self.notes = Notes()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tokens in answers."""
        return self.tokens.names

    def add(self, part: PART, blocks: Texts) -> None:
        """Adds and tokenises the text of a split."""
        encoded = encode_blocks(self.tokens, blocks)
        ids = encoded.ids
        if len(ids) < 2 * self.spec.length:
            raise InputError(
                f"The {part} text has {len(ids)} tokens, too few for windows of {self.spec.length}; lower"
                " data.length or give more text."
            )
        self.ids[part], self.characters[part] = ids, encoded.characters

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Requires positions for all tokens of a row."""
        del model, objective
        return need_positions(self.spec.length, f"data.length is {self.spec.length}", "data.length")

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `batch_size` windows, with empty rows up to a multiple.

        Window i of an epoch starts at the offset of the epoch + i * length.  The tokens that are masked in a window
        depend on (seed, epoch, window) alone.
        """
        ids = self.ids[part]
        length = self.spec.length
        masking = self.spec.masking
        rows = -(-batch_size // multiple) * multiple
        # without a seed all of the text, otherwise the windows that every offset leaves
        count = -(-len(ids) // length) if seed is None else (len(ids) - length) // length
        order = Order(count, batch_size, seed)

        def make(step: int) -> Arrays:
            epoch, windows = step // len(order), order(step)
            offset = 0 if seed is None else int(np.random.default_rng((seed, epoch)).integers(length))
            tokens, segments = np.zeros((rows, length), np.int32), np.zeros((rows, length), np.int32)
            for row, window in enumerate(windows):
                cut = ids[offset + window * length : offset + (window + 1) * length]
                tokens[row, : len(cut)], segments[row, : len(cut)] = cut, 1
            batch = {"tokens": tokens, "segments": segments}
            if masking is None:
                return batch
            return self._mask(batch, masking, [(seed or 0, epoch, window) for window in windows])

        return Batches(len(order), make)

    def list_questions(self, inputs: Sequence[str]) -> list[str]:
        """Texts, with files and folders replaced by their column `text`, and a .txt file by its lines."""
        return read_texts(inputs, self.notes, text=self.spec.text)

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Batches of texts to predict from, one a row, in their order."""
        rows: list[Row] = []
        for index, ids in enumerate(self.tokens.encode(asked)):
            if not asked[index]:
                read_question(asked, index)
            if not 0 < len(ids) <= self.spec.length:
                raise InputError(
                    f"{where(asked, index)} has {len(ids)} tokens; the model was trained on 1 to"
                    f" {self.spec.length} (data.length): shorten it."
                )
            rows.append({"tokens": ids})
        return of_rows(rows, Pad([self.spec.length], batch_size, multiple), batch_size)

    def _mask(self, batch: Arrays, masking: Masking, seeds: Sequence[tuple[int, ...]]) -> Arrays:
        tokens = batch["tokens"]
        chosen, fate, other = np.ones(tokens.shape), np.ones(tokens.shape), np.zeros(tokens.shape, np.int32)
        for row, seed in enumerate(seeds):
            chance = np.random.default_rng(seed)
            chosen[row], fate[row] = chance.random((2, tokens.shape[1]))
            other[row] = chance.integers(0, self.vocab, tokens.shape[1])
        picked = (chosen < masking.rate) & (batch["segments"] > 0)
        mask = self.names.index(masking.token)
        corrupted = np.where(picked & (fate < 0.8), mask, np.where(picked & (fate >= 0.9), other, tokens)).astype(
            np.int32
        )
        return {**batch, "tokens": corrupted, "labels": tokens, "weights": picked.astype(np.float32)}
