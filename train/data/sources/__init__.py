"""Sources of rows, discovered in the files here: formats of user files, and libraries of data sets.

A new format is one file here with a `Format`, such as

    AVRO = Format((".avro",), read)      # read(path) -> Split, or InputError

and is known by its suffix to every data set that has a `path`.  A library of named data sets is a `Library`:
`data.dataset=PREFIX:NAME`.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypedDict, TypeVar

from train.data.split import Split
from train.errors import InputError

Part = TypeVar("Part")


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
