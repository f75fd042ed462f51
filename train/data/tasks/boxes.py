"""Pictures with the boxes of what is in them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from models.contracts import Model
from models.words import join
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches, of_examples
from train.data.needs import cells
from train.data.notes import Notes
from train.data.readers.pixels import asked_picture, decoded, files, in_channels, resized, scaled, shown_picture
from train.data.readers.scenes import Scene, Scenes, coco, unlisted, voc
from train.data.source import called, dataset, held, once
from train.data.transforms.augment import Augment
from train.errors import InputError
from train.page import Figure


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Pictures with boxes and their classes, from a data set by name or from the user's own files.

    `path` and `test` are COCO files (.json, with the pictures in the folder `images`, those of `test` in `test_images`
    where it is given; without both in images/ beside the file, else beside it) or Pascal VOC folders (Annotations/ and
    JPEGImages/); without `test` a part `holdout` of `path`, chosen by the md5 of the pictures' names, is held out.  A
    picture is seen as it is stored, or turned as its EXIF orientation says where only then its columns and rows are
    those that its file lists; one that has others is left out.  Pictures are resized to `size` (rows, columns) and seen
    in one grey or three colour `channels` from -1 to 1; a batch has room for `most` boxes a picture.  `augment` changes
    those of the training part, boxes with them; a box of which less than a third is left is dropped. `labels` fixes the
    classes' order, and `names` is what they are called in answers and reports, in that order.
    """

    dataset: str = "bccd"
    path: str | None = None
    test: str | None = None
    images: str | None = None
    test_images: str | None = None
    labels: tuple[str, ...] = ()
    size: tuple[int, int] = (192, 256)
    channels: Literal[1, 3] = 3
    most: int = 32
    augment: Augment = Augment()
    holdout: float = 0.1
    splits: tuple[str, str] = ("train", "test")
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        once("Boxes.labels", self.labels)
        if min(self.size) < 1 or self.most < 1:
            raise ValueError(
                f"Boxes has size {self.size} and most {self.most}; give rows, columns and a number of boxes above 0."
            )
        if not 0 < self.holdout < 1:
            raise ValueError(f"Boxes.holdout is {self.holdout}; give a part of the pictures between 0 and 1.")
        if self.test and not self.path:
            raise ValueError("Boxes.test is given without path; give what to train on too.")
        if self.test_images and not self.test:
            raise ValueError("Boxes.test_images is given without test; give the COCO file of these pictures too.")
        if self.augment.mixes:
            raise ValueError("Boxes.augment has mixup or cutmix, which mix classes, not boxes; set both to 0.")
        if self.augment.erase:
            raise ValueError(
                f"Boxes.augment has erase {self.augment.erase}, which may erase what a box frames; set it to 0."
            )

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedBoxes":
        """Both splits (or the one asked for), found and checked.  Raises InputError for what cannot be used."""
        opened = self.reader(classes)
        parts: list[PART] = ["train", "test"] if only is None else [only]
        whole = self._file("train") if self.path is not None and self.test is None else None
        read: list[Scenes] = [] if whole is None else [whole]
        for part in parts:
            if self.path is None:
                opened.add(part, self._named(part))
            elif whole is None:
                read.append(self._file(part))
                opened.add(part, read[-1])
            else:
                rows = [scene for scene in whole.scenes if held(scene.name, self.holdout) == (part == "test")]
                opened.add(part, dataclasses.replace(whole, scenes=rows, origin=f"{self.path} ({part} part)"))
        # what one file leaves out the other may list
        if read and (whole is not None or len(read) == 2 or self.test == self.path):
            opened.notes.take(unlisted(read))
        return opened

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedBoxes":
        """Ready for pictures to predict from, without the data."""
        return OpenedBoxes(self, classes or self.labels)

    def _named(self, part: PART) -> "Scenes":
        # of all pictures the boxes alone are read here
        split = dataset(self.dataset, self.splits[part == "test"], encoded=("image",))
        split.require(dataset="image")
        classes = split.names.get("objects/label", ())
        if not classes:
            raise InputError(
                f"{split.origin} has no classes in objects/label; give a data set of boxes, such as bccd or coco/2017."
            )
        scenes = []
        for index in range(len(split.examples)):
            objects = split.examples[index]["objects"]
            boxes = np.asarray(objects["bbox"], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]
            crowd = np.asarray(objects.get("is_crowd", np.zeros(len(boxes))), bool)
            scenes.append(
                Scene((split.examples, index), str(index), boxes, np.asarray(objects["label"], np.int32), crowd)
            )
        return Scenes(scenes, classes, split.origin)

    def _file(self, part: PART) -> "Scenes":
        path, images = (self.path, self.images) if part == "train" else (self.test, self.test_images or self.images)
        assert path is not None
        place = Path(path).expanduser()
        if place.is_dir():
            return voc(place)
        setting = "data.images" if part == "train" else "data.test_images"
        return coco(place, Path(images).expanduser() if images else None, setting)


