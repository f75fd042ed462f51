"""Sources of examples: files by their suffix, data sets by name, their splits, and what is held out of one file.

A new format is one file here with a `Format`, such as

    AVRO = Format((".avro",), read)      # read(path) -> Split, or InputError

and is known by its suffix to every data set that has a `path`.  A library of named data sets is a `Library`:
`data.dataset=PREFIX:NAME`.  Names without a prefix are those of TFDS and of this project (`train.data.sources.tfds`).
"""

import array
import dataclasses
import functools
import hashlib
import importlib
import itertools
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, SupportsInt, TypedDict, TypeVar

import numpy as np

from models.words import join
from train.contracts import PART
from train.data.lazy import Lazy
from train.data.notes import Note
from train.errors import InputError

Example = dict[str, Any]
Part = TypeVar("Part")
Examples = TypeVar("Examples")
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Split:
    """Random access to examples of an `origin`; `names` are the classes of integer columns.

    `places` are the indices of the examples in the data that they are a part of; empty if they are all of it.  `notes`
    are the reader's.  `unnamed` is for tables: from column names by their settings it makes the clause of a message
    that the table lacks a row of names, or an empty text if it has one.
    """

    examples: Sequence[Example]
    origin: str
    names: dict[str, tuple[str, ...]]
    places: Sequence[int] = ()
    notes: tuple[Note, ...] = ()
    unnamed: Callable[[Mapping[str, str]], str] = lambda columns: ""

    def __iter__(self) -> Iterator[Example]:
        """The examples in their order."""
        some = self.examples
        return iter(some) if isinstance(some, list | Lazy) else (some[index] for index in range(len(some)))

    def where(self, index: int) -> str:
        """The location of an example, for a message."""
        return f"{self.origin}, example {(self.places[index] if self.places else index) + 1}"

    def divide(self, column: str, share: float) -> "dict[PART, Split]":
        """Divides the examples into a training and a test part by the hash of a column: see `divide`."""
        keys = (str(example.get(column)) for example in self)
        tested = np.fromiter((is_held_out(key, share) for key in keys), bool)
        return {"train": self._select(~tested, "train"), "test": self._select(tested, "test")}

    def _select(self, chosen: np.ndarray, part: PART) -> "Split":
        every, places = self.examples, array.array("q", np.flatnonzero(chosen).astype(np.int64).tobytes())
        walk = (lambda: itertools.compress(self, chosen)) if 2 * len(places) > len(every) else None
        some = Lazy(len(places), lambda index: every[places[index]], walk)
        return dataclasses.replace(self, examples=some, origin=f"{self.origin} ({part} part)", places=places)

    def require(self, **columns: str) -> None:
        """Raises InputError if there is no example or a column is missing; `columns` are keyed by their settings."""
        if not len(self.examples):
            raise InputError(f"{self.origin} is empty; give more data, or another data.holdout.")
        known, settings = self.examples[0], " and ".join(f"data.{name}" for name in columns)
        for column in columns.values():
            if column not in known:
                self.require_names(columns)
                raise InputError(f"{self.origin} has no column {column!r}; it has {join(known)}: set {settings}.")

    def read_column(self, name: str) -> list[object]:
        """Reads a column of all examples; integers of a column of classes become their names.

        Raises InputError, with the columns that there are, if there is none of the name.
        """
        known, cells, there = self.names.get(name, ()), [], False
        for example in self:
            cell, there = example.get(name), there or name in example
            whole = int(cell) if known and isinstance(cell, SupportsInt) else -1
            cells.append(known[whole] if 0 <= whole < len(known) else cell)
        if not there:
            self.require_names()
            raise InputError(f"{self.origin} has no column {name!r}; it has {join(self.examples[0] if cells else ())}.")
        return cells

    def require_names(self, columns: Mapping[str, str] | None = None) -> None:
        """Raises InputError if the first row of a table is data; `columns` that it should name, by their settings."""
        if said := self.unnamed(columns or {}):
            raise InputError(f"{said}.")


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of files.

    suffixes: the endings of file names, in lower case with the dot; messages list them in this order.
    read(path): the rows, possibly none.  Raises InputError for a file that cannot be read.
    holds(path): tells if a folder, whatever its name, is of this format.
    """

    suffixes: tuple[str, ...]
    read: Callable[[str], Split]
    holds: Callable[[Path], bool] = lambda folder: False


class Description(TypedDict):
    """Facts about a data set; `splits` has the numbers of examples, `features` the types by column."""

    version: str
    folder: str
    splits: dict[str, int]
    features: dict[str, str]
    licence: str


@dataclasses.dataclass(frozen=True)
class Library:
    """A library of named data sets, `PREFIX:NAME`.

    open(name, split): a split, or a slice `test[:500]`.
    describe(name): its `Description`.
    Both raise InputError for an unknown data set, split or slice.
    """

    prefix: str
    open: Callable[[str, str], Split]
    describe: Callable[[str], Description]


@functools.cache
def _discover() -> tuple[Format | Library, ...]:
    """Discovers formats and libraries in the files here, sorted by file.  Raises ValueError if two share a name."""
    sources: dict[int, Format | Library] = {}
    taken: dict[str, str] = {}
    for entry in sorted(pkgutil.iter_modules(__path__), key=lambda entry: entry.name):
        for value in vars(importlib.import_module(f"{__name__}.{entry.name}")).values():
            if not isinstance(value, Format | Library) or id(value) in sources:
                continue
            sources[id(value)] = value
            for name in value.suffixes if isinstance(value, Format) else (f"{value.prefix}:",):
                if name in taken:
                    raise ValueError(
                        f"{name} is read in {taken[name]}.py and in {entry.name}.py of train/data/sources; keep one"
                        " of them."
                    )
                taken[name] = entry.name
    return tuple(sources.values())


def _select(kind: type[Part]) -> list[Part]:
    return [value for value in _discover() if isinstance(value, kind)]


def list_suffixes() -> list[str]:
    """Lists the suffixes of all formats."""
    return [suffix for form in _select(Format) for suffix in form.suffixes]


def find_format(path: str) -> Format | None:
    """Finds the format of a file or folder; None if it is unknown."""
    suffix = Path(path).suffix.lower()
    if (form := next((form for form in _select(Format) if suffix in form.suffixes), None)) is None:
        try:
            form = next((form for form in _select(Format) if form.holds(Path(path).expanduser())), None)
        except (OSError, RuntimeError, ValueError):  # an unknown home, or a text that cannot be a file name
            return None
    return form


def find_library(name: str) -> Library | None:
    """Finds the library by the prefix of a data set's name; None if it has no such prefix."""
    prefix, colon, _ = name.partition(":")
    return next((library for library in _select(Library) if colon and library.prefix == prefix), None)


