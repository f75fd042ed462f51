"""Clips of video with a class each."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from models.contracts import Model
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches, of_examples
from train.data.needs import cells
from train.data.readers.pixels import centred, files, filmstrip, in_channels, resized, scaled, shown_picture
from train.data.readers.videos import KINDS, counted, decoded, sampled, upright
from train.data.tasks.classed import Classed, OpenedClassed, filled
from train.data.transforms.augment import Augment
from train.errors import InputError
from train.page import Figure


@dataclasses.dataclass(frozen=True)
class Clips(Classed):
    """Clips of video with a class each, from a data set by name or from the user's own folders.

    `path` and `test` are folders with one folder of videos a class; without `test` a part `holdout` of `path`, chosen
    by the md5 of the videos' names, is held out.  Of each clip `frames` are seen, evenly over all of it; in training
    over a part `span` of it that starts at random.  A clip that has fewer repeats its last one.  Frames are cut to the
    middle of the shape of `size` (rows, columns), resized to it, and seen in one grey or three colour `channels` from
    -1 to 1.  `augment` changes the clips of the training part, all frames of one alike.  It does not mirror them unless
    told to: what moves to the left would move to the right and keep its class.
    """

    column: ClassVar[str] = "video"
    noun: ClassVar[str] = "videos"
    kinds: ClassVar[tuple[str, ...]] = KINDS
    read: ClassVar[Callable[[Path], Any]] = counted
    extents: ClassVar[Callable[[Path], tuple[int, int]]] = upright

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
        """Both splits (or the one asked for), found and checked.  Raises InputError for what cannot be used."""
        return filled(self.reader(classes), only)

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedClips":
        """Ready for clips to predict from, without the data."""
        return OpenedClips(self, classes)


class OpenedClips(OpenedClassed):
    """See `train.contracts.Dataset`."""

    def __init__(self, spec: Clips, classes: tuple[str, ...]) -> None:
        super().__init__(spec, classes)
        self.spec = spec

    def clip(self, part: PART, index: int, chance: np.random.Generator | None = None) -> list[np.ndarray]:
        """The frames of a clip that are seen, as they are, each (rows, columns, channels)."""
        spec, (file, content) = self.spec, self.content(part, index)
        if file is not None:
            return decoded(file, spec.channels, sampled(content, spec.frames, spec.span, chance))
        video = np.asarray(content)
        return list(in_channels(video[sampled(len(video), spec.frames, spec.span, chance)], spec.channels))

    def seen(self, frames: Sequence[np.ndarray], chance: np.random.Generator | None = None) -> np.ndarray:
        """Frames as the model reads them, (frames, rows, columns, channels); by chance as training may see them."""
        spec, made = self.spec, [centred(frame, self.spec.size) for frame in frames]
        if chance is not None:
            # what is drawn for one frame is drawn for all
            view, same = spec.augment.view(chance), int(chance.integers(2**32))
            made = [spec.augment.colours(view.pixels(frame, spec.size), np.random.default_rng(same)) for frame in made]
        return scaled(np.stack([resized(frame, spec.size) for frame in made]))

    def shown(self, part: PART, index: int) -> Figure:
        """The frames in a row."""
        return shown_picture(
            filmstrip([resized(centred(frame, self.spec.size), self.spec.size) for frame in self.clip(part, index)]), 64
        )

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Grids and positions for so many frames of the size."""
        del objective
        return cells(model, (self.spec.frames, *self.spec.size))

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of `video` (b, frames, rows, columns, channels) and `labels` (b,); `targets` (b, c) where clips are
        mixed.
        """

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            return {
                "video": self.seen(self.clip(part, index, chance), chance),
                "labels": np.array(self.label(part, index), np.int32),
            }

        mix = self.spec.augment.mixture(len(self.classes), "video")
        count, sampler = len(self.splits[part].examples), self.sampler(part, seed)
        return of_examples(count, one, batch_size, multiple, seed, mix, sampler)

    def asked(self, given: Sequence[str]) -> list[str]:
        """The videos that files and folders name."""
        return self.taken(files(given, self.notes, KINDS, "videos", counted))

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Videos to predict from, in their order."""
        spec = self.spec

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            path = Path(asked[index])
            try:
                return {"video": self.seen(decoded(path, spec.channels, sampled(counted(path), spec.frames)))}
            except ValueError as error:
                raise InputError(f"{path} cannot be read as a video: {error}; give a file such as an MP4.") from None

        return of_examples(len(asked), one, batch_size, multiple)
