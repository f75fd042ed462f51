"""What the commands print for a person: values of examples and answers of objectives, short enough to read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train.cli import main
from train.commands.data import format_value
from train.commands.predict import format_answer
from train.objectives import MeanSquaredError, Quantiles, SetPrediction


@pytest.mark.slow
def test_of_a_picture_its_shape_kind_and_range_are_shown(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    assert main(["data", "show", "digit_scenes"]) == 0
    out = capsys.readouterr().out
    first = next(line for line in out.splitlines() if line.startswith("first"))
    assert "image: uint8 (64, 64, 1) from 0 to " in first
    assert "objects: {bbox: [[" in first
    assert len(out) < 1000
    assert main(["data", "show", "digit_scenes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"][0]["first"]["image"].startswith("uint8 (64, 64, 1) from 0 to ")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"a fine film", "a fine film"),
        (b"caf\xe9", "caf\ufffd"),
        (np.int64(3), "3"),
        (np.float32(0.1), "0.1"),
        (np.array([0.25, 0.123456789], np.float32), "[0.25    , 0.123457]"),
        (np.arange(9), "int64 (9,) from 0 to 8"),
        (np.linspace(-1, 1, 12).reshape(3, 4), "float64 (3, 4) from -1 to 1"),
        ({"a": np.zeros((2, 8), np.uint8), "b": b"c"}, "{a: uint8 (2, 8) from 0 to 0, b: c}"),
        ([b"word"] * 30, "30 values, the first word"),
        (np.zeros(0), "[]"),
    ],
)
def test_a_value_is_shown_whole_only_where_it_is_short(value: Any, words: str) -> None:
    assert format_value(value) == words


def test_a_forecast_is_a_line_of_rounded_numbers_for_each_quantile() -> None:
    ahead = np.random.default_rng(0).random((24, 1, 3)) * 1000
    lines = format_answer(Quantiles().answer(ahead, ())).splitlines()
    assert [line.split()[:2] for line in lines] == [["forecast", level] for level in ("0.1", "0.5", "0.9")]
    for place, line in enumerate(lines):
        np.testing.assert_allclose([float(number) for number in line.split()[2:]], ahead[:, 0, place], rtol=1e-3)
        assert len(line) < 200


def test_a_forecast_of_several_series_has_a_line_for_each() -> None:
    ahead = np.random.default_rng(0).random((4, 2, 3))
    lines = format_answer(Quantiles().answer(ahead, ())).splitlines()
    assert [line.split()[1:4] for line in lines[:2]] == [["0.1", "series", "1"], ["0.1", "series", "2"]]
    assert len(lines) == 6
    np.testing.assert_allclose([float(number) for number in lines[3].split()[4:]], ahead[:, 1, 1], rtol=1e-3)


def test_objects_are_told_with_their_places() -> None:
    logits, boxes = np.full((4, 2), -9.0), np.full((4, 4), 0.5)
    assert format_answer(SetPrediction().answer({"logits": logits, "boxes": boxes}, ("dog", "cat"))) == (
        "nothing found of objective.least 0.3 or more; the likeliest: dog 0.00 at left 0.250 top 0.250 right 0.750"
        " bottom 0.750"
    )
    logits[2, 1], logits[3, 0], boxes[2] = 2.0, 1.0, [0.5, 0.4, 0.2, 0.6]
    lines = format_answer(SetPrediction().answer({"logits": logits, "boxes": boxes}, ("dog", "cat"))).splitlines()
    assert [line.strip() for line in lines] == [
        "cat 0.88 at left 0.400 top 0.100 right 0.600 bottom 0.700",
        "dog 0.73 at left 0.250 top 0.250 right 0.750 bottom 0.750",
    ]


def test_several_values_are_rounded() -> None:
    assert format_answer(MeanSquaredError().answer(np.array([1 / 3, 2.0]), ())) == "value  0.3333 2"
