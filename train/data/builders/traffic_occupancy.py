"""Hourly occupancy rates of twenty road sensors, as a TFDS builder."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import PACKAGES, locate

TABLE = "package:imputegap/imputegap/datasets/traffic.txt"
SENSORS = [f"sensor_{number:02}" for number in range(20)]


class TrafficOccupancy(tfds.core.GeneratorBasedBuilder):
    """`sensor_00` to `sensor_19`, the fraction of each hour with a vehicle on the sensor: 17,544 hours, San Francisco.

    Roads around San Francisco in 2015 and 2016 (PeMS).  An example is a day of 24 hours.
    """

    VERSION = tfds.core.Version("2.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {name: tfds.features.Tensor(shape=(24,), dtype=np.float32) for name in SENSORS}
            ),
            disable_shuffling=True,
            license=PACKAGES["imputegap"].licence,
            homepage="https://pems.dot.ca.gov",
            citation="Lai et al., Modeling long- and short-term temporal patterns with deep neural networks, SIGIR"
            " 2018 (arXiv:1703.07015)",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager  # the package index is the source
        return {"hours": self._generate_examples()}

    def _generate_examples(self) -> Iterator[KeyExample]:
        table = np.loadtxt(locate(TABLE), dtype=np.float32)
        for day, hours in enumerate(table.reshape(-1, 24, len(SENSORS))):
            yield day, dict(zip(SENSORS, hours.T, strict=True))
