"""Inputs that cannot be answered are named by file and row, in every format and for every kind of input."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from train.data.notes import Notes, get_notes
from train.data.questions import Question, read_texts, where
from train.data.tasks.corpus import Corpus
from train.data.tasks.drives import Drives
from train.data.tasks.images import Images
from train.data.tasks.pairs import Pairs
from train.data.tasks.series import Series
from train.data.tasks.text import Text
from train.errors import InputError
from train.use.questions import QuestionBatches

ROWS = ("one two", "", "three four", "five " * 20)


def table(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("text,id\n" + "".join(f"{row},{index}\n" for index, row in enumerate(rows)))


def tabbed(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("text\tid\n" + "".join(f"{row}\t0\n" for row in rows))


def objects(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))


def parquet(path: Path, rows: Sequence[Any]) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": list(rows)}), path)


def saved(path: Path, rows: Sequence[Any]) -> None:
    datasets.Dataset.from_dict({"text": list(rows)}).save_to_disk(path)


FORMATS: dict[str, Callable[[Path, Sequence[Any]], None]] = {
    "rows.csv": table,
    "rows.tsv": tabbed,
    "rows.jsonl": objects,
    "rows.parquet": parquet,
    "saved": saved,
}


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Pairs whose vocabulary is learnt from a file, and whose sources are in the column `text`."""
    (tmp_path / "pairs.csv").write_text("text,target\n" + "one two three four five,un deux\n" * 8)
    return Pairs(path=str(tmp_path / "pairs.csv"), source="text", tokenizer="bpe:280", length=16)


def reasons(data: Any, given: list[str]) -> dict[str, str]:
    """Why questions are not answered, by what was asked."""
    asked = QuestionBatches(data, given, 8)
    answered = [(place, {}) for places, _ in asked.batches() for place in places]
    return {text: str(answer["unanswered"]) for text, answer in asked.order_answers(iter(answered)) if answer}


@pytest.mark.parametrize("kind", ["text", "pairs", "corpus"])
@pytest.mark.parametrize("name", FORMATS)
def test_rows_without_text_or_too_long_are_named(name: str, kind: str, pairs: Pairs, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name, ROWS)
    data = {"text": Text(length=48), "pairs": pairs, "corpus": Corpus(length=48)}[kind].reader()
    found = list(reasons(data, ["one two", str(tmp_path / name), "five " * 19]).values())
    assert found[0] == f"{tmp_path / name}, example 2, has no text; remove it or fill it in."
    assert found[1].startswith(f"{tmp_path / name}, example 4 has ")
    assert found[2].startswith("text 6 has ")
    assert len(found) == 3


def test_lines_of_text_are_named_by_their_file(pairs: Pairs, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one two\n" + "five " * 20 + "\n")
    for data in (Text(length=48).reader(), pairs.reader(), Corpus(length=48).reader()):
        (said,) = reasons(data, [str(tmp_path / "lines.txt")]).values()
        assert said.startswith(f"{tmp_path / 'lines.txt'}, example 2 has ")


def test_a_cell_that_is_no_text_is_refused_for_what_it_is(pairs: Pairs, tmp_path: Path) -> None:
    objects(tmp_path / "rows.jsonl", ["one", 5])
    parquet(tmp_path / "rows.parquet", [b"one", b"\xff\xfe"])
    for data in (Text().reader(), pairs.reader(), Corpus(length=48).reader()):
        (said,) = reasons(data, [str(tmp_path / "rows.jsonl")]).values()
        assert said == f"{tmp_path / 'rows.jsonl'}, example 2, has no text but '5', of type int; write it as a string."
        (said,) = reasons(data, [str(tmp_path / "rows.parquet")]).values()
        assert said == f"{tmp_path / 'rows.parquet'}, example 2, is not UTF-8."


def test_rows_that_are_cut_are_named_by_file_and_row(tmp_path: Path) -> None:
    table(tmp_path / "rows.csv", ROWS[::3])
    data = Text(length=48, truncate=True).reader()
    assert reasons(data, [str(tmp_path / "rows.csv")]) == {}
    assert [note.names for note in get_notes(data)] == [(f"{tmp_path / 'rows.csv'}, example 2",)]


def test_rows_of_series_steps_and_pictures_are_named(tmp_path: Path) -> None:
    loads = "".join(f"2026-01-{day:02d},{'' if day == 9 else day}\n" for day in range(1, 17))
    (tmp_path / "load.csv").write_text("time,load\n" + loads)
    series = Series(time="time", context=8, horizon=4, patch=4, lags=()).reader(("load",))
    with pytest.raises(InputError, match=r"load\.csv, example 9, "):
        QuestionBatches(series, [str(tmp_path / "load.csv")], 2)
    np.savez(tmp_path / "drive.npz", features=np.array([[1.0], [np.nan]]), actions=np.ones((2, 1)), rewards=np.ones(2))
    with pytest.raises(InputError, match=r"drive\.npz, step 2, "):
        QuestionBatches(Drives().reader(), [str(tmp_path / "drive.npz")], 2)
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"broken\.png cannot be read"):
        QuestionBatches(Images().reader(("a", "b")), [str(tmp_path / "broken.png")], 2)


def test_a_text_that_is_no_file_stays_one(tmp_path: Path) -> None:
    given = ["a.csv of mine", "~nobody/a.csv", "a" * 5000, "", ".", str(tmp_path)]
    assert read_texts(given, Notes(), text="text") == given
    assert where([Question("a", "b.csv, example 3", "a").strip(), "c"], 0) == "b.csv, example 3"
    assert where(["a", "c"], 1) == "text 2"
