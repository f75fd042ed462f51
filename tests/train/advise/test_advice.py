"""Choices between measured methods: the simplest that is not shown to be worse, and what is said of it."""

import dataclasses
import datetime
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import Ridge

from train.advise.advice import advise, choose
from train.advise.examples import describe, measure_estimators
from train.advise.grams import count_following, measure_grams, measure_nats
from train.advise.growth import fit_growth
from train.advise.measured import Deal, Kind, Measured, compute_mean, is_shown_worse
from train.advise.models import list_candidates, open_task, try_candidate
from train.advise.page import make_rows, write_advice
from train.advise.problem import Problem, find_problem
from train.advise.sentences import describe_advice, measure, record_advice
from train.advise.simple import collect, list_estimators, measure_simple
from train.advise.tables import fold_table, list_table_estimators, read_table
from train.advise.terms import LINEAR
from train.cli import main
from train.data.tasks.corpus import OpenedCorpus
from train.data.tasks.series import Series
from train.sums import wilson_half_width

PROBLEM = Problem("text classes", "x.csv", "sentiment_bert", (), "accuracy", True, ())
DRAW = np.random.default_rng(0)


def make(name: str, kind: Kind, scores: np.ndarray, seconds: float = 1.0) -> Measured:
    return Measured(name, kind, scores, seconds, 0.01, f"morphax train {name}", LINEAR)


def hush(text: str) -> None:
    del text


