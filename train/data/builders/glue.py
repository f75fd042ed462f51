"""Sentences from film reviews that people called positive or negative, the task SST-2 of GLUE, as a TFDS builder."""

import csv
import io
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from train.data.published import FILES, file
from train.data.readers.archive import members

NAME = "glue/SST-2.zip"
PARTS = {"train": "train", "validation": "dev"}


class Glue(tfds.core.GeneratorBasedBuilder):
    """`glue/sst2`: `sentence`, `label` and the place `idx` in its file, 67,349 / 872, with the columns of the
    catalogue.

    The labels of GLUE's test part are not public, so it is left out, and the validation split is what is tested on.
    arXiv:1804.07461.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[Any]] = [tfds.core.BuilderConfig(name="sst2")]

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

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        archive = file(NAME)
        return {part: self._generate_examples(archive, name) for part, name in PARTS.items()}

    def _generate_examples(self, archive: Any, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for _, content in members(archive, rf"SST-2/{name}\.tsv"):
            rows = csv.DictReader(
                io.StringIO(content.decode("utf-8"), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE
            )
            for number, row in enumerate(rows):
                yield number, {"sentence": row["sentence"].strip(), "label": int(row["label"]), "idx": number}
