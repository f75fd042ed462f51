"""Examples with a class each, whatever they are: the splits of a data set by name, or of folders named by the
classes.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from models.words import join
from train.contracts import PART
from train.data.balance import Balanced, balanced, require_power
from train.data.notes import Note, Notes
from train.data.readers.pixels import below, cut, known_extents, readable, unread
from train.data.source import Split, called, dataset, held, labelled, once
from train.errors import InputError

LOOKED_AT = 16  # examples of a data set


@dataclasses.dataclass(frozen=True)
class Classed:
    """A data set by name, or the user's folders with one folder of files a class.

    `path` and `test` are folders with one folder of files a class; without `test` a part `holdout` of `path`, chosen by
    the md5 of the files' names, is held out.  `target` is a data set's column of classes; `labels` fixes their order,
    `names` what they are called in answers and reports.  `balance` from 0 to 1 draws examples of rare classes more
    often in training: see `train.data.balance.Balanced`.
    """

    column: ClassVar[str]  # the setting that names a data set's column of examples
    noun: ClassVar[str]  # what the files are
    kinds: ClassVar[tuple[str, ...]]  # how their names end; none, as they like
    read: ClassVar[Callable[[Path], Any]]  # what is to be remembered of a file; ValueError where it is broken
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
        once(f"{name}.labels", self.labels)
        if min(self.size) < 1:
            raise ValueError(f"{name}.size is {self.size}; give rows and columns above 0.")
        if not 0 < self.holdout < 1:
            raise ValueError(f"{name}.holdout is {self.holdout}; give a part of the {self.noun} between 0 and 1.")
        if self.test and not self.path:
            raise ValueError(f"{name}.test is given without path; give the folder to train on too.")

    def found(self, parts: Sequence[PART]) -> dict[PART, Split]:
        """The splits of the parts."""
        if self.path is None:
            return {part: dataset(self.dataset, self.splits[part == "test"]) for part in parts}
        if self.test is not None:
            return {part: self.by_folder(self.test if part == "test" else self.path) for part in parts}
        every = self.by_folder(self.path)
        tested = [held(row["name"], self.holdout) for row in every.examples]
        return {part: every.parted(tested, part) for part in parts}

    def by_folder(self, path: str) -> Split:
        """The files of a folder of folders, each named by its class; those that cannot be read are counted and named.

        Raises InputError where there is no such folder, no class, or a class without a file.
        """
        place = Path(path).expanduser()
        if not place.is_dir():
            raise InputError(f"{path} is no folder; give one that has a folder of {self.noun} for each class.")
        folders = sorted(inside for inside in place.iterdir() if inside.is_dir() and not inside.name.startswith("."))
        if not folders:
            raise InputError(
                f"{path} has no folders; it needs one for each class, named by it, with the {self.noun} inside."
            )
        rows: list[dict[str, Any]] = []
        outside = tuple(str(file) for file in below(place) if place / file.relative_to(place).parts[0] not in folders)
        notes = [Note(path, "are in no folder of a class and are left out", "files", outside)] if outside else []
        for folder in folders:
            sound, left = readable(below(folder), str(folder), type(self).read, self.kinds)
            if not sound:
                raise InputError(
                    f"{folder} has no {self.noun} that can be read{unread(left, self.kinds)}; add some, or remove"
                    " the folder."
                )
            notes += left
            rows += [
                {"file": file, "known": sound[file], "label": folder.name, "name": f"{folder.name}/{file.name}"}
                for file in sound
            ]
        notes += cut({str(row["file"]): type(self).extents(row["file"]) for row in rows}, self.size, path, self.noun)
        return Split(rows, path, {}, notes=tuple(notes))


class OpenedClassed:
    """Splits whose examples have a class each, and what the classes are called: see `train.contracts.Dataset`."""

    vocab = 0

    def __init__(self, settings: Classed, classes: tuple[str, ...]) -> None:
        self.settings, self.classes = settings, classes or settings.labels
        self.splits: dict[str, Split] = {}
        self.known: dict[str, np.ndarray] = {}
        self.notes = Notes()

    @property
    def names(self) -> tuple[str, ...]:
        """What the classes are called, which an answer chooses from."""
        return called(self.classes, self.settings.names)

    @property
    def unseen(self) -> tuple[str, ...]:
        """The classes without an example to train on, known of the user's own folders."""
        if self.settings.path is None:
            return ()
        seen = {row["label"] for row in self.splits["train"].examples}
        return tuple(name for label, name in zip(self.classes, self.names, strict=True) if label not in seen)

    def add(self, part: PART, split: Split) -> None:
        """Takes in a split; classes that training never saw are refused."""
        settings, own = self.settings, self.settings.path is not None
        split.require(
            **({} if own else {settings.column: getattr(settings, settings.column), "target": settings.target})
        )
        known = split.names.get(settings.target)
        if own:
            found = sorted({row["label"] for row in split.examples})
            self.classes = self.classes or tuple(found)
            for name in found:
                if name not in self.classes:
                    raise InputError(
                        f"{split.origin} has the class {name!r}, which training never saw; known are {self._listed()}."
                    )
        elif known is None:
            raise InputError(
                f"{split.origin} has no classes in {settings.target!r}; set data.target to a column of classes."
            )
        else:
            self.classes = self.classes or known
            if known != self.classes:
                raise InputError(f"{split.origin} has the classes {join(known)}, and training had {self._listed()}.")
            labelled(split.examples[0][settings.target], known, split.where(0))
            self.notes.take(self._cut(split))
        self.splits[part] = split
        self.notes.take(split.notes)

    def _cut(self, split: Split) -> tuple[Note, ...]:
        """A note of those of the first examples of a data set that are cut; its others are not read for that."""
        column, some = getattr(self.settings, self.settings.column), range(min(LOOKED_AT, len(split.examples)))
        shapes = {f"example {index + 1}": np.shape(split.examples[index][column]) for index in some}
        extents = {name: (shape[-3], shape[-2]) for name, shape in shapes.items() if len(shape) > 2}
        return cut(extents, self.settings.size, split.origin, f"{self.settings.noun} looked at")

    def taken(self, files: Sequence[str]) -> list[str]:
        """Files to predict from; a note names those that are cut."""
        settings = self.settings
        extents = known_extents(files, type(settings).extents)
        self.notes.take(cut(extents, settings.size, "the input", settings.noun))
        return list(files)

    def _listed(self) -> str:
        return join(self.classes)

    def content(self, part: PART, index: int) -> tuple[Path | None, Any]:
        """An example's file and what is known of it, or None and what the data set holds."""
        row = self.splits[part].examples[index]
        own = self.settings.path is not None
        return (row["file"], row["known"]) if own else (None, row[getattr(self.settings, self.settings.column)])

    def label(self, part: PART, index: int) -> int:
        """The class of an example, by its place in `classes`."""
        row = self.splits[part].examples[index]
        if self.settings.path is not None:
            return self.classes.index(row["label"])
        return labelled(row[self.settings.target], self.classes, self.splits[part].where(index))

    def labels(self, part: PART) -> np.ndarray:
        """The class of every example, by its place in `classes`; a data set is read once for it."""
        if part not in self.known:
            count = len(self.splits[part].examples)
            self.known[part] = np.array([self.label(part, index) for index in range(count)], np.int64)
        return self.known[part]

    def sampler(self, part: PART, seed: int | None) -> Balanced | None:
        """What draws the examples to train on, if classes are balanced."""
        return balanced(self.settings.balance, self.labels(part), part, seed) if self.settings.balance else None


Own = TypeVar("Own", bound=OpenedClassed)


def filled(opened: Own, only: PART | None) -> Own:
    """What is opened with both splits, or the one asked for, found and checked.  Raises InputError for what cannot be
    used.
    """
    parts: list[PART] = ["train", "test"] if only is None else [only]
    for part, split in opened.settings.found(parts).items():
        opened.add(part, split)
    return opened