def flip(right: float, count: int = 400) -> np.ndarray:
    return (np.arange(count) // 2 % 100 < right * 100).astype(float)


def test_the_mean_has_the_interval_of_a_share_or_of_a_mean() -> None:
    scores = np.array([1, 0, 1, 1, np.nan])
    assert compute_mean(scores) == (0.75, wilson_half_width(0.75, 4))
    errors = DRAW.normal(3, 1, 400)
    mean, half = compute_mean(errors)
    assert mean == errors.mean()
    assert half == pytest.approx(1.96 * errors.std(ddof=1) / 20, rel=1e-4)
    assert math.isnan(compute_mean(np.array([np.nan]))[0])


def test_parts_are_apart_and_windows_go_by_blocks() -> None:
    scores = np.arange(10.0)
    plain = Deal(10)
    assert plain.pick(scores, "tuning").tolist() == [0, 2, 4, 6, 8]
    assert plain.pick(scores, "verdict").tolist() == [1, 3, 5, 7, 9]
    blocks = Deal(20, 5)
    assert blocks.pick(np.arange(20.0), "tuning").tolist() == [2, 7]
    assert blocks.pick(np.arange(20.0), "verdict").tolist() == [12, 17]


def test_of_equal_methods_one_is_called_worse_in_about_one_of_forty() -> None:
    draws = np.random.default_rng(1).normal(size=(2000, 2, 100))
    found = [is_shown_worse(own, other, True) for own, other in draws]
    assert 0.015 < np.mean(found) < 0.04
    assert is_shown_worse(np.zeros(100), np.ones(100), True)
    assert not is_shown_worse(np.zeros(100), np.ones(100), False)


def test_the_simplest_that_is_not_shown_worse_is_chosen() -> None:
    simple, model = make("words", "simple", flip(0.80)), make("MiniLM", "fine-tuned", flip(0.90))
    assert choose(PROBLEM, Deal(400), [simple, model]).chosen is model
    close = make("MiniLM", "fine-tuned", np.where(np.arange(400) == 3, 1 - flip(0.8), flip(0.8)))
    advice = choose(PROBLEM, Deal(400), [make("majority", "simple", flip(0.5)), simple, close])
    assert advice.chosen is simple
    assert "No model that was tried is shown to be better than this simple method." in describe_advice(advice)


def test_errors_are_better_if_smaller() -> None:
    problem = dataclasses.replace(PROBLEM, metric="mean_absolute_error", greater=False)
    methods = [make("mean", "simple", 1 + flip(0.9)), make("MiniLM", "fine-tuned", 1 + flip(0.1))]
    assert choose(problem, Deal(400), methods).chosen.name == "MiniLM"


def test_the_page_the_table_and_the_summary_say_the_same(tmp_path: Path) -> None:
    methods = [make("words", "simple", flip(0.8)), make("MiniLM", "fine-tuned", flip(0.9))]
    curve = fit_growth("words", "examples", [20, 40, 80], [flip(0.5), flip(0.65), flip(0.8)], True)
    assert curve is not None
    advice = choose(PROBLEM, Deal(400), methods, {"ViT": "it needs pictures"}, ["1 row is cut"])
    advice = dataclasses.replace(advice, growth=(curve,))
    write_advice(tmp_path, advice, methods[1].command, "On v5e:1x1 it takes 3 s.")
    page, table = (tmp_path / "report.html").read_text(), (tmp_path / "table.md").read_text()
    for words in ("MiniLM (recommended)", "it needs pictures", "1 row is cut", "On v5e:1x1", "more examples pay"):
        assert words in page
    assert "MiniLM (recommended)" in table
    assert make_rows(advice, advice.methods)[0][0] == "MiniLM (recommended)"
    recorded = record_advice(advice)
    assert recorded["recommended"] == "MiniLM"
    assert "0.900 ± " in str(recorded["sentences"])


def test_grams_are_witten_and_bell_by_hand() -> None:
    followed = count_following([0, 1, 0, 1, 0, 2], 2)
    nats = measure_nats(followed, [0, 1], 4)
    # order 1: counts 3, 2, 1 of 6 tokens of 3 kinds, a quarter for each of 4 tokens below
    first = (3 + 3 / 4) / 9
    assert nats[0].tolist() == pytest.approx([-math.log(first), -math.log((2 + 3 / 4) / 9)])
    # order 2: after 0 came 1 twice and 2 once, two kinds
    assert nats[1, 1] == pytest.approx(-math.log((2 + 2 * (2 + 3 / 4) / 9) / 5))
    assert nats[1, 0] == pytest.approx(-math.log(first))


def test_forecasts_are_the_last_value_and_the_lag(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    table.write_text("x\n" + "".join(f"{n % 6}\n" for n in range(120)))
    data = Series(path=str(table), time=None, context=6, horizon=3, patch=3, lags=(6,)).open()
    problem = Problem("forecasts", str(table), "", (), "mean_absolute_error", False, ())
    measured, _ = measure_simple(problem, data, collect("forecasts", data), lambda text: None)
    found = {one.name: one for one in measured}
    assert [one.kind for one in measured] == ["baseline", "baseline", "simple"]
    assert found["6 steps before"].scores.max() == 0
    assert found["window, linear"].scores.max() < 0.2
    first, (past, future) = found["last value"].scores[0], data.window("test", 0)
    assert first == pytest.approx(np.abs(future - past[-1]).mean())


def test_a_planted_rule_is_found_by_trees_and_rows_without_a_target_are_counted(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    x, kind = draw.normal(size=200), draw.integers(3, size=200)
    rows = [f"{a:.3f},{'abc'[b]},{'yes' if (a > 0) == (b == 1) else 'no'}" for a, b in zip(x, kind, strict=True)]
    table = tmp_path / "x.csv"
    table.write_text("x,kind,target\n" + "\n".join([*rows, "0.5,a,"]) + "\n")
    told: list[str] = []
    problem = find_problem(str(table))
    read = read_table(problem, told.append)
    measured, _ = measure_estimators(problem, fold_table(problem, read), list_table_estimators(True, [1], 2), hush)
    found = {one.name: compute_mean(one.scores)[0] for one in measured}
    assert told[0] == "1 of 201 rows have no target and are left out"
    assert found["boosted trees"] > 0.9 > found["linear"]
    assert describe(HistGradientBoostingClassifier(max_iter=5)) == "HistGradientBoostingClassifier(max_iter=5)"
    assert describe(Ridge()) + describe(DummyClassifier()) == "Ridge()DummyClassifier()"


def test_folds_have_all_classes_alike_and_equal_rows_together(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    rows = [f"{n // 2},{n % 7}.5,{'abc'[n // 2 % 3]}" for n in range(300)]
    table.write_text("x,z,target\n" + "\n".join([*rows, *rows[:50]]) + "\n")
    problem = find_problem(str(table))
    read = read_table(problem, hush)
    folds = fold_table(problem, read)
    assert sorted(index for _, test in folds.folds for index in test) == list(range(350))
    for train, test in folds.folds:
        assert set(train) | set(test) == set(range(350))
        assert not set(read.groups[train]) & set(read.groups[test])
        first = test[test < 300]
        assert {kind: int((read.targets[first] == kind).sum()) for kind in "abc"} == dict.fromkeys("abc", 20)


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "x.csv"
    table.write_text(
        "x,kind,target\n" + "\n".join(f"{n / 7:.3f},{'abc'[n % 3]},{['no', 'yes'][n > 60]}" for n in range(120))
    )
    folder = tmp_path / "advice"
    assert main(["advise", str(table), "--to", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((folder / "summary.json").read_text())
    assert printed["recommended"] in (folder / "report.html").read_text()
    assert printed["task"] == "table"
    assert {one["method"] for one in printed["methods"]} == {
        "most frequent class",
        "linear",
        "nearest",
        "boosted trees",
    }


@pytest.mark.slow
@pytest.mark.parametrize("told", [True, False], ids=["planted", "noise"])
def test_a_model_is_recommended_if_it_is_better_and_a_simple_method_otherwise(tmp_path: Path, told: bool) -> None:
    """The direction of stripes in a patch at any place: no linear model of pixels sees it, and of noise none does."""
    draw = np.random.default_rng(3)
    for number in range(900):
        across = bool(draw.integers(2))
        picture = draw.integers(0, 100, (28, 28)).astype(np.uint8)
        stripes = np.zeros((10, 10), np.uint8)
        stripes[draw.integers(2) :: 2] = 255
        top, left = draw.integers(0, 18, 2)
        picture[top : top + 10, left : left + 10] = stripes if across else stripes.T
        kind = across if told else bool(draw.integers(2))
        folder = tmp_path / "pictures" / ("across" if kind else "down")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number}.png")
    problem = find_problem(str(tmp_path / "pictures"))
    problem = dataclasses.replace(problem, overrides=(*problem.overrides, "data.holdout=0.3"))
    problem, _, data = open_task(problem)
    estimators = {name: one for name, one in list_estimators(problem.task).items() if "nearest" not in name}
    simple, _ = measure_estimators(problem, collect(problem.task, data), estimators, hush)  # near pictures show it
    trial, _ = try_candidate(problem, list_candidates(problem)[0], 120)
    advice = choose(problem, Deal(len(trial.scores)), [*simple, trial])
    if told:
        assert advice.chosen.kind == "from scratch"
        assert measure(advice, advice.chosen)[0] > 0.9
    else:
        assert advice.chosen.kind == "baseline"
        assert "Nothing that was tried is shown to be better than this baseline." in describe_advice(advice)


@pytest.mark.slow
def test_trials_of_every_task_are_scored_by_example(tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\n" + "".join(f"a text of number {n},{'ab'[n % 2]}\n" for n in range(80)))
    values = tmp_path / "values.csv"
    values.write_text("text,score\n" + "".join(f"a text of number {n},{n / 7}\n" for n in range(80)))
    series = tmp_path / "series.csv"
    start = datetime.datetime(2026, 1, 1)
    hours = [(start + datetime.timedelta(hours=n)).isoformat() for n in range(900)]
    series.write_text("time,a,b\n" + "".join(f"{hour},{n % 24}.5,{n % 7}.5\n" for n, hour in enumerate(hours)))
    language = tmp_path / "novel.txt"
    language.write_text("\n".join(f"{n} times {n} is {n * n}." for n in range(600)))
    for path in (texts, values, series, language):
        problem = find_problem(str(path))
        problem, _, data = open_task(problem)
        if isinstance(data, OpenedCorpus):
            simple = next(measure_grams(data))
        else:
            simple = measure_simple(problem, data, collect(problem.task, data), hush)[0][0]
        for candidate in list_candidates(problem):
            trial, _ = try_candidate(problem, candidate, 2)
            assert trial.scores.shape == simple.scores.shape, (path.name, candidate.name)
            assert trial.memory
            assert trial.work > 0
            assert np.isfinite(trial.scores).all()
            assert trial.command.startswith(f"morphax train {problem.config} data.path={path}")


@pytest.mark.slow
def test_models_for_which_the_time_does_not_last_are_named(tmp_path: Path) -> None:
    novel = tmp_path / "novel.txt"
    novel.write_text("\n".join(f"{n} times {n} is {n * n}." for n in range(600)))
    advice = advise(find_problem(str(novel)), 1e-3, hush)
    assert advice.chosen.kind == "simple"
    assert len(advice.refused) == 3
    assert all("there is no time for 32 of them" in reason for reason in advice.refused.values())
