"""Shakespeare's plays and poems, with four whole plays held out, as a TFDS builder."""

from collections.abc import Iterator

import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import PACKAGES, locate

FOLDER = "package:shakespeare/shksprdata/texts"
END = "_gut.txt"  # modern spelling; _gut_f.txt has the spelling of the First Folio
HELD = ("macbeth", "richard_ii", "tempest", "twelfth_night")  # a tragedy, a history, a romance, a comedy


class ShakespearePlays(tfds.core.GeneratorBasedBuilder):
    """`title` and `text` of 42 works, 5 MB; four plays are the test split."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"title": tfds.features.Text(), "text": tfds.features.Text()}),
            license=PACKAGES["shakespeare"].licence,
            homepage="https://www.gutenberg.org",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager  # the package index is the source
        return {"train": self._generate_examples(False), "test": self._generate_examples(True)}

    def _generate_examples(self, test: bool) -> Iterator[KeyExample]:
        for path in sorted(locate(FOLDER).glob(f"*{END}")):
            title = path.name.removesuffix(END)
            if (title in HELD) == test:
                yield title, {"title": title, "text": path.read_bytes().decode("latin-1").replace("\r\n", "\n").strip()}
