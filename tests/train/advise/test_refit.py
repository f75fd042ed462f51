"""The file of a recommended method: it fits the same estimator again, and answers."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.advise.advice import choose
from train.advise.examples import HeldOut, score_classes
from train.advise.frozen import NAME, list_heads
from train.advise.measured import Deal, Measured
from train.advise.models import open_task
from train.advise.problem import Problem, find_problem
from train.advise.refit import answer, main, write_method
from train.advise.simple import collect, list_estimators
from train.advise.tables import list_table_estimators
from train.advise.windows import Lag, WindowRidge, list_forecasters
from train.data.tasks.series import OpenedSeries


def write_chosen(folder: Path, problem: Problem, method: Measured) -> Path:
    file = write_method(folder, choose(problem, Deal(len(method.scores)), [method]))
    assert file is not None
    return file


def test_a_text_method_is_written_as_it_was_measured_and_answers(tmp_path: Path) -> None:
    table = tmp_path / "films.csv"
    table.write_text("text,label\n" + "".join(f"a {'warm' if n % 2 else 'cold'} film {n},{n % 2}\n" for n in range(80)))
    problem, _, data = open_task(find_problem(str(table)))
    name = "words, linear"
    method = collect(problem.task, data).measure(name, list_estimators(problem.task)[name])
    file = write_chosen(tmp_path, problem, method)
    written = runpy.run_path(str(file))
    assert repr(written["METHOD"]) == repr(method.estimator)
    assert list(answer(written["PROBLEM"], written["METHOD"], ["a warm one", "a cold one"])) == ["1", "0"]
    assert "pickle" not in file.read_text()


def test_rows_of_a_table_are_answered_and_a_missing_column_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "x.csv"
    rows = [f"{n / 7:.3f},{'abc'[n % 3]},{'yes' if n % 3 else 'no'}" for n in range(90)]
    table.write_text("x,kind,target\n" + "\n".join(rows))
    asked = tmp_path / "asked.csv"
    asked.write_text("kind,x\na,1.5\nb,2.5\nz,3.5\n")
    problem = find_problem(str(table))
    estimator = list_table_estimators(True, [1], 2)["linear"]
    assert main(problem, estimator, [str(asked)]) == 0
    assert capsys.readouterr().out.split()[:2] == ["no", "yes"]  # by their kind; no row had z
    asked.write_text("x\n1.5\n")
    assert main(problem, estimator, [str(asked)]) == 2
    assert "has no column kind" in capsys.readouterr().err


def test_series_are_continued_and_pictures_are_named(tmp_path: Path) -> None:
    series = tmp_path / "series.csv"
    hours = "".join(f"2026-01-{1 + n // 24:02d}T{n % 24:02d}:00,{n % 24}.5,{n}\n" for n in range(20 * 24))
    series.write_text("time,load,trend\n" + hours)
    problem, _, data = open_task(find_problem(str(series)))
    assert isinstance(data, OpenedSeries)
    assert isinstance(list_forecasters(data)["window, linear"], WindowRidge)
    load, trend = answer(problem, Lag(24, 24), [str(series)])
    assert load == "load: " + ", ".join(f"{n}.5" for n in range(24))
    assert trend.endswith(", 478, 479")
    for kind, grey in (("bright", 200), ("dark", 20)):
        for number in range(40):
            picture = np.full((8, 8), grey + number % 20, np.uint8)
            (tmp_path / "pictures" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / "pictures" / kind / f"{number}.png")
    problem = find_problem(str(tmp_path / "pictures"))
    asked = str(tmp_path / "pictures" / "dark" / "3.png")
    assert list(answer(problem, list_estimators(problem.task)["pixels, nearest"], [asked])) == ["dark"]


@pytest.mark.slow
def test_a_head_on_frozen_features_answers_as_it_was_measured(tmp_path: Path) -> None:
    films = {"good": ("superb", "moving", "delightful"), "bad": ("dreadful", "tedious", "clumsy")}
    table = tmp_path / "films.csv"
    rows = [f"a {word} film of {n} minutes,{kind}" for n in range(60, 90) for kind in films for word in films[kind]]
    table.write_text("text,label\n" + "\n".join(rows))
    problem, _, _ = open_task(find_problem(str(table)))
    head = list_heads(problem.task)[NAME]
    draw = np.random.default_rng(0).normal(size=(40, 2))
    pairs = draw, (draw[:, 0] > 0).astype(int)
    file = write_chosen(tmp_path, problem, HeldOut(pairs, pairs, score_classes, "frozen").measure(NAME, head))
    assert "frozen=True" in file.read_text()
    said = list(answer(problem, head, ["a wonderful film", "an awful film", "boring, of little worth"], frozen=True))
    assert said == ["good", "bad", "bad"]
