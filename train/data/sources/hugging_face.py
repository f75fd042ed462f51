"""Data sets of Hugging Face's `datasets`: folders written by `save_to_disk`, and names that its local cache has.

Nothing is downloaded, and no code of a data set's repository is run: Arrow files and their descriptions alone are read.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.words import join
from train.data.readers.formats import Example
from train.data.sources import Format, Library, needs
from train.data.sources.parquet import plain
from train.data.split import Split
from train.errors import InputError

ONE, SEVERAL = "state.json", "dataset_dict.json"  # beside the Arrow files of a split, and beside the folders of splits


class Rows(Sequence[Example]):
    """Random access to the rows of a `datasets.Dataset`, pictures as arrays (rows, columns, channels)."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return {name: _pixels(value) for name, value in plain(self.found[int(index)]).items()}


def _pixels(value: Any) -> Any:
    if not hasattr(value, "getbands"):
        return value
    if value.mode not in ("L", "RGB", "RGBA", "LA", "I;16", "I", "F"):
        value = value.convert("RGB")
    pixels = np.asarray(value)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def read(path: str) -> Split:
    """The rows of a folder written by `Dataset.save_to_disk`.  Raises InputError for one of several splits."""
    place = Path(path).expanduser()
    if (place / SEVERAL).is_file():
        inner = sorted(inside.name for inside in place.iterdir() if (inside / ONE).is_file())
        raise InputError(
            f"{path} holds the splits {join(inner)}; give one, such as data.path={place / (inner or ['train'])[0]}"
            f" and data.test for the other, or data.dataset=hf:{path} with data.splits."
        )
    return _split(_saved(path), path)


def _saved(path: str) -> Any:
    """What a folder written by `save_to_disk` holds: a split, or splits by their names."""
    library = _library(f"{path} was written by Hugging Face's `datasets`, and reading it")
    try:
        with _quiet(library):
            return library.load_from_disk(str(Path(path).expanduser()))
    except Exception as error:  # of Arrow, of JSON, of absent files: the library has no error of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{path} cannot be read as a data set ({reason}); write it again by save_to_disk.") from None


def _library(what: str) -> Any:
    """The library, of a version that runs no code of data sets.  Raises InputError where it is absent or older."""
    library = needs("datasets", "datasets", what)
    if int(library.__version__.split(".")[0]) < 4:
        raise InputError(
            f"{what} needs `datasets` 4 or later, as older ones run code of data sets: pip install -U"
            " 'morphax[datasets]'."
        )
    return library


def _split(found: Any, origin: str) -> Split:
    names = {
        column: tuple(feature.names)
        for column, feature in found.features.items()
        if type(feature).__name__ == "ClassLabel"
    }
    return Split(Rows(found.with_format(None)), origin, names)


def open_split(name: str, split: str) -> Split:
    """A split of a named data set, `OWNER/NAME` or `OWNER/NAME:CONFIGURATION`, or of a folder written by
    `save_to_disk`; or a slice.
    """
    library, splits = _library(f"hf:{name}"), _splits(name)
    base = split.partition("[")[0]
    if base not in splits:
        raise InputError(f"hf:{name} has no split {split!r}; it has {join(splits)}: set data.splits.")
    try:
        lengths = {key: len(value) for key, value in splits.items()}
        parts = library.ReadInstruction.from_spec(split).to_absolute(lengths)
        pieces = [splits[part.splitname].select(range(part.from_, part.to)) for part in parts]
    except (ValueError, AssertionError, LookupError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"hf:{name} has no slice {split!r} ({reason}); write one as 'test[:500]' or 'train[10%:20%]'."
        ) from None
    return _split(pieces[0] if len(pieces) == 1 else library.concatenate_datasets(pieces), f"hf:{name} {split}")


def _splits(name: str) -> Mapping[str, Any]:
    """The splits by their names."""
    place = Path(name).expanduser()
    if place.is_dir():
        if not saved(place):
            raise InputError(
                f"{name} was not written by save_to_disk; give such a folder, or a name that the cache of `datasets`"
                " has."
            )
        found = _saved(name)
        return found if isinstance(found, dict) else {str(found.split or "train"): found}
    library = _library(f"hf:{name}")
    repository, _, configuration = name.partition(":")
    try:
        with _quiet(library), _offline(library):
            return library.load_dataset(repository, configuration or None)
    except Exception as error:  # of its cache, of a connection that is not there, of a name
        if known := _configurations(error):
            raise InputError(
                f"hf:{name} is none or several of the configurations here, {known}; give hf:{repository}:ONE."
            ) from None
        arguments = ", ".join(map(repr, filter(None, (repository, configuration))))
        raise InputError(
            f"hf:{name} is not in the cache of `datasets` ({library.config.HF_DATASETS_CACHE}); where there is a"
            " network, run"
            f' `python -c "import datasets; datasets.load_dataset({arguments})"` once,'
            " and copy the cache here, or save it by save_to_disk."
        ) from None


def _configurations(error: Exception) -> str:
    """The configurations that an error of `datasets` lists, as names of data sets."""
    text = str(error)
    if "configurations in the cache: " in text:
        return text.partition("configurations in the cache: ")[2].splitlines()[0]
    return text.partition("Available configs in the cache: ")[2].strip("[]\n ").replace("'", "")


@contextlib.contextmanager
def _offline(library: Any) -> Iterator[None]:
    """Has the library look at its cache alone."""
    before = library.config.HF_HUB_OFFLINE
    library.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        library.config.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Keeps the library's words and bars off the console."""
    level, bars = library.logging.get_verbosity(), library.is_progress_bar_enabled()
    library.logging.set_verbosity_error()
    library.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        library.logging.set_verbosity(level)
        if bars:
            library.enable_progress_bars()


def describe(name: str) -> dict[str, Any]:
    """What a data set is, by the library's own description."""
    splits = _splits(name)
    first = next(iter(splits.values()))
    files = first.cache_files
    return {
        "version": f"{first.info.version or ''} {first._fingerprint}".strip(),
        "folder": str(Path(files[0]["filename"]).parent) if files else "",
        "splits": {key: len(value) for key, value in splits.items()},
        "features": {key: type(feature).__name__ for key, feature in first.features.items()},
        "licence": first.info.license or "",
    }


def saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (folder / ONE).is_file() or (folder / SEVERAL).is_file()


SAVED = Format((), read, saved)
HUGGING_FACE = Library("hf", open_split, describe)
