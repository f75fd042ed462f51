"""Classification data of any modality: splits of a data set by name, or folders named by their classes."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from models.words import join
from train.contracts import PART
from train.data.balance import Balanced, make_sampler, require_power
from train.data.classes import admit_classes, read_label, rename_classes, require_unique
from train.data.notes import Note, Notes
from train.data.readers.pixels import collect_extents, explain_unread, list_files, note_cut, read_all
from train.data.sources import Example, Split, is_divided, open_splits, read, require_source
from train.errors import InputError

TABLE = "metadata.csv"  # of a folder, beside its classes, as Hugging Face's ImageFolder has it
LOOKED_AT = 16  # examples of a data set whose shape is checked


@dataclasses.dataclass(frozen=True)
class Classed:
    """A data set by name, or the user's folders with one folder of files a class.

    `path` and `test` are folders with a folder of files for each class; unless `test` is given, the fraction `holdout`
    of `path`, chosen by the md5 of the file names, is held out.  `target` is a data set's column of classes; `labels`
    fixes their order, `names` renames them in answers and reports.  `balance` from 0 to 1 draws examples of rare
    classes more often in training: see `train.data.balance.Balanced`.
    """

    column: ClassVar[str]  # the setting that names a data set's column of examples
    noun: ClassVar[str]  # "pictures", for messages
    kinds: ClassVar[tuple[str, ...]]  # suffixes of the files; any if empty
    read: ClassVar[Callable[[Path], object]]  # facts to remember about a file; ValueError if it is damaged
    extents: ClassVar[Callable[[Path], tuple[int, int]]]  # rows and columns of a file, upright

    dataset: str = ""
    path: str | None = None
    test: str | None = None
    target: str = "label"
    labels: tuple[str, ...] = ()
    size: tuple[int, int] = (28, 28)
    holdout: float = 0.1
    splits: tuple[str, str] = ("train", "test")
    names: tuple[str, ...] = ()
    balance: float = 0.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        require_power(name, self.balance)
        require_unique(f"{name}.labels", self.labels)
        if min(self.size) < 1:
            raise ValueError(f"{name}.size is {self.size}; give rows and columns above 0.")
        require_source(self, self.noun)

    def read_folders(self, path: str) -> Split:
        """Reads the files of a folder of folders, each named by its class; notes the files that cannot be read.

        Raises InputError if the folder is absent, has no class, or has a class without a file.
        """
        root = Path(path).expanduser()
        if not root.is_dir():
            raise InputError(f"{path} is no folder; give one that has a folder of {self.noun} for each class.")
        folders = sorted(inside for inside in root.iterdir() if inside.is_dir() and not inside.name.startswith("."))
        if not folders:
            raise InputError(
                f"{path} has no folders; it needs one for each class, named by it, with the {self.noun} inside."
            )
        rows: list[Example] = []
        outside = tuple(
            str(file)
            for file in list_files(root)
            if root / file.relative_to(root).parts[0] not in folders and file != root / TABLE
        )
        notes = [Note(path, "are in no folder of a class and are left out", "files", outside)] if outside else []
        for folder in folders:
            sound, left = read_all(list_files(folder), str(folder), type(self).read, self.kinds)
            if not sound:
                reason = explain_unread(left, self.kinds)
                raise InputError(
                    f"{folder} has no {self.noun} that can be read{reason}; add some, or remove the folder."
                )
            notes += left
            rows += [
                {"file": file, "known": sound[file], "label": folder.name, "name": f"{folder.name}/{file.name}"}
                for file in sound
            ]
        notes += note_cut(
            {str(row["file"]): type(self).extents(row["file"]) for row in rows}, self.size, path, self.noun
        )
        return Split(rows, path, {}, notes=tuple(notes))


class OpenedClassed:
    """The opened splits of `Classed` data, a `train.contracts.Dataset`."""

    vocab = 0

    def __init__(self, settings: Classed, classes: tuple[str, ...]) -> None:
        self.settings = settings
        self.classes = classes or settings.labels
        self.divided = not self.classes and is_divided(settings)
        self.splits: dict[str, Split] = {}
        self.known: dict[str, np.ndarray] = {}
        self.notes = Notes()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes in answers."""
        return rename_classes(self.classes, self.settings.names)

    @property
    def unseen(self) -> tuple[str, ...]:
        """The classes without a training example, for the user's own folders only."""
        if self.settings.path is None:
            return ()
        seen = {row["label"] for row in self.splits["train"].examples}
        return tuple(name for label, name in zip(self.classes, self.names, strict=True) if label not in seen)

    def add(self, part: PART, split: Split) -> None:
        """Adds a split.  Raises InputError for classes that training never saw."""
        settings = self.settings
        folders = settings.path is not None
        split.require(
            **({} if folders else {settings.column: getattr(settings, settings.column), "target": settings.target})
        )
        known = split.names.get(settings.target)
        if folders:
            names = sorted({row["label"] for row in split.examples})
            self.classes = admit_classes(
                self.classes, names, self.divided, lambda name: f"{split.origin} has the class {name!r}"
            )
        elif known is None:
            raise InputError(
                f"{split.origin} has no classes in {settings.target!r}; set data.target to a column of classes."
            )
        else:
            self.classes = self.classes or known
            if known != self.classes:
                raise InputError(
                    f"{split.origin} has the classes {join(known)}, and training had {join(self.classes)}."
                )
            read_label(split.examples[0][settings.target], known, split.where(0))
            self.notes.take(self._note_cut(split))
        self.splits[part] = split
        self.notes.take(split.notes)

    def _note_cut(self, split: Split) -> tuple[Note, ...]:
        """Notes the first examples of a data set that are cropped; its other examples are not read for that."""
        column, some = getattr(self.settings, self.settings.column), range(min(LOOKED_AT, len(split.examples)))
        shapes = {f"example {index + 1}": np.shape(split.examples[index][column]) for index in some}
        extents = {name: (shape[-3], shape[-2]) for name, shape in shapes.items() if len(shape) > 2}
        return note_cut(extents, self.settings.size, split.origin, f"{self.settings.noun} looked at")

    def take_files(self, files: Sequence[str]) -> list[str]:
        """Takes files to predict from, and notes those that are cropped."""
        settings = self.settings
        extents = collect_extents(files, type(settings).extents)
        self.notes.take(note_cut(extents, settings.size, "the input", settings.noun))
        return list(files)

    def find_content(self, part: PART, index: int) -> tuple[Path | None, object]:
        """Finds an example's file and the facts about it, or None and its value in the data set."""
        row = self.splits[part].examples[index]
        if self.settings.path is not None:
            return row["file"], row["known"]
        return None, row[getattr(self.settings, self.settings.column)]

    def read_label(self, part: PART, index: int) -> int:
        """Reads the class of an example, an index of `classes`."""
        row = self.splits[part].examples[index]
        if self.settings.path is not None:
            return self.classes.index(row["label"])
        return read_label(row[self.settings.target], self.classes, self.splits[part].where(index))

    def read_column(self, part: PART, name: str) -> list[object]:
        """The cells of a column of the data set, example by example; of folders, those of their `metadata.csv`.

        Its column `file_name` has the files as CLASS/FILE; a file that it does not name has the cell None.
        """
        split = self.splits[part]
        if self.settings.path is None:
            return split.read_column(name)
        folder = self.settings.test if part == "test" and self.settings.test else self.settings.path
        if not (path := Path(folder).expanduser() / TABLE).is_file():
            raise InputError(
                f"{folder} has no {TABLE}, which names a file in file_name and has the column {name!r}; add it."
            )
        table = read(str(path))
        files, cells = table.read_column("file_name"), table.read_column(name)
        known = {str(file): cell for file, cell in zip(files, cells, strict=True)}
        if not any(row["name"] in known for row in split.examples):
            raise InputError(
                f"{path} names none of the files, such as {split.examples[0]['name']}; write them so in file_name."
            )
        return [known.get(row["name"]) for row in split.examples]

    def labels(self, part: PART) -> np.ndarray:
        """The class of every example (n,), an index of `classes`; a data set is read once for it."""
        if part not in self.known:
            count = len(self.splits[part].examples)
            self.known[part] = np.array([self.read_label(part, index) for index in range(count)], np.int64)
        return self.known[part]

    def make_sampler(self, part: PART, seed: int | None) -> Balanced | None:
        """Makes the sampler of the training part if classes are balanced."""
        return make_sampler(self.settings.balance, self.labels(part), part, seed) if self.settings.balance else None


Opened = TypeVar("Opened", bound=OpenedClassed)


def add_parts(opened: Opened, only: PART | None) -> Opened:
    """Adds both splits, or the one asked for, to a data set.  Raises InputError for data that cannot be used."""
    for part, split in open_splits(opened.settings, only, "name", opened.settings.read_folders).items():
        opened.add(part, split)
    return opened
