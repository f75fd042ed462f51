"""Tokenizers: a published tokenizer.json, byte pairs learnt from texts, or plain bytes."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from tokenizers import Encoding, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Fast

from train.data.published import locate
from train.data.questions import where
from train.data.words import TOGETHER, Words, take_together
from train.errors import InputError

BEGIN, END = "[BEGIN]", "[END]"
FEW = 2**14  # characters of texts, up to which words are not looked up


def _encode(texts: Sequence[str], index: int) -> bytes:
    try:
        return texts[index].encode("utf-8")
    except UnicodeEncodeError:  # surrogates, from bytes on a command line that are not UTF-8
        raise InputError(f"{where(texts, index)}, is not UTF-8; convert it, for example with iconv -t utf-8.") from None


class Bytes:
    """A tokenizer of UTF-8 bytes: 256 tokens, no file."""

    names = tuple(chr(code) if 32 <= code < 127 else f"<{code}>" for code in range(256))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes each text to ids (t,).  Raises InputError for a text that is not UTF-8."""
        return [np.frombuffer(_encode(texts, index), np.uint8).astype(np.int32) for index in range(len(texts))]

    def encode_blocks(self, blocks: Iterable[str]) -> Iterator[np.ndarray]:
        """Encodes one text that comes in blocks: joined, what it yields is what `encode` gives for the whole text."""
        for block in blocks:
            yield np.frombuffer(_encode([block], 0), np.uint8)

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes ids to text; bytes that are not UTF-8 become the replacement character."""
        return bytes(ids).decode("utf-8", errors="replace")


class Window(NamedTuple):
    """Tokens of a window around a cut of a text: their ids, the token at which pieces of the text are joined, and the
    tokens that begin a quarter and three quarters into the window.
    """

    ids: np.ndarray
    joint: int
    low: int
    high: int

    @classmethod
    def of(cls, encoding: Encoding, length: int) -> "Window | None":
        """The window of `length` characters; None if no token in its middle, or none that begins a word, is a joint.

        All tokens are of one word if the tokenizer does not split texts into words, and may all be joints.
        """
        starts = np.array([start for start, _ in encoding.offsets], np.int64)
        low, high = np.searchsorted(starts, (length // 4, 3 * length // 4)).tolist()
        words = np.array([-1 if word is None else word for word in encoding.word_ids], np.int64)
        joints = starts[1:] > starts[:-1]
        if len(words) and (words != words[0]).any():
            joints &= words[1:] != words[:-1]
        found = np.flatnonzero(joints[low : max(high - 1, low)]) + low + 1
        return cls(np.array(encoding.ids, np.int32), int(found[len(found) // 2]), low, high) if len(found) else None

    def ends(self, ids: np.ndarray) -> bool:
        """Tells if a piece that ends with the window has its tokens from its first quarter on."""
        return np.array_equal(ids[max(len(ids) - len(self.ids) + self.low, 0) :], self.ids[self.low :])

    def begins(self, ids: np.ndarray) -> bool:
        """Tells if a piece that begins with the window has its tokens up to its last quarter."""
        return np.array_equal(ids[: self.high], self.ids[: self.high])


def _cut_texts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cuts texts into runs of about `TOGETHER` characters."""
    start, length = 0, 0
    for stop, text in enumerate(texts, 1):
        length += len(text)
        if length >= TOGETHER or stop == len(texts):
            yield texts[start:stop]
            start, length = stop, 0


