"""Tasks made by a rule have the answers that the rule says."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.synthetic import CASES, EASIER, TASKS
from train.cli import main
from train.config import load_config
from train.data.tasks.synthetic import Recall, SelectiveCopy
from train.errors import InputError


def recalled(tokens: np.ndarray, spec: Recall) -> dict[int, int]:
    """The value of every key, read off one row."""
    return {int(tokens[2 * pair]): int(tokens[2 * pair + 1]) for pair in range(spec.pairs)}


def test_every_key_is_asked_once_and_its_value_is_the_label() -> None:
    spec = Recall(pairs=4, length=20, vocab=30)
    batch = spec.open().batches("train", 16, 1, 0)[3]
    for tokens, labels, weights in zip(batch["tokens"], batch["labels"], batch["weights"], strict=True):
        answers, asked = recalled(tokens, spec), np.flatnonzero(weights)
        assert len(answers) == len(asked) == 4
        assert asked.min() >= 8
        assert {int(tokens[place]): int(labels[place]) for place in asked} == answers
        assert (tokens[8:][weights[8:] == 0] >= 20).all()


def test_what_is_copied_is_the_data_in_its_order() -> None:
    batch = SelectiveCopy(data=3, length=12, vocab=6).open().batches("train", 16, 1, 0)[0]
    for tokens, labels, weights in zip(batch["tokens"], batch["labels"], batch["weights"], strict=True):
        assert labels[weights > 0].tolist() == tokens[tokens > 1].tolist()
        assert tokens[-3:].tolist() == [1, 1, 1]
        assert weights.sum() == 3


@pytest.mark.parametrize("spec", [Recall(), SelectiveCopy()])
def test_batches_are_a_function_of_seed_and_step_and_the_test_part_is_its_own(spec: Any) -> None:
    opened = spec.open()
    train = opened.batches("train", 32, 1, 0)
    np.testing.assert_array_equal(train[5]["tokens"], opened.batches("train", 32, 1, 0)[5]["tokens"])
    others = [train[6], opened.batches("train", 32, 1, 1)[5], opened.batches("test", 32, 1, None)[5]]
    assert all((train[5]["tokens"] != other["tokens"]).any() for other in others)
    assert len(opened.batches("test", 32, 8, None)) == 32
    with pytest.raises(InputError, match="made by a rule"):
        opened.questions(["a"], 1, 1)


@pytest.mark.parametrize(
    ("build", "words"),
    [(lambda: Recall(pairs=30, length=64), "30 pairs"), (lambda: SelectiveCopy(data=40), "40 data tokens")],
)
def test_a_task_that_does_not_fit_its_length_is_refused(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.represented_by("recall")
@pytest.mark.parametrize("config", ["recall", "selective_copy"])
def test_a_task_trains_any_mixer_by_an_override(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path / "cache"))
    settings = ["model.stack.block.mixer=Fourier()", "model.stack.repeats=1", "data.held=32", "steps=2"]
    assert main(["train", config, *settings, "--run", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 2
    assert 0 <= summary["evaluation"]["accuracy"]["value"] <= 1


@pytest.mark.parametrize("task", TASKS)
def test_the_table_of_a_task_has_every_mixer_that_is_measured(task: str) -> None:
    module = importlib.import_module(f"configs.{task}")
    rows = [
        [cell.strip() for cell in line.split("|")[1:4]]
        for line in str(module.__doc__).splitlines()
        if line.startswith("| ")
    ][1:]
    assert rows == [[case.name, *case.settings(task)] for case in CASES]
    for case in CASES:
        load_config(task, case.overrides(task))
    easier = {
        letter: settings
        for letter, settings in EASIER.items()
        if any(case.settings(task)[1] == letter for case in CASES)
    }
    assert all(f"{letter}: {' '.join(settings)}" in str(module.__doc__) for letter, settings in easier.items())
