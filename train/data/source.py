"""Examples by name or by path: TFDS builders prepared once as array_record, other libraries' data sets, and the user's
own files.
"""

import contextlib
import fcntl
import hashlib
import importlib
import importlib.util
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from models.words import join
from train.data.notes import Notes
from train.data.published import cache
from train.data.questions import Question, where
from train.data.readers.formats import content
from train.data.sources import format_of, library_of, suffixes
from train.data.split import Split
from train.errors import InputError

CATALOGUE = (
    "audio",
    "image",
    "image_classification",
    "object_detection",
    "question_answering",
    "summarization",
    "text",
    "time_series",
)
CATALOGUE += ("translate", "video")


def own(name: str) -> type | None:
    """The builder of that name, or `name/configuration`, that a config's file or this project defines, in
    train/data/builders/NAME.py.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    base, _, config = name.partition("/")
    if not base.isidentifier():
        return None
    if importlib.util.find_spec(f"train.data.builders.{base}") is not None:
        with registered.skip_registration():  # the catalogue may have the name too
            importlib.import_module(f"train.data.builders.{base}")
    found = [
        one
        for one in _below(tfds.core.DatasetBuilder)
        if one.name == base and not one.__module__.startswith("tensorflow_datasets.")
    ]
    # a file's before the project's, the newest last
    found.sort(key=lambda one: one.__module__ != f"train.data.builders.{base}")
    return next((one for one in reversed(found) if not config or config in one.builder_configs), None)


def _below(owner: Any) -> list[Any]:
    return [one for inner in owner.__subclasses__() for one in (inner, *_below(inner))]


def own_names() -> list[str]:
    """The data sets of this project."""
    return sorted(path.stem for path in (Path(__file__).parent / "builders").glob("*.py") if own(path.stem) is not None)


def builder(name: str) -> Any:
    """The TFDS builder of a data set `name` or `name/configuration`: an own one, one of what is prepared, or the
    catalogue's.

    Raises InputError for a name that nobody knows, and where the catalogue's needs TensorFlow.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    base, _, config = name.partition("/")
    folder, mine = cache() / "datasets", own(name)
    try:
        with quiet():
            if mine is not None:
                return mine(config=config or None, data_dir=folder, file_format="array_record")
            if ":" in name:
                raise ValueError("a data set of another index")
            with contextlib.suppress(tfds.core.DatasetNotFoundError):
                return read_only_builder.builder_from_files(name, data_dir=folder)
            _catalogue()
            return tfds.builder(name, data_dir=folder, file_format="array_record")
    except ImportError:
        raise InputError(_unprepared(name)) from None
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        if config and (ours := own(base)) is not None:
            known = join(f"{base}/{one}" for one in getattr(ours, "builder_configs", {}))
            raise InputError(f"No data set is called {name!r}; valid names are {known or base}.") from None
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"No data set is called {name!r} here (see `morphax data list`) or in the TFDS catalogue ({reason})."
        ) from None


def _catalogue() -> None:
    """Imports the catalogue part by part: without TensorFlow some cannot be, and TFDS itself stops at the first of
    these.
    """
    for part in CATALOGUE:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"tensorflow_datasets.{part}")


def _unprepared(name: str) -> str:
    return (
        f"{name} has to be prepared once with TensorFlow: run `pip install 'morphax[tf]'` and `morphax data prepare"
        f" {name}`, here or where there is a network, then copy {cache() / 'datasets' / name.partition('/')[0]} to"
        " the same place."
    )


def prepare(name: str) -> Any:
    """A data set's builder, prepared once.  Raises InputError that says what to run where it cannot be prepared
    here.
    """
    made = builder(name)
    with quiet():
        if made.is_prepared():
            return made
    ours = own(name) is not None
    if not ours and importlib.util.find_spec("tensorflow") is None:
        raise InputError(_unprepared(name))
    try:
        with _alone(cache() / "datasets" / name.partition("/")[0]), quiet():
            if not made.is_prepared():  # by another process meanwhile
                print(f"preparing {name} in {made.data_path}", file=sys.stderr, flush=True)
                made.download_and_prepare(file_format="array_record")
    except Exception as error:
        if ours and not isinstance(error, OSError | LookupError):
            raise  # of a builder of this project, or the user's: what went wrong stands in its lines
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(said if ours else f"{name} cannot be prepared: {said}") from None
    return made


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process of this machine prepares what is in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps a library's warnings out, its words off standard output, and its bars off a standard error that is no
    terminal.
    """
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


def dataset(name: str, split: str, encoded: tuple[str, ...] = ()) -> Split:
    """A split of a data set by name, or a slice of one, as TFDS writes it: `test[:500]`.  Raises InputError for what it
    does not have.

    A name of TFDS or of this project, or `LIBRARY:NAME` for one of another library (`train.data.sources`), such as
    `hf:imdb`. Columns that are `encoded` are left as they are stored: a picture is the bytes of a JPEG or a PNG where
    it was one.
    """
    if (library := library_of(name)) is not None:
        if encoded:
            raise InputError(
                f"{name} says of no box what its numbers measure; write the boxes as a COCO or VOC folder and set"
                " data.path."
            )
        return library.open(name.partition(":")[2], split)
    from tensorflow_datasets import decode

    made = prepare(name)
    if split.partition("[")[0] not in made.info.splits:
        raise InputError(f"{name} has no split {split!r}; it has {join(made.info.splits)}: set data.splits.")
    try:
        raw = {column: decode.SkipDecoding() for column in encoded if column in made.info.features}
        examples = made.as_data_source(split, decoders=raw or None)
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"{name} has no slice {split!r} ({reason}); write one as 'test[:500]' or 'train[10%:20%]'."
        ) from None
    return Split(examples, f"{name} {split}", dict(_classes(made.info.features, "")))


def _classes(features: Any, before: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The names of classes by their column; those inside of another are `column/inner`."""
    for key, feature in features.items():
        if hasattr(feature, "names"):
            yield before + key, tuple(feature.names)
        inner = getattr(feature, "feature", feature)
        if hasattr(inner, "items"):
            yield from _classes(inner, f"{before}{key}/")


