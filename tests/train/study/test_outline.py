"""The outline of a study: its trials, their time, and costs, before anything is trained."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.places import CONFIGS
from train.cli import main
from train.cost.value import Cost
from train.study.compare import Entry
from train.study.outline import count_trials, describe_trials, estimate_times
from train.variants import BASELINE, Study

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
STUDY = Study(LANGUAGE_MODEL, overrides=("steps=8",), grid=("seed=1", "seed=2"), tuning_seeds=2, most=9)
ENTRIES = [
    Entry(BASELINE, ("steps=8",), cost=Cost(10, 100)),
    Entry("good", ("steps=8",), cost=Cost(10, 100)),
    Entry("bad", (), out="a reason"),
]


@pytest.fixture(autouse=True)
def _inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)


def test_trials_are_those_of_tuning_and_of_the_seeds_and_their_time_is_that_of_steps() -> None:
    assert count_trials(STUDY, ENTRIES) == (2 * (4 + 3), 2 * (4 + 9))
    assert count_trials(dataclasses.replace(STUDY, seeds=5), ENTRIES) == (18, 18)
    assert count_trials(STUDY, ENTRIES[:1]) == (0, 0)
    seconds = {BASELINE: 1.0, "good": 3.0}
    assert estimate_times(STUDY, ENTRIES, seconds, 4) == (4 * 8 * 2.0, 7 * 8 * 2.0)
    assert describe_trials(STUDY, ENTRIES, seconds, 4).startswith("14 to 26 trials, 4 at a time: about ")


@pytest.mark.slow
def test_the_command_prints_costs_and_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "compare",
        LANGUAGE_MODEL,
        "steps=4",
        "parallel=Jit()",
        "--vary",
        "deep=model.stack.repeats=2",
        "--match",
        "none",
    ]
    words += ["--seeds", "2", "--plan", "--to", str(tmp_path / "study")]
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["trials"] == [4, 4]
    baseline, deep = (entry["cost"] for entry in plan["entries"])
    assert deep["state"] == 2 * baseline["state"]
    assert deep["activations"] > 0
    assert all(entry["step_seconds"] > 0 for entry in plan["entries"])
    assert main(words) == 0
    assert "state of a row" in capsys.readouterr().out
    assert not (tmp_path / "study").exists()
