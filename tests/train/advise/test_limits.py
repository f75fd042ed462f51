"""Limits: what methods keep of their examples and how they explain answers, and which are not tried."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator

from configs.sentiment_bert import WEIGHTS
from train.advise.models import list_candidates, open_task, prepare_candidate, try_candidate
from train.advise.problem import Problem, find_problem
from train.advise.simple import list_estimators
from train.advise.tables import list_table_estimators
from train.advise.terms import CONSTANT, FEATURES, LINEAR, NEAREST, NOTHING, TREES, WORDS, Limits, find_terms
from train.advise.windows import Lag, WindowRidge
from train.cli import main

PRIVATE = Limits(epsilon=8.0)


def limit(path: Path, limits: Limits) -> Problem:
    return dataclasses.replace(find_problem(str(path)), limits=limits)


def test_terms_are_those_of_the_step_that_keeps_most() -> None:
    words, table = list_estimators("text classes"), list_table_estimators(True, [0], 2)
    found: dict[str, BaseEstimator] = {**words, **table, "lag": Lag(2, 2), "ridge": WindowRidge()}
    assert {name: find_terms(one) for name, one in found.items()} == {
        "most frequent class": CONSTANT,
        "words, linear": WORDS,
        "words, nearest": NEAREST,
        "linear": LINEAR,
        "nearest": NEAREST,
        "boosted trees": TREES,
        "lag": NOTHING,
        "ridge": LINEAR,
    }


def test_limits_refuse_what_keeps_examples_or_gives_no_account() -> None:
    assert PRIVATE.refuse(NEAREST) == "not private: it keeps the examples"
    assert PRIVATE.refuse(LINEAR) is None
    explained = Limits(must_explain=True)
    assert explained.refuse(FEATURES) == "not explained: its features have no names"
    assert explained.refuse(NEAREST) is None
    assert Limits().refuse(FEATURES) is None


def test_a_private_table_is_linear_and_says_what_it_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    table = tmp_path / "x.csv"
    rows = [f"{a:.3f},{b:.3f},{'yes' if a + b > 0 else 'no'}" for a, b in draw.normal(size=(200, 2))]
    table.write_text("x,z,target\n" + "\n".join(rows))
    assert main(["advise", str(table), "--to", str(tmp_path / "advice"), "--private", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recommended"] == "linear"
    assert set(told["refused"]) == {"nearest", "boosted trees"}
    assert "It keeps weights alone, with no bound on what they tell" in str(told["sentences"])
    assert "| weights alone, with no bound on what they tell |" in (tmp_path / "advice" / "table.md").read_text()


def test_an_epsilon_of_zero_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "x.csv", "--private", "0"]) == 2
    assert "give an epsilon above 0" in capsys.readouterr().err


@pytest.mark.slow
def test_models_of_every_task_train_privately_as_they_are_recommended(tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\n" + "".join(f"a text of number {n},{'ab'[n % 2]}\n" for n in range(80)))
    novel = tmp_path / "novel.txt"
    novel.write_text("\n".join(f"{n} times {n} is {n * n}." for n in range(600)))
    series = tmp_path / "series.csv"
    hours = "".join(f"2026-01-{1 + n // 24:02d}T{n % 24:02d}:00,{n % 24}.5\n" for n in range(30 * 24))
    series.write_text("time,load\n" + hours)
    for path in (texts, novel, series):
        problem, _, _ = open_task(limit(path, PRIVATE))
        small = ("model.stack.repeats=1", f"initial=HuggingFace('{WEIGHTS}', fit=true)") if path == texts else ()
        problem = dataclasses.replace(problem, overrides=(*problem.overrides, "batch_size=8", *small))
        for candidate in list_candidates(problem):
            guarantee = prepare_candidate(problem, candidate, 2).guarantee
            assert guarantee is not None
            assert guarantee.limit == 8.0
        trial, _ = try_candidate(problem, list_candidates(problem)[0], 2)
        assert np.isfinite(trial.scores).all()
        assert "Private(" in trial.command
        assert trial.terms.kept == "weights, (8, 1e-05)-differentially private"
