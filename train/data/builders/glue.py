"""SST-2 of GLUE, positive and negative sentences from film reviews, as a TFDS builder."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import FILES, fetch_file
from train.data.readers.archive import read_members

NAME = "glue/SST-2.zip"
PARTS = {"train": "train", "validation": "dev"}


class Glue(tfds.core.GeneratorBasedBuilder):
    """`glue/sst2`: `sentence`, `label` and the row `idx` of its file, as in the TFDS catalogue: 67,349 / 872.

    The labels of GLUE's test split are not public, so it is left out; models are tested on the validation split.
    arXiv:1804.07461.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [tfds.core.BuilderConfig(name="sst2")]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "sentence": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=["negative", "positive"]),
                    "idx": np.int32,
                }
            ),
            supervised_keys=("sentence", "label"),
            license=FILES[NAME].licence,
            homepage="https://nlp.stanford.edu/sentiment/index.html",
            citation="Socher et al., Recursive deep models for semantic compositionality over a sentiment treebank,"
            " EMNLP 2013 (D13-1170)",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager
        archive = fetch_file(NAME)
        return {part: self._generate_examples(archive, name) for part, name in PARTS.items()}

    def _generate_examples(self, archive: Path, name: str) -> Iterator[KeyExample]:
        for _, content in read_members(archive, rf"SST-2/{name}\.tsv"):
            rows = csv.DictReader(
                io.StringIO(content.decode("utf-8"), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE
            )
            for number, row in enumerate(rows):
                yield number, {"sentence": row["sentence"].strip(), "label": int(row["label"]), "idx": number}
