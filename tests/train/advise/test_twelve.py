"""Twelve data sets, given as files: what is recommended is within an interval of the best, at a quarter of the cost."""

import json
import math
from pathlib import Path

import pytest

from tests.train.advise.twelve import CASES, RECORD
from train.advise.advice import advise
from train.advise.sentences import describe_advice, measure

BASELINE = ("shuffled_iris",)  # where no method can be better
BEST = json.loads(RECORD.read_text())  # by `python -m tests.train.advise.twelve`


def hush(text: str) -> None:
    del text


@pytest.mark.slow
@pytest.mark.parametrize("name", BEST)
def test_the_recommendation_is_within_an_interval_of_the_best_of_everything(tmp_path: Path, name: str) -> None:
    best = BEST[name]
    advice = advise(CASES[name].find(tmp_path), math.inf, hush)
    value, half = measure(advice, advice.chosen)
    lost = best["value"] - value if advice.greater else value - best["value"]
    assert lost <= max(half, best["half"]), (advice.chosen.name, value, best)
    assert sum(trial.work for trial in advice.trials) <= advice.everything / 4
    if name in BASELINE:
        assert advice.chosen.kind == "baseline"
        assert "Nothing that was tried is shown to be better than this baseline." in describe_advice(advice)
