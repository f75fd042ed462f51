"""CIFAR-10, colour images of vehicles and animals of 32 x 32 pixels, as a TFDS builder."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import FILES, fetch_file
from train.data.readers.archive import read_members

NAME = "cifar/cifar-10-binary.tar.gz"
KINDS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PARTS = {"train": "data_batch_[1-5]", "test": "test_batch"}
PIXELS = 32 * 32 * 3


class Cifar10(tfds.core.GeneratorBasedBuilder):
    """`image` (32, 32, 3) and `label`, one of ten kinds: 50,000 / 10,000, the splits of the source."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(32, 32, 3), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(names=KINDS),
                }
            ),
            supervised_keys=("image", "label"),
            license=FILES[NAME].licence,
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            citation="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager
        archive = fetch_file(NAME)
        return {part: self._generate_examples(archive, names) for part, names in PARTS.items()}

    def _generate_examples(self, archive: Path, names: str) -> Iterator[KeyExample]:
        for match, content in read_members(archive, rf"cifar-10-batches-bin/(?P<name>{names})\.bin"):
            if len(content) % (1 + PIXELS):
                raise OSError(
                    f"{archive} is damaged ({match[0]} has {len(content):,} bytes); remove it to fetch it again."
                )
            # a label, then the red, green and blue planes row by row
            rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
            for number, row in enumerate(rows):
                image = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                yield f"{match['name']}-{number:05}", {"image": image, "label": int(row[0])}
