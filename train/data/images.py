"""Pictures with a class each."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from train.data.augment import Augment
from train.data.batches import Arrays, Batches, of_examples
from train.data.contracts import PART
from train.data.pixels import KINDS, View, asked_picture, decoded, pictures, readable, resized, scaled, shown_picture
from train.data.source import Split, dataset, held
from train.spec import InputError


@dataclasses.dataclass(frozen=True)
class Images:
    """Pictures with a class each, from a data set by name or from the user's own folders.

    `path` and `test` are folders with one folder of pictures a class; without `test` a part `holdout` of `path`, chosen by the md5 of the
    pictures' names, is held out.  Every picture is cut to the middle of the shape of `size` (rows, columns), resized to it, and seen in
    one grey or three colour `channels` from -1 to 1.  `augment` changes those of the training part.  `labels` fixes the classes' order.
    """

    dataset: str = "fashion_mnist"
    path: str | None = None
    test: str | None = None
    image: str = "image"
    target: str = "label"
    labels: tuple[str, ...] = ()
    size: tuple[int, int] = (28, 28)
    channels: Literal[1, 3] = 1
    augment: Augment = Augment()
    holdout: float = 0.1
    splits: tuple[str, str] = ("train", "test")

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"Images.size is {self.size}; give rows and columns above 0.")
        if not 0 < self.holdout < 1:
            raise ValueError(f"Images.holdout is {self.holdout}; give a part of the pictures between 0 and 1.")
        if self.test and not self.path:
            raise ValueError("Images.test is given without path; give the folder to train on too.")

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedImages":
        """Both splits (or the one asked for), found and checked.  Raises InputError for what cannot be used."""
        opened = self.reader(classes)
        parts: list[PART] = ["train", "test"] if only is None else [only]
        for part, split in self._splits(parts).items():
            opened.add(part, split)
        return opened

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedImages":
        """Ready for pictures to predict from, without the data."""
        return OpenedImages(self, classes or self.labels)

    def _splits(self, parts: list[PART]) -> dict[PART, Split]:
        if self.path is None:
            return {part: dataset(self.dataset, self.splits[part == "test"]) for part in parts}
        if self.test is not None:
            return {part: by_folder(self.test if part == "test" else self.path) for part in parts}
        whole = by_folder(self.path)
        return {
            part: Split(
                [row for row in whole.examples if held(row["name"], self.holdout) == (part == "test")], f"{self.path} ({part} part)", {}
            )
            for part in parts
        }


def by_folder(path: str) -> Split:
    """The pictures of a folder of folders, each named by its class; those that cannot be read are counted and named.

    Raises InputError where there is no such folder, no class, or a class without a picture.
    """
    place = Path(path).expanduser()
    if not place.is_dir():
        raise InputError(f"{path} is no folder; give one that has a folder of pictures for each class.")
    folders = sorted(inside for inside in place.iterdir() if inside.is_dir() and not inside.name.startswith("."))
    if not folders:
        raise InputError(f"{path} has no folders; it needs one for each class, named by it, with the pictures inside.")
    rows: list[dict[str, Any]] = []
    for folder in folders:
        listed = sorted(inside for inside in folder.rglob("*") if inside.suffix.lower() in KINDS and inside.is_file())
        sound = readable(listed, str(folder))
        if not sound:
            raise InputError(f"{folder} has no pictures that can be read ({', '.join(KINDS)}); add some, or remove the folder.")
        rows += [{"image": file, "label": folder.name, "name": f"{folder.name}/{file.name}"} for file in sound]
    return Split(rows, path, {})


class OpenedImages:
    """See `train.data.contracts.Opened`."""

    vocab = 0

    def __init__(self, spec: Images, classes: tuple[str, ...]) -> None:
        self.spec, self.classes = spec, classes
        self.splits: dict[str, Split] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, which an answer chooses from."""
        return self.classes

    def add(self, part: PART, split: Split) -> None:
        """Takes in a split; classes that training never saw are refused."""
        own = self.spec.path is not None
        split.require(**({} if own else {"image": self.spec.image, "target": self.spec.target}))
        known = split.names.get(self.spec.target)
        if own:
            found = sorted({row["label"] for row in split.examples})
            self.classes = self.classes or tuple(found)
            for name in found:
                if name not in self.classes:
                    raise InputError(f"{split.origin} has the class {name!r}, which training never saw; known are {self._listed()}.")
        elif known is None:
            raise InputError(f"{split.origin} has no classes in {self.spec.target!r}; set data.target to a column of classes.")
        else:
            self.classes = self.classes or known
            if known != self.classes:
                raise InputError(f"{split.origin} has the classes {', '.join(known[:5])}, and training had {self._listed()}.")
        self.splits[part] = split

    def _listed(self) -> str:
        return ", ".join(self.classes[:8]) + (", ..." if len(self.classes) > 8 else "")

    def picture(self, part: PART, index: int) -> np.ndarray:
        """A picture of a split as it is, (rows, columns, channels)."""
        row = self.splits[part].examples[index]
        content = row["image" if self.spec.path is not None else self.spec.image]
        if isinstance(content, Path):
            return decoded(content, self.spec.channels, draft=(self.spec.size[1] * 2, self.spec.size[0] * 2))
        array = np.asarray(content)
        wanted = self.spec.channels
        if array.shape[2] == wanted:
            return array
        grey = array[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) if wanted == 1 else array[..., 0]
        return np.repeat(grey[..., None].astype(np.uint8), wanted, axis=2)

    def label(self, part: PART, index: int) -> int:
        """The class of a picture, by its place in `classes`."""
        row = self.splits[part].examples[index]
        return self.classes.index(row["label"]) if self.spec.path is not None else int(row[self.spec.target])

    def shown(self, part: PART, index: int) -> str:
        """The picture, as a piece of a page."""
        return shown_picture(self.picture(part, index))

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `image` (b, rows, columns, channels) and `labels` (b,); `targets` (b, c) where pictures are mixed."""
        spec = self.spec

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            image = centred(self.picture(part, index), spec.size)
            if chance is not None:
                image = spec.augment.colours(spec.augment.view(chance).pixels(image, spec.size), chance)
            return {"image": scaled(resized(image, spec.size)), "labels": np.array(self.label(part, index), np.int32)}

        mix = (lambda batch, chance: spec.augment.mixed(batch, chance, len(self.classes))) if spec.augment.mixes else None
        return of_examples(len(self.splits[part].examples), one, batch_size, multiple, seed, mix)

    def asked(self, given: Sequence[str]) -> list[str]:
        """The pictures that files and folders name."""
        return pictures(given)

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Pictures to predict from, in their order."""
        spec = self.spec

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            return {"image": scaled(resized(centred(asked_picture(asked[index], spec.channels), spec.size), spec.size))}

        return of_examples(len(asked), one, batch_size, multiple)


def centred(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The largest middle part of a picture that has the shape of `size`."""
    rows, columns = image.shape[:2]
    height, width = min(rows, round(columns * size[0] / size[1])), min(columns, round(rows * size[1] / size[0]))
    if (height, width) == (rows, columns):
        return image
    height, width = max(height, 1), max(width, 1)
    view = View((rows - height) // 2 / rows, (columns - width) // 2 / columns, height / rows, width / columns)
    return view.pixels(image, (height, width))
