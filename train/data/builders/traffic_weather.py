"""Hourly traffic volume of a road, with the weather, as a TFDS builder."""

import csv
import io
import zipfile
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.published import PACKAGES, locate

ARCHIVE = "package:autots/autots/datasets/data/traffic_hourly.zip"
COLUMNS = {"vehicles": "traffic_volume", "kelvin": "temp", "clouds": "clouds_all", "rain": "rain_1h", "snow": "snow_1h"}


class TrafficWeather(tfds.core.GeneratorBasedBuilder):
    """`time`, `vehicles`, `kelvin`, `clouds` (percent), `rain` and `snow` (mm): 17,520 hours of Interstate 94.

    Traffic is westbound, near St Paul.  An example is a day of 24 hours.  Missing values are NaN.
    """

    VERSION = tfds.core.Version("2.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {"time": tfds.features.Tensor(shape=(24,), dtype=np.str_)}
                | {name: tfds.features.Tensor(shape=(24,), dtype=np.float32) for name in COLUMNS}
            ),
            disable_shuffling=True,
            license=PACKAGES["autots"].licence,
            homepage="https://archive.ics.uci.edu/dataset/492/metro+interstate+traffic+volume",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager  # the package index is the source
        return {"hours": self._generate_examples()}

    def _generate_examples(self) -> Iterator[KeyExample]:
        with zipfile.ZipFile(locate(ARCHIVE)) as archive:
            text = archive.read(archive.namelist()[0]).decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        for day in range(len(rows) // 24):
            hours = rows[24 * day : 24 * day + 24]
            numbers = {
                name: np.array([row[column] or "nan" for row in hours], np.float32) for name, column in COLUMNS.items()
            }
            yield day, {"time": [row["datetime"] for row in hours]} | numbers
