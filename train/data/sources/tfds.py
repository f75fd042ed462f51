"""Data sets of TFDS by name, prepared once as array_record: of this project, of a config file, of the catalogue."""

import contextlib
import fcntl
import importlib
import importlib.util
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.words import join
from train.data.published import cache_folder
from train.data.sources import Description, Split
from train.errors import InputError

if TYPE_CHECKING:
    from tensorflow_datasets.core.dataset_builder import DatasetBuilder, FileReaderBuilder
    from tensorflow_datasets.core.features import FeaturesDict

# the parts of the TFDS catalogue
CATALOGUE = (
    "audio",
    "image",
    "image_classification",
    "object_detection",
    "question_answering",
    "summarization",
    "text",
    "time_series",
    "translate",
    "video",
)


def find_builder(name: str) -> "type[FileReaderBuilder] | None":
    """Finds the builder `name` or `name/configuration` that a config file or train/data/builders/NAME.py defines."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    base, _, config = name.partition("/")
    if not base.isidentifier():
        return None
    if importlib.util.find_spec(f"train.data.builders.{base}") is not None:
        with registered.skip_registration():  # the catalogue may have the name too
            importlib.import_module(f"train.data.builders.{base}")
    builders = [
        builder
        for builder in _list_subclasses(tfds.core.DatasetBuilder)
        if builder.name == base and not builder.__module__.startswith("tensorflow_datasets.")
    ]
    # those of config files last, of these the newest last
    builders.sort(key=lambda builder: builder.__module__ != f"train.data.builders.{base}")
    return next((builder for builder in reversed(builders) if not config or config in builder.builder_configs), None)


def _list_subclasses(owner: Any) -> list[Any]:
    return [below for inner in owner.__subclasses__() for below in (inner, *_list_subclasses(inner))]


def list_own() -> list[str]:
    """Lists the data sets of this project."""
    files = (Path(__file__).parents[1] / "builders").glob("*.py")
    return sorted(path.stem for path in files if find_builder(path.stem) is not None)


def make_builder(name: str) -> "DatasetBuilder":
    """Makes the TFDS builder of `name` or `name/configuration`: from this project, prepared files, or the catalogue.

    Raises InputError for an unknown name, and if the builder of the catalogue needs TensorFlow.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    base, _, config = name.partition("/")
    folder, mine = cache_folder() / "datasets", find_builder(name)
    try:
        with silence():
            if mine is not None:
                return mine(config=config or None, data_dir=folder, file_format="array_record")
            if ":" in name:
                raise ValueError("a data set of another index")
            with contextlib.suppress(tfds.core.DatasetNotFoundError):
                return read_only_builder.builder_from_files(name, data_dir=folder)
            _import_catalogue()
            return tfds.builder(name, data_dir=folder, file_format="array_record")
    except ImportError:
        raise InputError(_explain_unprepared(name)) from None
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        if config and (ours := find_builder(base)) is not None:
            known = join(f"{base}/{configuration}" for configuration in ours.builder_configs)
            raise InputError(f"No data set is called {name!r}; valid names are {known or base}.") from None
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"No data set is called {name!r} here (see `morphax data list`) or in the TFDS catalogue ({reason})."
        ) from None


def _import_catalogue() -> None:
    """Imports the catalogue part by part: some parts need TensorFlow, and TFDS itself would stop at the first."""
    for part in CATALOGUE:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"tensorflow_datasets.{part}")


def _explain_unprepared(name: str) -> str:
    folder = cache_folder() / "datasets" / name.partition("/")[0]
    return (
        f"{name} has to be prepared once with TensorFlow: run `pip install 'morphax[tf]'` and `morphax data prepare"
        f" {name}`, here or on a machine with a network, then copy {folder} to the same place."
    )


def prepare(name: str) -> Any:  # a DatasetBuilder, whose `as_data_source` has no type
    """Prepares a data set once and returns its builder.  Raises InputError, with a command, if that is impossible."""
    builder = make_builder(name)
    with silence():
        if builder.is_prepared():
            return builder
    ours = find_builder(name) is not None
    if not ours and importlib.util.find_spec("tensorflow") is None:
        raise InputError(_explain_unprepared(name))
    try:
        with _lock(cache_folder() / "datasets" / name.partition("/")[0]), silence():
            if not builder.is_prepared():  # another process may have prepared it meanwhile
                print(f"preparing {name} in {builder.data_path}", file=sys.stderr, flush=True)
                builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        if ours and not isinstance(error, OSError | LookupError):
            raise  # a fault of a builder of this project or the user's, for which the traceback is needed
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(reason if ours else f"{name} cannot be prepared: {reason}") from None
    return builder


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Locks a folder against other processes of this machine that prepare the same data set."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Silences a library's warnings and standard output, and its progress bars unless standard error is a terminal."""
    import tensorflow_datasets as tfds

    level = logging.getLogger("absl").level
    logging.getLogger("absl").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.getLogger("absl").setLevel(level)


def open_split(name: str, split: str, encoded: tuple[str, ...] = ()) -> Split:
    """Opens a split of a data set, or a slice of a split, `test[:500]`; columns in `encoded` stay as stored.

    Raises InputError for an unknown data set, split or slice.
    """
    from tensorflow_datasets import decode

    builder = prepare(name)
    if split.partition("[")[0] not in builder.info.splits:
        raise InputError(f"{name} has no split {split!r}; it has {join(builder.info.splits)}: set data.splits.")
    try:
        raw = {column: decode.SkipDecoding() for column in encoded if column in get_features(builder)}
        examples = builder.as_data_source(split, decoders=raw or None)
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"{name} has no slice {split!r} ({reason}); write one as 'test[:500]' or 'train[10%:20%]'."
        ) from None
    return Split(examples, f"{name} {split}", dict(_find_class_names(get_features(builder), "")))


def get_features(builder: "DatasetBuilder") -> "FeaturesDict":
    """The features of a data set by column."""
    from tensorflow_datasets.core.features import FeaturesDict

    features = builder.info.features
    assert isinstance(features, FeaturesDict)
    return features


def _find_class_names(features: Any, before: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields class names by column; a column inside another is `column/inner`."""
    for key, feature in features.items():
        if hasattr(feature, "names"):
            yield before + key, tuple(feature.names)
        inner = getattr(feature, "feature", feature)
        if hasattr(inner, "items"):
            yield from _find_class_names(inner, f"{before}{key}/")


def describe(name: str) -> Description:
    """Describes a data set, which is prepared if need be."""
    builder = prepare(name)
    info = builder.info
    return {
        "version": str(info.version),
        "folder": str(info.data_dir),
        "splits": {key: split.num_examples for key, split in info.splits.items()},
        "features": {key: type(feature).__name__ for key, feature in get_features(builder).items()},
        "licence": str(info.redistribution_info.license or ""),
    }
