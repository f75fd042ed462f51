"""Sentences from film reviews with the mean of 20 people's sentiment scores, as a TFDS builder."""

import hashlib
import tarfile
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import PACKAGES, locate

ARCHIVE = "package:vaderSentiment/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
NEUTRAL = 0.5  # closer to zero than this is neither positive nor negative


class MovieSnippets(tfds.core.GeneratorBasedBuilder):
    """`text`, its mean `score` in [-4, 4] and its `label`.

    Duplicates are dropped; a fifth of the sentences, chosen by their md5, is the test split.  The configuration
    `labels` leaves out scores closer to zero than 0.5; `scores` has all sentences.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="labels", description="Clearly positive or negative sentences: 8,021 / 2,049."),
        tfds.core.BuilderConfig(name="scores", description="All sentences."),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "score": np.float32,
                    "label": tfds.features.ClassLabel(names=["negative", "positive"]),
                }
            ),
            supervised_keys=("text", "label"),
            license=PACKAGES["vaderSentiment"].licence,
            citation="Hutto and Gilbert, VADER: a parsimonious rule-based model for sentiment analysis of social"
            " media text, ICWSM 2014",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager  # the package index is the source
        return {"train": self._generate_examples(False), "test": self._generate_examples(True)}

    def _generate_examples(self, test: bool) -> Iterator[KeyExample]:
        with tarfile.open(locate(ARCHIVE)) as archive:
            member = archive.extractfile(MEMBER)
            assert member is not None
            lines = member.read().decode("latin-1").splitlines()
        seen: set[str] = set()
        clear = self.builder_config is not None and self.builder_config.name == "labels"
        for line in lines:
            key, score, text = line.split("\t", 2)
            text = text.strip()
            if text in seen or (clear and abs(float(score)) < NEUTRAL):
                continue
            seen.add(text)
            if (int(hashlib.md5(text.encode()).hexdigest(), 16) % 5 == 0) == test:
                yield key, {"text": text, "score": float(score), "label": int(float(score) > 0)}
