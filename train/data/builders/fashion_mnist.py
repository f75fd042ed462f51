"""Fashion-MNIST, grey images of clothes of 28 x 28 pixels, as a TFDS builder."""

import gzip
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import FILES, fetch_file

FOLDER = "fashion-mnist"
CLOTHES = ["t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]


class FashionMnist(tfds.core.GeneratorBasedBuilder):
    """`image` (28, 28, 1) and `label`, one of ten kinds of clothes: 60,000 / 10,000.  arXiv:1708.07747."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(names=CLOTHES),
                }
            ),
            supervised_keys=("image", "label"),
            license=FILES[f"{FOLDER}/train-images-idx3-ubyte.gz"].licence,
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            citation="Xiao, Rasul, Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning"
            " algorithms, 2017",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager
        return {"train": self._generate_examples("train"), "test": self._generate_examples("t10k")}

    def _generate_examples(self, part: str) -> Iterator[KeyExample]:
        images, labels = (
            gzip.decompress(fetch_file(f"{FOLDER}/{part}-{kind}-ubyte.gz").read_bytes())
            for kind in ("images-idx3", "labels-idx1")
        )
        pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1)
        for number, (image, label) in enumerate(zip(pixels, labels[8:], strict=True)):
            yield f"{number:05}", {"image": image, "label": label}
