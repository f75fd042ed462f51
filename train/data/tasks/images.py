"""Pictures with a class each."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from models.contracts import Model
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches, of_examples
from train.data.needs import cells
from train.data.readers.pixels import (
    asked_picture,
    centred,
    decoded,
    decodes,
    files,
    in_channels,
    resized,
    scaled,
    shown_picture,
    upright,
)
from train.data.tasks.classed import Classed, OpenedClassed, filled
from train.data.transforms.augment import Augment
from train.page import Figure


@dataclasses.dataclass(frozen=True)
class Images(Classed):
    """Pictures with a class each, from a data set by name or from the user's own folders.

    `path` and `test` are folders with one folder of pictures a class; without `test` a part `holdout` of `path`, chosen
    by the md5 of the pictures' names, is held out.  Every picture is turned as its EXIF orientation says, cut to the
    middle of the shape of `size` (rows, columns), resized to it, and seen in one grey or three colour `channels` from
    -1 to 1.  `augment` changes those of the training part. `labels` fixes the classes' order.
    """

    column: ClassVar[str] = "image"
    noun: ClassVar[str] = "pictures"
    kinds: ClassVar[tuple[str, ...]] = ()
    read: ClassVar[Callable[[Path], Any]] = decodes
    extents: ClassVar[Callable[[Path], tuple[int, int]]] = upright

    dataset: str = "fashion_mnist"
    image: str = "image"
    channels: Literal[1, 3] = 1
    augment: Augment = Augment()

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedImages":
        """Both splits (or the one asked for), found and checked.  Raises InputError for what cannot be used."""
        return filled(self.reader(classes), only)

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedImages":
        """Ready for pictures to predict from, without the data."""
        return OpenedImages(self, classes)


class OpenedImages(OpenedClassed):
    """See `train.contracts.Dataset`."""

    def __init__(self, spec: Images, classes: tuple[str, ...]) -> None:
        super().__init__(spec, classes)
        self.spec = spec
        self.draft = (spec.size[1] * 2, spec.size[0] * 2)  # of columns and rows no more are decoded than are of use

    def picture(self, part: PART, index: int) -> np.ndarray:
        """A picture of a split as it is, a file's upright, (rows, columns, channels)."""
        file, content = self.content(part, index)
        if file is not None:
            return decoded(file, self.spec.channels, self.draft, upright=True)
        return in_channels(np.asarray(content), self.spec.channels)

    def shown(self, part: PART, index: int) -> Figure:
        """The picture."""
        return shown_picture(self.picture(part, index))

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Grids and positions for pictures of the size."""
        del objective
        return cells(model, self.spec.size)

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `image` (b, rows, columns, channels) and `labels` (b,); `targets` (b, c) where pictures are
        mixed.
        """
        spec = self.spec

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            image = centred(self.picture(part, index), spec.size)
            if chance is not None:
                image = spec.augment.colours(spec.augment.view(chance).pixels(image, spec.size), chance)
            return {"image": scaled(resized(image, spec.size)), "labels": np.array(self.label(part, index), np.int32)}

        mix = spec.augment.mixture(len(self.classes), "image")
        count, sampler = len(self.splits[part].examples), self.sampler(part, seed)
        return of_examples(count, one, batch_size, multiple, seed, mix, sampler)

    def asked(self, given: Sequence[str]) -> list[str]:
        """The pictures that files and folders name."""
        return self.taken(files(given, self.notes))

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Pictures to predict from, in their order."""
        spec = self.spec

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            return {
                "image": scaled(
                    resized(centred(asked_picture(asked[index], spec.channels, self.draft), spec.size), spec.size)
                )
            }

        return of_examples(len(asked), one, batch_size, multiple)
