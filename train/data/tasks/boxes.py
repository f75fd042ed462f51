"""Object detection data."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from models.contracts import Model
from models.words import join
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches, of_examples
from train.data.classes import rename_classes, require_unique
from train.data.needs import need_cells
from train.data.notes import Notes
from train.data.readers.pixels import (
    convert_channels,
    decode,
    expand_files,
    make_figure,
    normalise,
    read_picture,
    resize,
)
from train.data.readers.scenes import Scene, Scenes, note_unlisted, read_coco, read_voc
from train.data.sources import divide, open_dataset, open_parts, require_source
from train.data.transforms.augment import Augment
from train.errors import InputError
from train.page import Figure


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Images with boxes and their classes, from a data set by name or from the user's own files.

    `path` and `test` are COCO files or Pascal VOC folders (Annotations/ and JPEGImages/).  The images of a COCO file
    (.json) are in the folder `images`, those of `test` in `test_images` if given; if neither is given, in images/
    beside the file or, if that is absent, beside the file.  Unless `test` is given, the fraction `holdout` of `path`,
    chosen by the md5 of the image names, is held out.  An image is read as stored, or turned by its EXIF orientation if
    only then it has the columns and rows that its file lists; an image that has neither is left out.  Images are
    resized to `size` (rows, columns) and read in one grey or three colour `channels` from -1 to 1; a batch has room for
    `most` boxes an image.  `augment` changes images of the training part and their boxes; a box of which less than a
    third is left is dropped.  `labels` fixes the order of the classes, and `names` renames them in answers and reports.
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
        require_unique("Boxes.labels", self.labels)
        if min(self.size) < 1 or self.most < 1:
            raise ValueError(
                f"Boxes has size {self.size} and most {self.most}; give rows, columns and a number of boxes above 0."
            )
        require_source(self, "pictures")
        if self.test_images and not self.test:
            raise ValueError("Boxes.test_images is given without test; give the COCO file of these pictures too.")
        if self.augment.mixes:
            raise ValueError("Boxes.augment has mixup or cutmix, which mix classes, not boxes; set both to 0.")
        if self.augment.erase:
            raise ValueError(
                f"Boxes.augment has erase {self.augment.erase}, which may erase what a box frames; set it to 0."
            )

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedBoxes":
        """Opens both splits (or the one asked for).  Raises InputError for data that cannot be used."""
        opened = self.reader(classes)
        files: list[Scenes] = []

        def read_file(path: str, part: PART) -> Scenes:
            files.append(self._read_file(path, part))
            return files[-1]

        for part, scenes in open_parts(self, only, self._open_dataset, read_file, self._divide).items():
            opened.add(part, scenes)
        # an image that one file leaves out may be listed in the other
        if files and (self.test is None or len(files) == 2 or self.test == self.path):
            opened.notes.take(note_unlisted(files))
        return opened

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedBoxes":
        """The data set without examples, ready for images to predict from."""
        return OpenedBoxes(self, classes or self.labels)

    def _open_dataset(self, name: str, part: str) -> Scenes:
        # reads the boxes of all examples, and no image
        split = open_dataset(name, part, encoded=("image",))
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

    def _divide(self, scenes: Scenes) -> dict[PART, Scenes]:
        divided = divide(scenes.scenes, (scene.name for scene in scenes.scenes), self.holdout)
        return {
            part: dataclasses.replace(scenes, scenes=some, origin=f"{self.path} ({part} part)")
            for part, some in divided.items()
        }

    def _read_file(self, path: str, part: PART) -> Scenes:
        images = self.images if part == "train" else self.test_images or self.images
        source = Path(path).expanduser()
        if source.is_dir():
            return read_voc(source)
        setting = "data.images" if part == "train" else "data.test_images"
        return read_coco(source, Path(images).expanduser() if images else None, setting)


class OpenedBoxes:
    """The opened data set of `Boxes`, a `train.contracts.Dataset`."""

    vocab = 0

    def __init__(self, spec: Boxes, classes: tuple[str, ...]) -> None:
        self.spec = spec
        self.classes = classes
        self.parts: dict[str, list[Scene]] = {}
        self.notes = Notes()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes in answers."""
        return rename_classes(self.classes, self.spec.names)

    @property
    def unseen(self) -> tuple[str, ...]:
        """The classes without a training example."""
        seen = {int(label) for scene in self.parts["train"] for label in scene.labels}
        return tuple(name for label, name in enumerate(self.names) if label not in seen)

    def add(self, part: PART, new: Scenes) -> None:
        """Adds a part.  Raises InputError for classes that training never saw, and for images with too many boxes."""
        if not new.scenes:
            raise InputError(f"{new.origin} is empty; give more pictures, or another data.holdout.")
        self.classes = self.classes or new.classes
        index_of = [self.classes.index(name) if name in self.classes else -1 for name in new.classes]
        scenes = []
        for scene in new.scenes:
            if len(scene.boxes) > self.spec.most:
                raise InputError(
                    f"{new.origin}, {scene.name}, has {len(scene.boxes)} boxes and data.most is {self.spec.most}; set"
                    f" data.most={len(scene.boxes)} or more."
                )
            labels = np.array(index_of, np.int32)[scene.labels]
            if len(labels) and labels.min() < 0:
                unknown = new.classes[int(scene.labels[labels.argmin()])]
                known = join(self.classes)
                raise InputError(
                    f"{new.origin}, {scene.name}, has the class {unknown!r}, which training never saw; known are"
                    f" {known}."
                )
            scenes.append(dataclasses.replace(scene, labels=labels))
        if not any(len(scene.boxes) for scene in scenes):
            raise InputError(
                f"{new.origin} has no boxes; give one that has, for a data set by data.splits, such as ('train',"
                " 'validation')."
            )
        self.parts[part] = scenes
        self.notes.take(new.notes)

    def picture(self, part: PART, index: int) -> np.ndarray:
        """The original image of an example, (rows, columns, channels)."""
        scene = self.parts[part][index]
        source = scene.source
        if isinstance(source, Path):
            return decode(source, self.spec.channels, upright=scene.turned)
        examples, row = source
        image = examples[row]["image"]
        return (
            decode(image, self.spec.channels)
            if isinstance(image, bytes)
            else convert_channels(np.asarray(image), self.spec.channels)
        )

    def truths(self, part: PART) -> Sequence[Scene]:
        """The boxes of all images of a part as annotated; none for a part that is not there."""
        return self.parts.get(part, ())

    def show_example(self, part: PART, index: int) -> Figure:
        """The image as a figure."""
        return make_figure(self.picture(part, index))

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Requires grids and positions for images of the size."""
        del objective
        return need_cells(model, self.spec.size)

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `image` (b, rows, columns, channels), and `boxes` (b, most, 4), `box_labels`, `present` (b, most).

        A box is its centre (x, y) and its size (width, height).
        """

        def make_example(index: int, chance: np.random.Generator | None) -> Arrays:
            return self._make_example(self.picture(part, index), self.parts[part][index], chance)

        return of_examples(len(self.parts[part]), make_example, batch_size, multiple, seed)

    def _make_example(self, image: np.ndarray, scene: Scene, chance: np.random.Generator | None) -> Arrays:
        spec = self.spec
        some = ~scene.crowd
        boxes, labels = scene.boxes[some], scene.labels[some]
        if chance is None:
            image = resize(image, spec.size)
        else:
            view = spec.augment.draw_view(chance).snap(*image.shape[:2])
            image = spec.augment.change_colours(view.crop(image, spec.size), chance, geometry=False)
            seen = view.map_boxes(boxes)
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
        return {"image": normalise(image)} | placed

    def make_blank(self) -> Arrays:
        """The arrays of a grey image."""
        return {"image": np.zeros((*self.spec.size, self.spec.channels), np.float32)}

    def list_questions(self, inputs: Sequence[str]) -> list[str]:
        """The image files among files and in folders, read upright by their EXIF orientation."""
        return expand_files(inputs, self.notes)

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Batches of images to predict from, in their order."""

        def make_example(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            return {"image": normalise(resize(read_picture(asked[index], self.spec.channels), self.spec.size))}

        return of_examples(len(asked), make_example, batch_size, multiple)
