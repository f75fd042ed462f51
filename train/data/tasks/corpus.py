"""One long text cut into windows, for language models."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.contracts import Model
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches, Order, Pad, Row, of_rows
from train.data.needs import positions
from train.data.notes import Notes
from train.data.questions import where
from train.data.source import Split, asked_words, dataset, read, texts, whole
from train.data.tokens import Tokenizer, require_size, tokenizer
from train.errors import InputError


@dataclasses.dataclass(frozen=True)
class Masking:
    """BERT's corruption: of a part `rate` of the tokens, 80 % become `token`, 10 % a random one, 10 % stay.
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

    From a data set by name or from a text file `path` (with `test`, or its last part `holdout`).  `tokenizer` is
    `bytes`, a tokenizer.json, or `bpe:N`, N byte-pair tokens learnt from the training part and kept in the run's
    folder.  `masking` makes the batch one for a masked language model: `tokens` corrupted, `labels` (b, t) as they
    were, `weights` (b, t) where to predict.
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
        if not 0 < self.holdout < 1:
            raise ValueError(f"Corpus.holdout is {self.holdout}; give a part of the text between 0 and 1.")

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedCorpus":
        """Both splits (or the one asked for), tokenised.  Raises InputError for what cannot be used."""
        opened = self.reader()
        for part in ("train", "test") if only is None else (only,):
            opened.add(part, self._text(part, opened.notes))
        return opened

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedCorpus":
        """Ready for texts to predict from, without the data."""
        return OpenedCorpus(self, tokenizer(self.tokenizer, lambda: self._text("train", Notes()).splitlines()))

    def _text(self, part: PART, notes: Notes) -> str:
        if self.path is None:
            return self._joined(dataset(self.dataset, self.splits[part == "test"]), notes)
        if self.test is not None:
            return self._file(self.test if part == "test" else self.path, notes)
        text = self._file(self.path, notes)
        cut = int(len(text) * (1 - self.holdout))
        return text[cut:] if part == "test" else text[:cut]

    def _file(self, path: str, notes: Notes) -> str:
        """A text as it stands in its file; of a table or of JSON lines the texts of its rows."""
        return whole(path) if Path(path).suffix.lower() == ".txt" else self._joined(read(path), notes)

    def _joined(self, split: Split, notes: Notes) -> str:
        split.require(text=self.text)
        notes.take(split.notes)
        found: list[str] = []
        for index in range(len(split.examples)):
            text = split.examples[index].get(self.text)
            text = text.decode("utf-8") if isinstance(text, bytes) else text
            if not isinstance(text, str):
                raise InputError(
                    f"{split.where(index)}, has no text in the column {self.text!r}; remove it or fill it in."
                )
            found.append(text)
        return "\n".join(found)


class OpenedCorpus:
    """See `train.contracts.Dataset`."""

    classes: tuple[str, ...] = ()

    def __init__(self, spec: Corpus, tokens: Tokenizer) -> None:
        self.spec, self.tokens = spec, tokens
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
        """The tokens, which an answer chooses from."""
        return self.tokens.names

    def add(self, part: PART, text: str) -> None:
        """Tokenises one split."""
        ids = self.tokens.encode([text])[0]
        if len(ids) < 2 * self.spec.length:
            raise InputError(
                f"The {part} text has {len(ids)} tokens, too few for windows of {self.spec.length}; lower"
                " data.length or give more text."
            )
        self.ids[part], self.characters[part] = ids, len(text)

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Positions for all of a row."""
        del model, objective
        return positions(self.spec.length, f"data.length is {self.spec.length}", "data.length")

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `batch_size` windows, and rows without any up to a multiple: window i of an epoch starts at its
        offset + i * length.

        What is masked of a window depends on (seed, epoch, window) alone.
        """
        ids, length, masking, rows = (
            self.ids[part],
            self.spec.length,
            self.spec.masking,
            -(-batch_size // multiple) * multiple,
        )
        # all of the text, or what any offset leaves
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
            return (
                batch
                if masking is None
                else self._masked(batch, masking, [(seed or 0, epoch, window) for window in windows])
            )

        return Batches(len(order), make)

    def asked(self, given: Sequence[str]) -> list[str]:
        """Texts, and those of the column `text` of files and folders; a .txt has one a line."""
        return texts(given, self.notes, text=self.spec.text)

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Texts to predict from, one a row, in their order."""
        rows: list[Row] = []
        for index, ids in enumerate(self.tokens.encode(asked)):
            if not asked[index]:
                asked_words(asked, index)
            if not 0 < len(ids) <= self.spec.length:
                raise InputError(
                    f"{where(asked, index)} has {len(ids)} tokens; the model was trained on 1 to"
                    f" {self.spec.length} (data.length): shorten it."
                )
            rows.append({"tokens": ids})
        return of_rows(rows, Pad([self.spec.length], batch_size, multiple), batch_size)

    def _masked(self, batch: Arrays, masking: Masking, seeds: Sequence[tuple[int, ...]]) -> Arrays:
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