def import_extra(module: str, extra: str, what: str) -> ModuleType:
    """Imports a module of an optional extra.  Raises InputError, with the install command, if it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{what} needs {module}, which cannot be imported ({error}): pip install 'morphax[{extra}]'."
        ) from None


def read(path: str) -> Split:
    """Reads a user's file or folder, an example a row, in the format of its suffix.

    Raises InputError, with the line or row, if it is absent, empty, unreadable, or of another format.
    """
    if (form := find_format(path)) is None:
        raise InputError(f"{path} is none of {join(list_suffixes(), 300)}; rename it by what it holds.")
    split = form.read(path)
    if not len(split.examples):
        raise InputError(f"{path} has no examples; it needs at least one row of data.")
    return split


def open_dataset(name: str, split: str, encoded: tuple[str, ...] = ()) -> Split:
    """Opens a split of a data set by name, or a slice of a split in TFDS's notation, `test[:500]`.

    The name is one of TFDS or of this project, or `LIBRARY:NAME` for another library, such as `hf:imdb`.  Columns in
    `encoded` stay as stored: an image is the bytes of its JPEG or PNG.  Raises InputError for an unknown data set,
    split or slice.
    """
    if (library := find_library(name)) is None:
        from train.data.sources import tfds

        return tfds.open_split(name, split, encoded)
    if encoded:
        raise InputError(
            f"{name} says of no box what its numbers measure; write the boxes as a COCO or VOC folder and set"
            " data.path."
        )
    return library.open(name.partition(":")[2], split)


def describe_dataset(name: str) -> Description:
    """Describes a data set by name; one of TFDS is prepared if need be.  Raises InputError for an unknown one."""
    if (library := find_library(name)) is None:
        from train.data.sources import tfds

        return tfds.describe(name)
    return library.describe(name.partition(":")[2])


class HoldsOut(Protocol):
    """Settings of a task that may hold out a part of a file: the file, the file to test on, the share."""

    @property
    def path(self) -> str | None: ...
    @property
    def test(self) -> str | None: ...
    @property
    def holdout(self) -> float: ...


class Sourced(HoldsOut, Protocol):
    """Settings of where the examples of a task come from: a data set with two splits, or the user's own files."""

    @property
    def dataset(self) -> str: ...
    @property
    def splits(self) -> tuple[str, str]: ...


