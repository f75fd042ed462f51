"""Token ids of texts in one array: of short texts in memory, of long ones in a memory-mapped file of the cache."""

import array
import dataclasses
import hashlib
import itertools
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import DTypeLike

from train.data.published import cache_folder
from train.data.readers.archive import settle
from train.data.tokens import Bytes, Published
from train.disk import explain_failed_writes
from train.errors import InputError

IN_MEMORY = 2**22  # characters; the tokens of longer texts are kept in the cache
BATCH = 1024  # texts that are encoded at once
FORM = 1  # of the files in the cache, to be raised when they change
ABOUT, IDS, ENDS = "about.json", "ids", "ends"

Texts = Callable[[], Iterable[str]]  # the same texts each time that it is called


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Token ids of texts one after the other (n,), the end of each (texts,), and the number of their characters.

    `ids` have the narrowest unsigned type that holds the vocabulary.
    """

    ids: np.ndarray
    ends: np.ndarray
    characters: int

    @classmethod
    def of(cls, pieces: Sequence[np.ndarray], dtype: DTypeLike, characters: int) -> "Encoded":
        """Joins the ids of several texts."""
        ids = np.concatenate([np.zeros(0, dtype), *pieces], dtype=dtype, casting="unsafe")
        return cls(ids, np.cumsum([len(piece) for piece in pieces], dtype=np.int64), characters)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.ends[index - 1] if index else 0 : self.ends[index]]

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each text (texts,)."""
        return np.diff(self.ends, prepend=0)


def encode_texts(tokens: Bytes | Published, texts: Texts) -> Encoded:
    """Encodes texts, each by itself, in memory that does not grow with them but by 8 bytes a text."""

    def encode(some: Iterable[str]) -> Iterator[list[np.ndarray]]:
        rest = iter(some)
        while batch := list(itertools.islice(rest, BATCH)):
            yield tokens.encode(batch)

    return _encode(tokens, texts, encode, "texts")


def encode_blocks(tokens: Bytes | Published, blocks: Texts) -> Encoded:
    """Encodes one text that comes in blocks, to the tokens that it has as a whole, in memory that does not grow."""

    def encode(some: Iterable[str]) -> Iterator[list[np.ndarray]]:
        return ([ids] for ids in tokens.encode_blocks(some))

    return _encode(tokens, blocks, encode, "blocks")


def _encode(
    tokens: Bytes | Published,
    texts: Texts,
    encode: Callable[[Iterable[str]], Iterator[list[np.ndarray]]],
    form: str,
) -> Encoded:
    """Encodes texts of up to `IN_MEMORY` characters in memory, and opens or makes the cache's file of longer ones.

    The file's name is a digest of the texts themselves, the tokenizer and its library, so that what has changed is
    another file.
    """
    known = tokens.fast.to_str() if isinstance(tokens, Published) else ""
    head = f"{FORM} {form} {tokenizers.__version__ if known else 'bytes'} {known}".encode()
    name, characters, held = hashlib.sha256(head), 0, list[str]()
    for text in _digest(texts(), name, form):
        characters += len(text)
        if characters <= IN_MEMORY:
            held.append(text)
        else:
            held.clear()
    dtype = np.min_scalar_type(len(tokens.names) - 1)
    if characters <= IN_MEMORY:
        return Encoded.of(list(itertools.chain.from_iterable(encode(held))), dtype, characters)

    def encode_again() -> Iterator[list[np.ndarray]]:
        again = hashlib.sha256(head)
        yield from encode(_digest(texts(), again, form))
        if again.digest() != name.digest():
            raise InputError("The data has changed while it was read; run the same command again.")

    folder = cache_folder() / "tokens" / name.hexdigest()
    found = _open(folder, dtype)
    if found is None:
        with explain_failed_writes(folder.parent, "MORPHAX_CACHE names another folder for the cache."):
            _write(folder, dtype, encode_again())
        found = _open(folder, dtype)
    if found is None:
        raise InputError(f"{folder} cannot be read back; check the disk, or set MORPHAX_CACHE to another folder.")
    return Encoded(*found, characters)


def _digest(texts: Iterable[str], name: "hashlib._Hash", form: str) -> Iterator[str]:
    """Yields texts unchanged and adds them to a digest: their limits too, unless they are blocks of one text."""
    for number, text in enumerate(texts, 1):
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise InputError(f"Text {number} is not UTF-8; convert it, for example with iconv -t utf-8.") from None
        name.update(data if form == "blocks" else len(data).to_bytes(8, "little") + data)
        yield text


def _write(folder: Path, dtype: DTypeLike, pieces: Iterator[list[np.ndarray]]) -> None:
    """Writes a folder of the cache, which is there only once it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"tokenising a long text to {folder}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made, ends, count = Path(scratch) / "made", array.array("q"), 0
        made.mkdir()
        with (made / IDS).open("wb") as file:
            for several in pieces:
                for ids in several:
                    count += len(ids)
                    ends.append(count)
                    file.write(ids.astype(dtype).tobytes())
        (made / ENDS).write_bytes(ends.tobytes())
        sums = {name: _compute_checksum(made / name) for name in (IDS, ENDS)}
        (made / ABOUT).write_text(json.dumps({"tokens": count, "texts": len(ends)} | sums), encoding="utf-8")
        settle(made, folder)


def _open(folder: Path, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray] | None:
    """Maps the files of a folder of the cache; None if there is none, and, said and removed, if it is damaged."""
    if not folder.is_dir():
        return None
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if all(_compute_checksum(folder / name) == about[name] for name in (IDS, ENDS)):
            shapes: Sequence[tuple[str, DTypeLike, int]] = (
                (IDS, dtype, about["tokens"]),
                (ENDS, np.int64, about["texts"]),
            )
            maps = (np.memmap(folder / name, kind, "r", shape=(count,)) for name, kind, count in shapes)
            ids, ends = map(np.asarray, maps)  # whose slices are as quick as those of other arrays
            return ids, ends
    except (OSError, ValueError, LookupError, TypeError):
        pass
    print(f"{folder} is damaged and is made again", file=sys.stderr, flush=True)
    shutil.rmtree(folder)
    return None


def _compute_checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while data := file.read(2**20):
            checksum = zlib.crc32(data, checksum)
    return checksum
