"""Numbers in English and French words, generated, as a TFDS builder."""

import dataclasses
import random
from collections.abc import Iterator

import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import PACKAGES

BELOW = 1_000_000


@dataclasses.dataclass(kw_only=True)
class Sizes(tfds.core.BuilderConfig):
    """The count of numbers in the training and test splits."""

    train: int = 20_000
    test: int = 1_000


class NumberWords(tfds.core.GeneratorBasedBuilder):
    """`source` in English and `target` in French: numbers below a million, none in both splits.

    20,000 / 1,000 of them, or 2,000 / 200 as `number_words/few`.  Generated.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [Sizes(name="whole"), Sizes(name="few", train=2_000, test=200)]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"source": tfds.features.Text(), "target": tfds.features.Text()}),
            supervised_keys=("source", "target"),
            license=PACKAGES["num2words"].licence,
            homepage="https://github.com/savoirfairelinux/num2words",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager  # nothing is fetched
        sizes = self.builder_config
        assert isinstance(sizes, Sizes)
        chosen = random.Random(0).sample(range(BELOW), sizes.train + sizes.test)
        parts = {"train": chosen[: sizes.train], "test": chosen[sizes.train :]}
        return {name: self._generate_examples(numbers) for name, numbers in parts.items()}

    def _generate_examples(self, numbers: list[int]) -> Iterator[KeyExample]:
        try:
            from num2words import num2words
        except ImportError:
            wanted = f"num2words=={PACKAGES['num2words'].version}"
            raise LookupError(
                f"number_words is made with the package num2words, which is absent; pip install {wanted}."
            ) from None
        for number in numbers:
            yield str(number), {"source": num2words(number, lang="en"), "target": num2words(number, lang="fr")}