def is_divided(settings: HoldsOut) -> bool:
    """Tells if both parts come from one file or folder of the user's."""
    return settings.path is not None and settings.test is None


def require_source(settings: HoldsOut, noun: str) -> None:
    """Raises ValueError unless the share is between 0 and 1, of what `noun` says, and `test` comes with `path`."""
    name = type(settings).__name__
    if not 0 < settings.holdout < 1:
        raise ValueError(f"{name}.holdout is {settings.holdout}; give a part of the {noun} between 0 and 1.")
    if settings.test and not settings.path:
        raise ValueError(f"{name}.test is given without path; give what to train on as path too.")


def open_parts(
    settings: Sourced,
    only: PART | None,
    open_named: Callable[[str, str], Examples],
    read_file: Callable[[str, PART], Examples],
    divide_file: Callable[[Examples], Mapping[PART, Examples]],
) -> dict[PART, Examples]:
    """Opens the examples of both parts, or of one: the only place that decides where they come from.

    Without a `path`, `open_named(dataset, split)` opens each part's split.  With a `test`, `read_file(path, part)`
    reads each part's own file; otherwise it reads `path`, and `divide_file` divides what it holds.
    """
    parts: tuple[PART, ...] = ("train", "test") if only is None else (only,)
    if settings.path is None:
        return {part: open_named(settings.dataset, settings.splits[part == "test"]) for part in parts}
    if settings.test is not None:
        return {part: read_file(settings.test if part == "test" else settings.path, part) for part in parts}
    divided = divide_file(read_file(settings.path, "train"))
    return {part: divided[part] for part in parts}


def open_splits(
    settings: Sourced, only: PART | None, column: str, read_file: Callable[[str], Split] = read
) -> dict[PART, Split]:
    """Opens the splits of both parts, or of one; a file is divided by the hash of a column."""
    return open_parts(
        settings,
        only,
        open_dataset,
        lambda path, part: read_file(path),
        lambda every: every.divide(column, settings.holdout),
    )


def divide(items: Iterable[Item], keys: Iterable[str], share: float) -> dict[PART, list[Item]]:
    """Divides items by their keys into a training part and a test part, of about the `share`.

    An item is in the test part if the first 32 bits of its key's md5, over 2^32, are below the share.  Items of equal
    keys are in the same part, and stay in it when others are added.
    """
    parts: dict[PART, list[Item]] = {"train": [], "test": []}
    for item, key in zip(items, keys, strict=True):
        parts["test" if is_held_out(key, share) else "train"].append(item)
    return parts


def is_held_out(key: str, share: float) -> bool:
    """Tells if an item of this key is in the test part: see `divide`."""
    return int(_hash(key)[:8], 16) < share * 2**32


def divide_by_rank(items: Iterable[Item], keys: Iterable[str], share: float) -> dict[PART, list[Item]]:
    """Divides at least two items, ordered by the md5 of their keys, so that the first `share` of them is the test part.

    The test part has the nearest number of items to the share, but each part at least one.
    """
    ranked = [item for _, item in sorted(zip(map(_hash, keys), items, strict=True), key=lambda pair: pair[0])]
    count = min(max(1, round(share * len(ranked))), len(ranked) - 1)
    return {"train": ranked[count:], "test": ranked[:count]}


def find_cut(count: int, share: float, nearest: bool = False) -> int:
    """Finds the index at which the last `share` of `count` begins: floor(count (1 - share)), or the nearest to it."""
    return count - round(share * count) if nearest else int(count * (1 - share))


def _hash(key: str) -> str:
    return hashlib.md5(key.encode()).hexdigest()


def require_text(value: object, where: str) -> str:
    """Returns the text of a cell unchanged.  Raises InputError if it has none or is not UTF-8."""
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise InputError(f"{where}, is not UTF-8.") from None
    if text is not None and not isinstance(text, str):
        raise InputError(
            f"{where}, has no text but {str(text)[:40]!r}, of type {type(text).__name__}; write it as a string."
        )
    if text is None or not text.strip():
        raise InputError(f"{where}, has no text; remove it or fill it in.")
    return text