class OpenedBoxes:
    """See `train.contracts.Dataset`."""

    vocab = 0

    def __init__(self, spec: Boxes, classes: tuple[str, ...]) -> None:
        self.spec, self.classes = spec, classes
        self.parts: dict[str, list[Scene]] = {}
        self.notes = Notes()

    @property
    def names(self) -> tuple[str, ...]:
        """What the classes are called, which an answer chooses from."""
        return called(self.classes, self.spec.names)

    @property
    def unseen(self) -> tuple[str, ...]:
        """The classes without an example to train on."""
        seen = {int(label) for scene in self.parts["train"] for label in scene.labels}
        return tuple(name for label, name in enumerate(self.names) if label not in seen)

    def add(self, part: PART, found: Scenes) -> None:
        """Takes in a part; classes that training never saw, and pictures with too many boxes, are refused."""
        if not found.scenes:
            raise InputError(f"{found.origin} is empty; give more pictures, or another data.holdout.")
        self.classes = self.classes or found.classes
        place = np.array([self.classes.index(name) if name in self.classes else -1 for name in found.classes], np.int32)
        scenes = []
        for scene in found.scenes:
            if len(scene.boxes) > self.spec.most:
                raise InputError(
                    f"{found.origin}, {scene.name}, has {len(scene.boxes)} boxes and data.most is {self.spec.most}; set"
                    f" data.most={len(scene.boxes)} or more."
                )
            labels = place[scene.labels]
            if len(labels) and labels.min() < 0:
                unknown = found.classes[int(scene.labels[labels.argmin()])]
                known = join(self.classes)
                raise InputError(
                    f"{found.origin}, {scene.name}, has the class {unknown!r}, which training never saw; known are"
                    f" {known}."
                )
            scenes.append(dataclasses.replace(scene, labels=labels))
        if not any(len(scene.boxes) for scene in scenes):
            raise InputError(
                f"{found.origin} has no boxes; give one that has, for a data set by data.splits, such as ('train',"
                " 'validation')."
            )
        self.parts[part] = scenes
        self.notes.take(found.notes)

    def picture(self, part: PART, index: int) -> np.ndarray:
        """A picture of a part as it is, (rows, columns, channels)."""
        scene = self.parts[part][index]
        source = scene.source
        if isinstance(source, Path):
            return decoded(source, self.spec.channels, upright=scene.turned)
        examples, place = source
        image = examples[place]["image"]
        return (
            decoded(image, self.spec.channels)
            if isinstance(image, bytes)
            else in_channels(np.asarray(image), self.spec.channels)
        )

    def truth(self, part: PART, index: int) -> Scene:
        """The boxes of a picture as they are given."""
        return self.parts[part][index]

    def shown(self, part: PART, index: int) -> Figure:
        """The picture."""
        return shown_picture(self.picture(part, index))

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Grids and positions for pictures of the size."""
        del objective
        return cells(model, self.spec.size)

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `image` (b, rows, columns, channels), `boxes` (b, most, 4) by centre and size, `box_labels`,
        `present` (b, most).
        """

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            return self._example(self.picture(part, index), self.parts[part][index], chance)

        return of_examples(len(self.parts[part]), one, batch_size, multiple, seed)

    def _example(self, image: np.ndarray, scene: Scene, chance: np.random.Generator | None) -> Arrays:
        spec = self.spec
        some = ~scene.crowd
        boxes, labels = scene.boxes[some], scene.labels[some]
        if chance is None:
            image = resized(image, spec.size)
        else:
            view = spec.augment.view(chance).whole(*image.shape[:2])
            image = spec.augment.colours(view.pixels(image, spec.size), chance, geometry=False)
            seen = view.boxes(boxes)
            inside = seen.clip(0, 1)
            left = np.prod(inside[:, 2:] - inside[:, :2], axis=-1) / np.maximum(
                np.prod(seen[:, 2:] - seen[:, :2], axis=-1), 1e-9
            )
            boxes, labels = inside[left > 1 / 3], labels[left > 1 / 3]
        count = len(boxes)
        placed = {"boxes": np.zeros((spec.most, 4), np.float32), "box_labels": np.zeros(spec.most, np.int32)}
        placed["present"] = np.zeros(spec.most, np.float32)
        placed["boxes"][:count] = np.concatenate(
            [(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=-1
        )
        placed["box_labels"][:count], placed["present"][:count] = labels, 1.0
        return {"image": scaled(image)} | placed

    def asked(self, given: Sequence[str]) -> list[str]:
        """The pictures that files and folders name; they are seen upright, as their EXIF orientation says."""
        return files(given, self.notes)

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Pictures to predict from, in their order."""

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            return {"image": scaled(resized(asked_picture(asked[index], self.spec.channels), self.spec.size))}

        return of_examples(len(asked), one, batch_size, multiple)
