"""Drives of experts on a simulated highway, as a TFDS builder."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import KeyExample, SplitGenerator

from train.data.simulators.highway import FEATURES, STEPS, Highway, Style, drive

EXPERT, MIXED, TINY = "expert", "mixed", "tiny"
SIZES = {EXPERT: {"train": 60, "test": 6}, MIXED: {"train": 60, "test": 6}, TINY: {"train": 3, "test": 1}}
DRIVERS = 8  # in a simulation


class HighwayDrives(tfds.core.GeneratorBasedBuilder):
    """`features` (t, 31), `actions` (t, 2), acceleration and steering, and `rewards` (t,).

    Features are those of `train.data.simulators.highway.observe`.

    60 / 6 simulations of highway-env with 8 drivers and 12 other vehicles, 200 steps of a fifth of a second or until a
    crash.  `expert`: all desire 30 m/s, and noise pushes two in three off their course, who log the actions by which
    they intend to return (DART, arXiv:1703.09327).  `mixed`: each has its own desired speed and readiness to change
    lanes, and noise also changes its speed.  `tiny` is `mixed` with 3 / 1 simulations of 50 steps.  Generated.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in SIZES]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "features": tfds.features.Tensor(shape=(None, FEATURES), dtype=np.float32),
                    "actions": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
                    "rewards": tfds.features.Tensor(shape=(None,), dtype=np.float32),
                }
            ),
            license="highway-env 1.12.1: MIT, E. Leurent; the drives are nobody's",
            homepage="https://github.com/Farama-Foundation/HighwayEnv",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, SplitGenerator]:
        del dl_manager  # nothing is fetched
        return {part: self._generate_examples(part) for part in ("train", "test")}

    def _generate_examples(self, part: str) -> Iterator[KeyExample]:
        kind = self.builder_config.name if self.builder_config is not None else EXPERT
        for number in range(SIZES[kind][part]):
            chance = np.random.default_rng((number, part == "test"))
            highway = Highway(part, number, [draw_style(kind, chance) for _ in range(DRIVERS)])
            for driver, trip in enumerate(drive([highway], steps=50 if kind == TINY else STEPS)):
                rewards = np.array(trip.rewards, np.float32)
                yield (
                    f"{number:03}_{driver}",
                    {"features": np.stack(trip.features), "actions": np.stack(trip.actions), "rewards": rewards},
                )


def draw_style(kind: str, chance: np.random.Generator) -> Style:
    """Draws the driving style of a driver."""
    steering = float(chance.choice([0.0, 0.06, 0.12]))
    if kind == EXPERT:
        return Style(noise=(2 * steering, steering))
    noise = float(chance.choice([0.1, 0.3, 0.5])), steering
    return Style(float(chance.uniform(18, 30)), float(chance.uniform(0.7, 2.0)), float(chance.uniform(0, 1)), noise)
