"""Multi30K, English image descriptions and their German or French translations, as a TFDS builder."""

import gzip
from collections.abc import Iterator
from typing import ClassVar

import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import FILES, fetch_file

PARTS = {"train": "train", "validation": "val", "test": "test_2016_flickr"}


class Multi30K(tfds.core.GeneratorBasedBuilder):
    """`source` and `target`: 29,000 / 1,014 / 1,000 sentences, with the test split of 2016.

    Configurations `multi30k/en-de`, `de-en`, `en-fr`, `fr-en`.
    """

    name = "multi30k"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name=name) for name in ("en-de", "de-en", "en-fr", "fr-en")
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"source": tfds.features.Text(), "target": tfds.features.Text()}),
            supervised_keys=("source", "target"),
            license=FILES["multi30k/train.en.gz"].licence,
            homepage="https://github.com/multi30k/dataset",
            citation="Elliott et al., Multi30K: Multilingual English-German Image Descriptions, VL 2016 (W16-3210)",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager
        return {part: self._generate_examples(name) for part, name in PARTS.items()}

    def _generate_examples(self, name: str) -> Iterator[KeyExample]:
        assert self.builder_config is not None
        languages = self.builder_config.name.split("-")
        both = [
            gzip.decompress(fetch_file(f"multi30k/{name}.{language}.gz").read_bytes()).decode()
            for language in languages
        ]
        sides = [text.removesuffix("\n").split("\n") for text in both]
        for number, (source, target) in enumerate(zip(*sides, strict=True)):
            yield str(number), {"source": source.strip(), "target": target.strip()}
