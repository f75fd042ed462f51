"""The task of files and folders: what columns hold, which is predicted, which questions are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.advise.problem import Wishes, describe_columns, find_problem
from train.config import load_config
from train.errors import InputError

REVIEWS = "".join(f"the film number {n} was {word},{word[0]}\n" for n in range(20) for word in ("good", "bad", "so so"))
HOURS = "".join(f"2025-01-{1 + n // 24:02d}T{n % 24:02d}:00,{n % 24}.5,{n}\n" for n in range(28 * 24))
DAYS = "".join(f"2025-{1 + n // 28:02d}-{1 + n % 28:02d},{n}.25\n" for n in range(28))
FLOWERS = "".join(f"{n / 7},{n % 5 + 0.5},{'ab'[n % 2]}\n" for n in range(60))


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_columns_are_told_apart() -> None:
    rows = [
        {
            "when": f"2025-01-{day + 1:02d}",
            "said": f"a text of words {day}",
            "kind": "ab"[day % 2],
            "x": f"{day}.5",
            "id": f"u{day}",
        }
        for day in range(20)
    ]
    assert describe_columns(rows) == {
        "when": "times",
        "said": "text",
        "kind": "classes",
        "x": "numbers",
        "id": "names",
    }
    assert describe_columns([{"x": None, "y": 1}, {"x": "", "y": 2}]) == {"x": "empty", "y": "classes"}


def test_a_table_of_texts_is_classified_and_its_command_is_a_config(tmp_path: Path) -> None:
    path = write(tmp_path, "reviews.csv", "review,stars\n" + REVIEWS)
    problem = find_problem(path)
    assert (problem.task, problem.config, problem.metric) == ("text classes", "sentiment_bert", "accuracy")
    assert problem.overrides == (f"data.path={path}", "data.text=review", "data.target=stars", "data.holdout=0.3")
    experiment, _ = load_config(problem.config, list(problem.overrides))
    assert len(experiment.data.open().classes) == 3


def test_numbers_of_texts_are_values_and_texts_alone_are_a_language(tmp_path: Path) -> None:
    rows = [{"text": f"the film number {n} was watched", "score": n / 7} for n in range(40)]
    scored = write(tmp_path, "scored.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert find_problem(scored).task == "text values"
    alone = write(tmp_path, "alone.jsonl", "".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    assert find_problem(alone).task == "language"
    assert find_problem(write(tmp_path, "novel.txt", "once upon a time")).task == "language"


def test_series_have_the_lags_of_their_step(tmp_path: Path) -> None:
    hourly = find_problem(write(tmp_path, "hours.csv", "time,load,trend\n" + HOURS))
    assert hourly.task == "forecasts"
    assert "data.horizon=24" in hourly.overrides
    assert "data.lags=(24,)" in hourly.overrides  # a week six times is longer than the data
    assert "data.values=('load', 'trend')" in hourly.overrides
    daily = find_problem(write(tmp_path, "days.csv", "day,load\n" + DAYS), Wishes(horizon=7))
    assert {"data.horizon=7", "data.context=14", "data.patch=1", "data.lags=()", "data.time=day"} <= set(
        daily.overrides
    )


def test_tables_of_numbers_are_predicted_from_all_other_columns(tmp_path: Path) -> None:
    problem = find_problem(write(tmp_path, "flowers.csv", "length,width,species\n" + FLOWERS))
    assert (problem.task, problem.target, problem.features) == ("table", "species", ("length", "width"))
    assert problem.metric == "accuracy"
    other = find_problem(str(tmp_path / "flowers.csv"), Wishes(target="length"))
    assert (other.metric, other.features) == ("mean_absolute_error", ("width", "species"))


def test_folders_of_pictures_are_classified(tmp_path: Path) -> None:
    for kind in ("cats", "dogs"):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / kind / "a.png")
    assert find_problem(str(tmp_path)).task == "image classes"


TWO = "a,b,label\n" + "one text of four,another text of four,x\n" * 3
PAIRS = "source,target\n" + "".join(f"one text of {n},un texte de {n}\n" for n in range(9))
MANY = "a,b,c\n" + "".join(f"{n}.5,{n % 2},{n % 3}\n" for n in range(40))


@pytest.mark.parametrize(
    ("name", "text", "wishes", "words"),
    [
        ("absent.csv", None, Wishes(), "There is no"),
        ("two.csv", TWO, Wishes(), "choose one with --text"),
        ("pairs.csv", PAIRS, Wishes(), "pairs of sentences"),
        ("many.csv", MANY, Wishes(), "choose the column with --target"),
        ("wrong.csv", "a,b\n" + "1.5,2\n" * 9, Wishes(target="c"), "no column 'c' for --target"),
    ],
)
def test_what_is_not_told_is_asked_for(tmp_path: Path, name: str, text: str | None, wishes: Wishes, words: str) -> None:
    if text is not None:
        write(tmp_path, name, text)
    with pytest.raises(InputError, match=words):
        find_problem(str(tmp_path / name), wishes)


def test_tasks_that_are_not_measured_are_named_with_their_command_and_baseline(tmp_path: Path) -> None:
    coco = write(tmp_path, "boxes.json", json.dumps({"images": [], "categories": [], "annotations": []}))
    (tmp_path / "voc" / "Annotations").mkdir(parents=True)
    for path, boxes in ((coco, coco), (str(tmp_path), coco), (str(tmp_path / "voc"), str(tmp_path / "voc"))):
        with pytest.raises(InputError, match="which is detection") as caught:
            find_problem(path)
        assert f"`morphax train detect_cells data.path={boxes}`, and compare its mean average" in str(caught.value)
    with pytest.raises(InputError, match="which is translation.*translate_multi30k.*each word replaced"):
        find_problem(write(tmp_path, "pairs.csv", PAIRS))


def test_an_empty_folder_and_trajectories_are_no_task(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 folders, 0 pictures and 0 videos"):
        find_problem(str(tmp_path))
    np.savez(tmp_path / "1.npz", features=np.zeros(3))
    with pytest.raises(InputError, match="morphax train drive_highway"):
        find_problem(str(tmp_path))