class Published:
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, fast: Fast) -> None:
        self.fast = fast
        self.fast.no_truncation()
        self.fast.no_padding()
        vocabulary = {index: name for name, index in self.fast.get_vocab().items()}
        self.names = tuple(vocabulary.get(index, f"<{index}>") for index in range(max(vocabulary) + 1))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes each text to ids (t,).  Raises InputError for a text that is not UTF-8."""
        for index in range(len(texts)):
            _encode(texts, index)
        return [ids for some in _cut_texts(texts) for ids in self._encode_together(some)]

    @functools.cached_property
    def words(self) -> Words | None:
        """The words that it has met; None if it does not encode each by itself, with `marks` around all."""
        (before, after), ids = self.marks, self.fast.encode("a", add_special_tokens=False).ids
        return Words.of(self.fast) if self.fast.encode("a").ids == [*before, *ids, *after] else None

    @functools.cached_property
    def marks(self) -> tuple[np.ndarray, np.ndarray]:
        """The special tokens before and after a text."""
        marked = self.fast.encode("a")
        plain = np.flatnonzero(np.array(marked.special_tokens_mask) == 0)
        special = np.array(marked.ids, np.int32)
        return special[: plain[0] if len(plain) else 0], special[plain[-1] + 1 if len(plain) else len(special) :]

    def _encode_together(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes texts word by word if that is faster: if they are many, and most of their words are known."""
        if sum(map(len, texts)) > FEW and self.words is not None:
            before, after = (mark.tobytes() for mark in self.marks)
            if (found := self.words.encode(texts)) is not None:
                return [np.frombuffer(before + ids + after, np.int32) for ids in found]
        return [np.array(encoding.ids, np.int32) for encoding in self.fast.encode_batch_fast(list(texts))]

    def encode_blocks(self, blocks: Iterable[str], size: int = 2**14, margin: int = 2**8) -> Iterator[np.ndarray]:
        """Encodes one text that comes in blocks: joined, what it yields is what `encode` gives for the whole text.

        Word by word, as long as it has words that the tokenizer encodes each by itself; then as `_encode_windows` does,
        by pieces of `size` and windows of `margin` characters.
        """
        before, after = self.marks
        rest, skipped = iter(blocks), 0
        yield before
        if self.words is not None:
            rest, skipped = yield from self.words.encode_blocks(rest)
        for ids in self._encode_windows(rest, size, margin):
            yield ids[skipped:]
            skipped = max(skipped - len(ids), 0)
        yield after

    def _encode_windows(self, blocks: Iterator[str], size: int, margin: int) -> Iterator[np.ndarray]:
        """Encodes one text that comes in blocks, without special tokens.

        The text is cut into pieces of `size` characters, each encoded with `margin` characters more on both sides, and
        so is a window of as many characters around each cut.  Two pieces are joined at a token in the middle of the
        window, one that begins a word if the tokenizer splits texts into words: there the piece before, which ends with
        the window, and the piece after, which begins with it, have the window's tokens for a quarter of it and more on
        both sides.  A text is split from left to right and each word encoded by itself, so the tokens before the joint
        are those of a text that goes on, and those after it of a text that went before.  A cut where the three do not
        agree, as in a long row of one character, is left out, and its two pieces are one.
        """
        text, first = "", 0  # the text that is not yet encoded, and which token of it comes next
        before = 0  # characters of the text before that token's cut
        while True:
            more = take_together(blocks, max(32 * size - len(text), len(text)))
            text += more
            known, pieces = self._encode_pieces(text, range(before + size, len(text) - size, size), margin)
            for window, piece in zip(known.values(), pieces, strict=False):
                yield piece[first : len(piece) - len(window.ids) + window.joint]
                first = window.joint
            if not more:
                yield pieces[-1][first:]
                return
            if known:
                text, before = text[max(known) - margin :], margin

    def _encode_pieces(self, text: str, cuts: Sequence[int], margin: int) -> tuple[dict[int, Window], list[np.ndarray]]:
        """Encodes the pieces of a text; returns the cuts between them with their windows, and the tokens of each."""
        windows = [text[cut - margin : cut + margin] for cut in cuts]
        encodings = self.fast.encode_batch(windows, add_special_tokens=False)
        found = {cut: Window.of(encoding, 2 * margin) for cut, encoding in zip(cuts, encodings, strict=True)}
        known = {cut: window for cut, window in found.items() if window is not None}
        done: dict[tuple[int, int], np.ndarray] = {}
        while True:
            spans = list(itertools.pairwise((0, *known, len(text))))
            fresh = [span for span in spans if span not in done]
            parts = [text[max(start - margin, 0) : stop + margin] for start, stop in fresh]
            some = self.fast.encode_batch_fast(parts, add_special_tokens=False)
            done |= {span: np.array(encoding.ids, np.int32) for span, encoding in zip(fresh, some, strict=True)}
            pieces = [done[span] for span in spans]
            sides = zip(known.items(), itertools.pairwise(pieces), strict=True)
            wrong = {cut for (cut, window), (left, right) in sides if not (window.ends(left) and window.begins(right))}
            if not wrong:
                return known, pieces
            known = {cut: window for cut, window in known.items() if cut not in wrong}

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes ids to text, without special tokens."""
        return self.fast.decode(list(ids))

    def to_json(self) -> str:
        """The content of its tokenizer.json."""
        return self.fast.to_str()


class FromFile(Published):
    """The tokenizer of a `tokenizer.json`, with its special tokens and without its truncation and padding.

    Raises InputError if the file is absent or of another format.
    """

    def __init__(self, reference: str) -> None:
        try:
            path = locate(reference)
        except (LookupError, OSError) as error:
            raise InputError(f"The tokenizer cannot be had: {error.args[0]}") from None
        if not path.is_file():
            raise InputError(f"There is no tokenizer file {path}; give the tokenizer.json that belongs to the weights.")
        try:
            fast = Fast.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"{path} is no tokenizer file: {str(error).splitlines()[0]}.") from None
        super().__init__(fast)


class Learnt(Published):
    """`size` byte-pair tokens over UTF-8 bytes learnt from texts, after [PAD], [BEGIN], [END].  arXiv:1508.07909."""

    def __init__(self, texts: Iterable[str], size: int) -> None:
        fast = Fast(models.BPE())
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        fast.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=["[PAD]", BEGIN, END], initial_alphabet=alphabet, show_progress=False
        )
        fast.train_from_iterator(texts, trainer)
        super().__init__(fast)


def make_tokenizer(reference: str, texts: Callable[[], Iterable[str]] | None = None) -> Bytes | Published:
    """Makes the tokenizer of a reference: `bytes`, the path of a tokenizer.json (also in a `package:`), or `bpe:N`.

    `bpe:N` is learnt from `texts` (see `Learnt`) and needs them.
    """
    size = reference.removeprefix("bpe:")
    if texts is not None and size != reference:
        return Learnt(texts(), int(size))
    return Bytes() if reference == "bytes" else FromFile(reference)


class HasTokenizer(Protocol):
    """Data whose setting `tokenizer` refers to one."""

    @property
    def tokenizer(self) -> str: ...


def require_size(owner: HasTokenizer) -> None:
    """Raises ValueError if a setting `tokenizer` is a bpe:N whose N leaves no room for the 256 bytes."""
    size = owner.tokenizer.removeprefix("bpe:")
    if size != owner.tokenizer and not (size.isdecimal() and int(size) > 260):
        name = type(owner).__name__
        raise ValueError(
            f"{name}.tokenizer is {owner.tokenizer!r}; give bpe:N with N above 260, such as bpe:8000, or a"
            " tokenizer.json."
        )
