"""Video classification data."""

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
    expand_files,
    join_frames,
    make_figure,
    normalise,
    resize,
)
from train.data.readers.videos import KINDS, choose_frames, count_frames, decode, read_extents
from train.data.tasks.classed import Classed, OpenedClassed, add_parts
from train.data.transforms.augment import Augment
from train.errors import InputError
from train.page import Figure


@dataclasses.dataclass(frozen=True)
class Clips(Classed):
    """Video clips with a class each, from a data set by name or from the user's own folders.

    `path` and `test` are folders with a folder of videos for each class; unless `test` is given, the fraction `holdout`
    of `path`, chosen by the md5 of the file names, is held out.  From each clip `frames` are taken evenly; in training
    from a fraction `span` of it with a random start.  A clip with fewer frames repeats its last.  Frames are cropped
    around their centre to the aspect ratio of `size` (rows, columns), resized to it, and read in one grey or three
    colour `channels` from -1 to 1.  `augment` changes clips of the training part, all frames of a clip alike.  It
    mirrors them only if set to: movement to the left would become movement to the right with the same class.
    """

    column: ClassVar[str] = "video"
    noun: ClassVar[str] = "videos"
    kinds: ClassVar[tuple[str, ...]] = KINDS
    read: ClassVar[Callable[[Path], object]] = count_frames
    extents: ClassVar[Callable[[Path], tuple[int, int]]] = read_extents

    dataset: str = "moving_digits"
    video: str = "video"
    size: tuple[int, int] = (32, 32)
    frames: int = 8
    span: float = 1.0
    channels: Literal[1, 3] = 1
    augment: Augment = Augment()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 1 or not 0 < self.span <= 1:
            raise ValueError(
                f"Clips has frames {self.frames} and span {self.span}; give 1 frame or more, and a part above 0, up"
                " to 1."
            )

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedClips":
        """Opens both splits (or the one asked for).  Raises InputError for data that cannot be used."""
        return add_parts(self.reader(classes), only)

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedClips":
        """The data set without examples, ready for clips to predict from."""
        return OpenedClips(self, classes)


class OpenedClips(OpenedClassed):
    """The opened data set of `Clips`, a `train.contracts.Dataset`."""

    def __init__(self, spec: Clips, classes: tuple[str, ...]) -> None:
        super().__init__(spec, classes)
        self.spec = spec

    def clip(self, part: PART, index: int, chance: np.random.Generator | None = None) -> list[np.ndarray]:
        """The original frames that are taken from a clip, each (rows, columns, channels)."""
        spec = self.spec
        file, content = self.find_content(part, index)
        if file is not None:
            assert isinstance(content, int)
            return decode(file, spec.channels, choose_frames(content, spec.frames, spec.span, chance))
        video = np.asarray(content)
        return list(convert_channels(video[choose_frames(len(video), spec.frames, spec.span, chance)], spec.channels))

    def prepare(self, frames: Sequence[np.ndarray], chance: np.random.Generator | None = None) -> np.ndarray:
        """Crops, resizes and normalises frames to (frames, rows, columns, channels); augments them with `chance`."""
        spec = self.spec
        cropped = [crop_centre(frame, spec.size) for frame in frames]
        if chance is not None:
            # all frames share the random numbers of the first
            view = spec.augment.draw_view(chance)
            seed = int(chance.integers(2**32))
            views = [view.crop(frame, spec.size) for frame in cropped]
            cropped = [spec.augment.change_colours(frame, np.random.default_rng(seed)) for frame in views]
        return normalise(np.stack([resize(frame, spec.size) for frame in cropped]))

    def show_example(self, part: PART, index: int) -> Figure:
        """The frames side by side as a figure."""
        return make_figure(
            join_frames(
                [resize(crop_centre(frame, self.spec.size), self.spec.size) for frame in self.clip(part, index)]
            ),
            64,
        )

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Requires grids and positions for the frames and their size."""
        del objective
        return need_cells(model, (self.spec.frames, *self.spec.size))

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `video` (b, frames, rows, columns, channels), `labels` (b,), `targets` (b, c) if clips are mixed.

        Videos and labels have one example a row.
        """

        def make_example(index: int, chance: np.random.Generator | None) -> Arrays:
            return {
                "video": self.prepare(self.clip(part, index, chance), chance),
                "labels": np.array(self.read_label(part, index), np.int32),
            }

        mix = self.spec.augment.make_mix(len(self.classes), "video")
        count = len(self.splits[part].examples)
        return of_examples(count, make_example, batch_size, multiple, seed, mix, self.make_sampler(part, seed))

    def make_blank(self) -> Arrays:
        """The arrays of a grey clip."""
        return {"video": np.zeros((self.spec.frames, *self.spec.size, self.spec.channels), np.float32)}

    def list_questions(self, inputs: Sequence[str]) -> list[str]:
        """The video files among files and in folders."""
        return self.take_files(expand_files(inputs, self.notes, KINDS, "videos", count_frames))

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Batches of videos to predict from, in their order."""
        spec = self.spec

        def make_example(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            path = Path(asked[index])
            try:
                return {
                    "video": self.prepare(decode(path, spec.channels, choose_frames(count_frames(path), spec.frames)))
                }
            except ValueError as error:
                raise InputError(f"{path} cannot be read as a video: {error}; give a file such as an MP4.") from None

        return of_examples(len(asked), make_example, batch_size, multiple)
