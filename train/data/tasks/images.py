"""Image classification data."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from models.contracts import Model
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches, of_examples
from train.data.needs import need_cells
from train.data.readers.pixels import (
    convert_channels,
    crop_centre,
    decode,
    expand_files,
    make_figure,
    normalise,
    read_extents,
    read_picture,
    require_decodable,
    resize,
)
from train.data.tasks.classed import Classed, OpenedClassed, add_parts
from train.data.transforms.augment import Augment
from train.page import Figure


@dataclasses.dataclass(frozen=True)
class Images(Classed):
    """Images with a class each, from a data set by name or from the user's own folders.

    `path` and `test` are folders with a folder of images for each class; unless `test` is given, the fraction `holdout`
    of `path`, chosen by the md5 of the file names, is held out.  Every image is turned by its EXIF orientation, cropped
    around its centre to the aspect ratio of `size` (rows, columns), resized to it, and read in one grey or three colour
    `channels` from -1 to 1.  `augment` changes images of the training part.  `labels` fixes the order of the classes.
    """

    column: ClassVar[str] = "image"
    noun: ClassVar[str] = "pictures"
    kinds: ClassVar[tuple[str, ...]] = ()
    read: ClassVar[Callable[[Path], object]] = require_decodable
    extents: ClassVar[Callable[[Path], tuple[int, int]]] = read_extents

    dataset: str = "fashion_mnist"
    image: str = "image"
    channels: Literal[1, 3] = 1
    augment: Augment = Augment()

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedImages":
        """Opens both splits (or the one asked for).  Raises InputError for data that cannot be used."""
        return add_parts(self.reader(classes), only)

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedImages":
        """The data set without examples, ready for images to predict from."""
        return OpenedImages(self, classes)


class OpenedImages(OpenedClassed):
    """The opened data set of `Images`, a `train.contracts.Dataset`."""

    def __init__(self, spec: Images, classes: tuple[str, ...]) -> None:
        super().__init__(spec, classes)
        self.spec = spec
        self.draft = (spec.size[1] * 2, spec.size[0] * 2)  # columns and rows that decoding a JPEG may shrink to

    def picture(self, part: PART, index: int) -> np.ndarray:
        """The original image of an example, upright if from a file, (rows, columns, channels)."""
        file, content = self.find_content(part, index)
        if file is not None:
            return decode(file, self.spec.channels, self.draft, upright=True)
        return convert_channels(np.asarray(content), self.spec.channels)

    def show_example(self, part: PART, index: int) -> Figure:
        """The image as a figure."""
        return make_figure(self.picture(part, index))

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Requires grids and positions for images of the size."""
        del objective
        return need_cells(model, self.spec.size)

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `image` (b, rows, columns, channels) and `labels` (b,); `targets` (b, c) if images are mixed."""
        spec = self.spec

        def make_example(index: int, chance: np.random.Generator | None) -> Arrays:
            image = crop_centre(self.picture(part, index), spec.size)
            if chance is not None:
                image = spec.augment.change_colours(spec.augment.draw_view(chance).crop(image, spec.size), chance)
            return {
                "image": normalise(resize(image, spec.size)),
                "labels": np.array(self.read_label(part, index), np.int32),
            }

        mix = spec.augment.make_mix(len(self.classes), "image")
        count = len(self.splits[part].examples)
        return of_examples(count, make_example, batch_size, multiple, seed, mix, self.make_sampler(part, seed))

    def make_blank(self) -> Arrays:
        """The arrays of a grey image."""
        return {"image": np.zeros((*self.spec.size, self.spec.channels), np.float32)}

    def list_questions(self, inputs: Sequence[str]) -> list[str]:
        """The image files among files and in folders."""
        return self.take_files(expand_files(inputs, self.notes))

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Batches of images to predict from, in their order."""
        spec = self.spec

        def make_example(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            image = crop_centre(read_picture(asked[index], spec.channels, self.draft), spec.size)
            return {"image": normalise(resize(image, spec.size))}

        return of_examples(len(asked), make_example, batch_size, multiple)