def describe(name: str) -> dict[str, Any]:
    """A data set by name, prepared once: its "folder", "splits" with their numbers of examples, "features", "licence"
    and "version".
    """
    if (library := library_of(name)) is not None:
        return library.describe(name.partition(":")[2])
    info = prepare(name).info
    return {
        "version": str(info.version),
        "folder": str(info.data_dir),
        "splits": {key: split.num_examples for key, split in info.splits.items()},
        "features": {key: type(feature).__name__ for key, feature in info.features.items()},
        "licence": str(info.redistribution_info.license or ""),
    }


def read(path: str) -> Split:
    """The examples of a user's file or folder, one a row, by the format of its suffix: see `train.data.sources`.

    Raises InputError, with the line or row, for what is absent, empty, not readable, or not of its format.
    """
    if (form := format_of(path)) is None:
        raise InputError(f"{path} is none of {join(suffixes(), 300)}; rename it by what it holds.")
    split = form.read(path)
    if not len(split.examples):
        raise InputError(f"{path} has no examples; it needs at least one row of data.")
    return split


def texts(given: Sequence[str], notes: Notes, **column: str) -> list[str]:
    """The texts of what is given, where a file or a folder of a known format stands for that column of its rows.

    A .txt stands for its lines.  The column is named by the setting that chooses it; `notes` takes what the reader
    says.  Texts of files are `Question`s, which know their file and row; a row that has no text gives an empty one.
    Raises InputError for a file that cannot be read or lacks the column.
    """
    found: list[str] = []
    for name in given:
        if not _exists(name) or format_of(name) is None:
            found.append(name)
            continue
        split, columns = read(name), {"text": "text"} if Path(name).suffix.lower() == ".txt" else column
        split.require(**columns)
        notes.take(split.notes)
        for one in columns.values():
            rows = range(len(split.examples))
            found += [Question.of(split.examples[index].get(one), split.where(index)) for index in rows]
    return found


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # of a text that is no name of a file
        return False


def asked_words(asked: Sequence[str], index: int) -> str:
    """One of the texts to predict from.  Raises InputError, with its place, if it has none or it is not UTF-8."""
    text = asked[index]
    return words(text.cell if isinstance(text, Question) else text, where(asked, index))


def whole(path: str) -> str:
    """All of a text file in UTF-8, with line feeds between its lines.  Raises InputError where it is absent, empty or
    not UTF-8.
    """
    text = content(path).replace("\r\n", "\n")
    if not text.strip():
        raise InputError(f"{path} has no text; it needs some.")
    return text


def lines(path: str) -> list[str]:
    """The lines of a text file in UTF-8, stripped, empty ones too.  Raises InputError where it is absent, empty or not
    UTF-8.
    """
    return [line.strip() for line in whole(path).removesuffix("\n").split("\n")]


def words(value: Any, where: str) -> str:
    """A text as it was written.  Raises InputError where there is none or it is not UTF-8."""
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


def labelled(value: Any, classes: Sequence[str], where: str) -> int:
    """The class of an example of a data set, by its place.  Raises InputError where it has none, as some parts to test
    on.
    """
    if not 0 <= int(value) < len(classes):
        raise InputError(
            f"{where}, has no class ({int(value)}); set data.splits to parts that have, such as ('train',"
            " 'validation')."
        )
    return int(value)


def once(setting: str, names: tuple[str, ...]) -> None:
    """Raises ValueError for a name that is given twice."""
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"{setting} names {join(map(repr, twice))} twice; name each once.")


def called(classes: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """What classes are called: `names` in their order, if given.  Raises InputError if there are not as many different
    ones.
    """
    if not names or not classes:
        return classes
    if len(names) != len(classes) or len(set(names)) < len(names):
        raise InputError(
            f"data.names has {len(names)} names ({join(names)}) for {len(classes)} classes ({join(classes)}); give"
            " one for each, no two alike."
        )
    return names


def held(text: str, holdout: float) -> bool:
    """Whether a text belongs to the held-out part: its md5 says so, so that equal texts are on one side."""
    return int(hashlib.md5(text.encode()).hexdigest()[:8], 16) < holdout * 2**32
