"""Tokenizers: a published tokenizer.json, byte pairs learnt from texts, or plain bytes."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers, trainers

from train.contracts import Tokenizer
from train.data.published import locate
from train.data.questions import where
from train.errors import InputError

BEGIN, END = "[BEGIN]", "[END]"


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

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes ids to text; bytes that are not UTF-8 become the replacement character."""
        return bytes(ids).decode("utf-8", errors="replace")


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
        return [np.array(encoding.ids, np.int32) for encoding in self.fast.encode_batch(list(texts))]

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

    def __init__(self, texts: Sequence[str], size: int) -> None:
        fast = Fast(models.BPE())
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        fast.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=["[PAD]", BEGIN, END], initial_alphabet=alphabet, show_progress=False
        )
        fast.train_from_iterator(texts, trainer)
        super().__init__(fast)


def make_tokenizer(reference: str, texts: Callable[[], Sequence[str]] | None = None) -> Tokenizer:
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
