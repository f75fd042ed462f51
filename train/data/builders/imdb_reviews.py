"""Film reviews by users of IMDb, positive or negative, as a TFDS builder."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import FILES, fetch_file
from train.data.readers.archive import read_members

NAME = "imdb/aclImdb_v1.tar.gz"


class ImdbReviews(tfds.core.GeneratorBasedBuilder):
    """`text` and `label`, neg or pos: 25,000 / 25,000 reviews, the splits of the source, no film in both."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [tfds.core.BuilderConfig(name="plain_text")]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["neg", "pos"])}
            ),
            supervised_keys=("text", "label"),
            license=FILES[NAME].licence,
            homepage="https://ai.stanford.edu/~amaas/data/sentiment/",
            citation="Maas et al., Learning word vectors for sentiment analysis, ACL 2011 (P11-1015)",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager
        archive = fetch_file(NAME)
        return {part: self._generate_examples(archive, part) for part in ("train", "test")}

    def _generate_examples(self, archive: Path, part: str) -> Iterator[KeyExample]:
        for match, content in read_members(archive, rf"(?:\./)?aclImdb/{part}/(?P<label>neg|pos)/(?P<name>[^/]+)\.txt"):
            text = content.decode("utf-8").strip()
            yield f"{match['label']}/{match['name']}", {"text": text, "label": match["label"]}
