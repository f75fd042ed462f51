"""Every baseline that configs are measured against runs, on the first examples of its data, and gives what the tables
name.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.baselines.__main__ import BASELINES
from tests.benchmarks.baselines.series import forecasts
from tests.end_to_end.short import FAST
from train.config import list_configs, load_config
from train.data.sources import open_dataset

SMALLER = {
    "highway_manoeuvres/whole": "few",
    "moving_digits": "few",
    "highway_drives/expert": "tiny",
    "highway_drives/mixed": "tiny",
}


@pytest.mark.usefixtures("standins")
@pytest.mark.represented_by(*FAST)
@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_gives_finite_measures(name: str) -> None:
    baseline: Any = BASELINES[name]
    (data,) = baseline.args
    if data in SMALLER:
        data = f"{data.split('/')[0]}/{SMALLER[data]}"
    most = {"characters": 20_000, "forecasts": 400, "drives": 3, "decisions": 3}.get(baseline.func.__name__, 200)
    found = baseline.func(data, most)
    assert name in list_configs()
    assert found
    assert all(math.isfinite(value) for measures in found.values() for value in measures.values())


def test_last_week_s_value_is_that_of_the_hour_to_forecast(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    data: Any = load_config("traffic_weather", [])[0].data
    split = open_dataset(data.dataset, data.split)
    hours = np.concatenate(
        [np.atleast_1d(split.examples[index]["vehicles"]) for index in range(len(split.examples))]
    ).astype(float)
    first = len(hours) - round(data.holdout * len(hours))
    late = np.abs(hours[first:] - hours[first - 168 : -168])
    found = forecasts("traffic_weather")["168 steps before"]
    # but for hours that are missing
    assert found["mae_1"] == pytest.approx(np.nanmean(late[: 1 - data.horizon]), rel=2e-3)
