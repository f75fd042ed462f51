"""Tiny Shakespeare, 1.1 MB of plays for character language models, as a TFDS builder."""

from collections.abc import Iterator

import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import FILES, fetch_file
from train.data.sources import find_cut

NAME = "tinyshakespeare/input.txt"


class TinyShakespeare(tfds.core.GeneratorBasedBuilder):
    """`text`: one example for the first nine tenths (the training split), one for the rest (the test split)."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            license=FILES[NAME].licence,
            homepage="https://github.com/karpathy/char-rnn",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager
        text = fetch_file(NAME).read_text(encoding="ascii")
        cut = find_cut(len(text), 0.1)
        return {"train": self._generate_examples(text[:cut]), "test": self._generate_examples(text[cut:])}

    def _generate_examples(self, text: str) -> Iterator[KeyExample]:
        yield "text", {"text": text}
