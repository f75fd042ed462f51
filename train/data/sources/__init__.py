"""Sources of rows: one file a format of the user's files, or a library of data sets, found by what it defines.

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
from typing import Any, TypeVar

from train.data.split import Split
from train.errors import InputError

Part = TypeVar("Part")


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of files.

    suffixes: how names end, in lower case with the dot; in a message in this order.
    read(path): the rows.  Raises InputError for what cannot be read.  A file without rows may give none.
    holds(path): whether a folder, whatever its name, is of this format.
    """

    suffixes: tuple[str, ...]
    read: Callable[[str], Split]
    holds: Callable[[Path], bool] = lambda folder: False


@dataclasses.dataclass(frozen=True)
class Library:
    """Data sets of a library by their names, `PREFIX:NAME`.

    open(name, split): a split, or a slice `test[:500]`.  describe(name): "splits" name -> number of examples,
    "features" column -> what
    it is, "version", "folder", "licence".  Both raise InputError for what is not there.
    """

    prefix: str
    open: Callable[[str, str], Split]
    describe: Callable[[str], dict[str, Any]]


@functools.cache
def _defined() -> tuple[Any, ...]:
    """The formats and libraries of the files here, by the names of the files.  Raises ValueError for two of one suffix
    or prefix.
    """
    found: dict[int, Any] = {}
    taken: dict[str, str] = {}
    for entry in sorted(pkgutil.iter_modules(__path__), key=lambda entry: entry.name):
        for value in vars(importlib.import_module(f"{__name__}.{entry.name}")).values():
            if not isinstance(value, Format | Library) or id(value) in found:
                continue
            found[id(value)] = value
            for name in value.suffixes if isinstance(value, Format) else (f"{value.prefix}:",):
                if name in taken:
                    raise ValueError(
                        f"{name} is read in {taken[name]}.py and in {entry.name}.py of train/data/sources; keep one"
                        " of them."
                    )
                taken[name] = entry.name
    return tuple(found.values())


def _of(kind: type[Part]) -> list[Part]:
    return [value for value in _defined() if isinstance(value, kind)]


def suffixes() -> list[str]:
    """All suffixes that are read."""
    return [suffix for form in _of(Format) for suffix in form.suffixes]


def format_of(path: str) -> Format | None:
    """The format of a file or a folder; None for what nobody reads."""
    suffix, place = Path(path).suffix.lower(), Path(path)
    if (form := next((form for form in _of(Format) if suffix in form.suffixes), None)) is None:
        try:
            form = next((form for form in _of(Format) if form.holds(place.expanduser())), None)
        except (OSError, RuntimeError, ValueError):  # of a home that nobody has, or of a name that no file has
            return None
    return form


def library_of(name: str) -> Library | None:
    """The library that a name of a data set asks for; None if it has no prefix of one."""
    prefix, colon, _ = name.partition(":")
    return next((library for library in _of(Library) if colon and library.prefix == prefix), None)


def needs(module: str, extra: str, what: str) -> Any:
    """A module of an optional extra.  Raises InputError that says what to install where it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{what} needs {module}, which cannot be imported ({error}): pip install 'morphax[{extra}]'."
        ) from None
