"""Data sets of Hugging Face's `datasets`: folders written by `save_to_disk`, and names that its local cache has.

Nothing is downloaded and no code of a data set's repository is run: only Arrow files and their descriptions are read.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, overload

import numpy as np

from models.words import join
from train.data.sources import Description, Example, Format, Library, Split, import_extra
from train.data.sources.parquet import convert_row
from train.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

ONE = "state.json"  # beside the Arrow files of a split
SEVERAL = "dataset_dict.json"  # beside the folders of several splits


class Rows(Sequence[Example]):
    """Random access to the rows of a `datasets.Dataset`, with images as arrays (rows, columns, channels)."""

    def __init__(self, table: "Dataset") -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return {name: _to_pixels(value) for name, value in convert_row(self.table[int(index)]).items()}


def _to_pixels(value: object) -> object:
    from PIL.Image import Image

    if not isinstance(value, Image):
        return value
    if value.mode not in ("L", "RGB", "RGBA", "LA", "I;16", "I", "F"):
        value = value.convert("RGB")
    pixels = np.asarray(value)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def read(path: str) -> Split:
    """Reads a folder written by `Dataset.save_to_disk`.  Raises InputError for a folder of several splits."""
    folder = Path(path).expanduser()
    if (folder / SEVERAL).is_file():
        inner = sorted(inside.name for inside in folder.iterdir() if (inside / ONE).is_file())
        raise InputError(
            f"{path} holds the splits {join(inner)}; give one, such as data.path={folder / (inner or ['train'])[0]}"
            f" and data.test for the other, or data.dataset=hf:{path} with data.splits."
        )
    saved = _load_saved(path)
    assert not isinstance(saved, dict)  # which has the file SEVERAL
    return _make_split(saved, path)


def _load_saved(path: str) -> "Dataset | DatasetDict":
    """Loads a folder written by `save_to_disk`: a `datasets.Dataset`, or a `datasets.DatasetDict` of several splits."""
    library = _import_library(f"{path} was written by Hugging Face's `datasets`, and reading it")
    try:
        with _silence(library):
            return library.load_from_disk(str(Path(path).expanduser()))
    except Exception as error:  # of Arrow, of JSON, of absent files: the library has no error type of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{path} cannot be read as a data set ({reason}); write it again by save_to_disk.") from None


def _import_library(what: str) -> ModuleType:
    """Imports `datasets` 4 or later, which runs no code of data sets.  Raises InputError if it is absent or older."""
    library = import_extra("datasets", "datasets", what)
    if int(library.__version__.split(".")[0]) < 4:
        raise InputError(
            f"{what} needs `datasets` 4 or later, as older ones run code of data sets: pip install -U"
            " 'morphax[datasets]'."
        )
    return library


def _make_split(table: "Dataset", origin: str) -> Split:
    names = {
        column: tuple(feature.names)
        for column, feature in table.features.items()
        if type(feature).__name__ == "ClassLabel"
    }
    return Split(Rows(table.with_format(None)), origin, names)


def open_split(name: str, split: str) -> Split:
    """Opens a split, or a slice of one, of `OWNER/NAME`, `OWNER/NAME:CONFIGURATION` or a folder of `save_to_disk`."""
    library, splits = _import_library(f"hf:{name}"), _load_splits(name)
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
    return _make_split(pieces[0] if len(pieces) == 1 else library.concatenate_datasets(pieces), f"hf:{name} {split}")


def _load_splits(name: str) -> Mapping[str, "Dataset"]:
    """Loads the splits of a data set by their names."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not is_saved(folder):
            raise InputError(
                f"{name} was not written by save_to_disk; give such a folder, or a name that the cache of `datasets`"
                " has."
            )
        saved = _load_saved(name)
        if isinstance(saved, dict):
            return {str(part): table for part, table in saved.items()}
        return {str(saved.split or "train"): saved}
    library = _import_library(f"hf:{name}")
    repository, _, configuration = name.partition(":")
    try:
        with _silence(library), _stay_offline(library):
            return library.load_dataset(repository, configuration or None)
    except Exception as error:  # an incomplete cache, an absent connection, an unknown name
        if known := _list_configurations(error):
            raise InputError(
                f"hf:{name} is none or several of the configurations here, {known}; give hf:{repository}:ONE."
            ) from None
        arguments = ", ".join(map(repr, filter(None, (repository, configuration))))
        raise InputError(
            f"hf:{name} is not in the cache of `datasets` ({library.config.HF_DATASETS_CACHE}); on a machine"
            " with a network, run"
            f' `python -c "import datasets; datasets.load_dataset({arguments})"` once,'
            " and copy the cache here, or save it by save_to_disk."
        ) from None


def _list_configurations(error: Exception) -> str:
    """Lists the configurations in an error message of `datasets`; empty if it has none."""
    text = str(error)
    if "configurations in the cache: " in text:
        return text.partition("configurations in the cache: ")[2].splitlines()[0]
    return text.partition("Available configs in the cache: ")[2].strip("[]\n ").replace("'", "")


@contextlib.contextmanager
def _stay_offline(library: ModuleType) -> Iterator[None]:
    """Restricts the library to its cache."""
    before = library.config.HF_HUB_OFFLINE
    library.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        library.config.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _silence(library: ModuleType) -> Iterator[None]:
    """Silences the library's warnings, output and progress bars."""
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


def describe(name: str) -> Description:
    """Describes a data set by its metadata."""
    splits = _load_splits(name)
    first = next(iter(splits.values()))
    files = first.cache_files
    return {
        "version": f"{first.info.version or ''} {first._fingerprint}".strip(),
        "folder": str(Path(files[0]["filename"]).parent) if files else "",
        "splits": {key: len(value) for key, value in splits.items()},
        "features": {key: type(feature).__name__ for key, feature in first.features.items()},
        "licence": first.info.license or "",
    }


def is_saved(folder: Path) -> bool:
    """Tells if a folder was written by `save_to_disk`."""
    return (folder / ONE).is_file() or (folder / SEVERAL).is_file()


SAVED = Format((), read, is_saved)
HUGGING_FACE = Library("hf", open_split, describe)
