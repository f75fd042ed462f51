"""Sentences: rows of files, the order of labels, what is held out and what is cut."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train.cli import main
from train.data.sources import is_held_out, read
from train.data.tasks.text import Text
from train.errors import InputError

FILES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "quotes.csv": ('text,label\n"a ""b"", c",x\n', [{"text": 'a "b", c', "label": "x"}]),
    "lines.csv": (
        'text,label\n"one\ntwo",x\nthree,y\n',
        [{"text": "one\ntwo", "label": "x"}, {"text": "three", "label": "y"}],
    ),
    "windows.csv": (
        "\ufefftext,label\r\na,x\r\n\r\nb,y\r\n",
        [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
    ),
    "tabs.tsv": ("text\tlabel\na, b\tx\n", [{"text": "a, b", "label": "x"}]),
    "upper.TSV": ("text\tlabel\na\tx\n", [{"text": "a", "label": "x"}]),
    "rows.jsonl": (
        '{"text": "a\\nb", "value": 1.5}\n\n{"text": "\u2028ü", "value": 2}\n',
        [{"text": "a\nb", "value": 1.5}, {"text": "\u2028ü", "value": 2}],
    ),
    "mark.jsonl": ('\ufeff{"text": "a"}\n', [{"text": "a"}]),
    "crlf.txt": ("one\r\n\r\ntwo\r\n", [{"text": "one"}, {"text": "two"}]),
    "long.csv": (f"text,label\n{'a' * 200_000},x\n", [{"text": "a" * 200_000, "label": "x"}]),
    "plain.txt": ("one, two\n\n\u2028three\n", [{"text": "one, two"}, {"text": "\u2028three"}]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_reader_gives_the_rows_of_a_file(tmp_path: Path, name: str) -> None:
    content, rows = FILES[name]
    (tmp_path / name).write_bytes(content.encode("utf-8"))
    assert list(read(str(tmp_path / name)).examples) == rows


@pytest.mark.parametrize("holdout", [0.01, 0.3])
def test_a_row_of_a_file_is_told_by_its_number_in_the_file_whatever_part_it_is_in(
    tmp_path: Path, holdout: float
) -> None:
    (tmp_path / "a.csv").write_text(
        "text,label\n" + "".join(f"number {row},{row % 2}\n" for row in range(60)) + " ,0\n"
    )
    with pytest.raises(InputError, match=r"a\.csv \((train|test) part\), example 61, has no text"):
        Text(path=str(tmp_path / "a.csv"), length=16, holdout=holdout).open()


def written(folder: Path, labels: Sequence[str]) -> str:
    path = folder / "labels.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"t{index}", "label": label}) + "\n" for index, label in enumerate(labels)),
        encoding="utf-8",
    )
    return str(path)


def test_the_order_of_labels_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    labels = ["sad", "glad", "bad", "glad"]
    orders: list[tuple[str, ...]] = []
    for some in (labels, labels[::-1]):
        path = written(tmp_path, some)
        opened = Text(path=path, test=path).open()
        orders.append(opened.classes)
        assert [opened.classes[row["label"]] for row in opened.rows["train"]] == some
    assert orders == [("bad", "glad", "sad")] * 2


def test_given_labels_and_those_of_a_trained_run_keep_their_order(tmp_path: Path) -> None:
    path = written(tmp_path, ["b", "a"])
    assert [row["label"] for row in Text(path=path, test=path, labels=("b", "a")).open().rows["train"]] == [0, 1]
    opened = Text(path=path, test=path).open(classes=("c", "b", "a"), only="test")
    assert opened.classes == ("c", "b", "a")
    assert [row["label"] for row in opened.rows["test"]] == [1, 2]


def test_a_class_that_is_held_out_whole_is_one_without_a_training_example(tmp_path: Path) -> None:
    texts = [f"t{index}" for index in range(40)]
    held = [is_held_out(text, 0.2) for text in texts]
    rare = held.index(True)
    labels = ["a" if index == rare else "bc"[index % 2] for index in range(40)]
    data = Text(path=written(tmp_path, labels), length=8, holdout=0.2).open()
    assert data.classes == ("b", "c", "a")  # places of what training saw stay
    assert data.unseen == ("a",)
    assert (data.labels("test") == 2).sum() == 1
    own = Path(written(tmp_path, labels)).rename(tmp_path / "own.jsonl")
    plain = written(tmp_path, ["bc"[index % 2] for index in range(40)])
    with pytest.raises(InputError, match=r"has the label 'a', which training never saw; known are b, c\."):
        Text(path=plain, test=str(own), length=8).open()
    with pytest.raises(InputError, match=r"'a', which training never saw"):
        Text(path=str(own), length=8, holdout=0.2).open(classes=("b", "c"))


def test_a_sentence_is_held_out_by_its_own_text_wherever_it_stands(tmp_path: Path) -> None:
    texts = [f"sentence {index}" for index in range(400)]
    held: list[set[str]] = []
    for some in (texts, texts[::-1], [*texts, *texts]):
        path = tmp_path / "texts.csv"
        path.write_text(
            "text,label\n" + "".join(f"{text},{index % 2}\n" for index, text in enumerate(some)), encoding="utf-8"
        )
        opened = Text(path=str(path), length=16, holdout=0.2).open()
        rows = {
            part: {bytes(row["tokens"].astype(np.uint8)).decode() for row in opened.rows[part]}
            for part in ("train", "test")
        }
        assert not rows["train"] & rows["test"]
        assert rows["train"] | rows["test"] == set(texts)
        held.append(rows["test"])
    assert held[0] == held[1] == held[2]
    assert len(held[0]) == pytest.approx(80, abs=25)


def test_truncation_keeps_the_first_tokens(tmp_path: Path) -> None:
    path = written(tmp_path, ["x", "y"])
    opened = Text(path=path, test=path, text="text", length=1, truncate=True).open()
    assert [row["tokens"].tolist() for row in opened.rows["train"]] == [[ord("t")], [ord("t")]]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_table_is_read_whatever_lies_between_its_fields_and_above_its_first_row(mark: str, tmp_path: Path) -> None:
    rows = [["text", "label"], ["fine, all in all; " + "quite | so\t!", "1"], ["", "2"], ["dull", ""]]
    lines = [mark.join(f'"{cell}"' if len(cell) > 9 else cell for cell in row) for row in rows]
    for above in ("", "\n\n", "  \r\n", mark + "\n"):
        (tmp_path / "table.csv").write_text("\ufeff" + above + "\n".join(lines) + "\n\n", encoding="utf-8", newline="")
        assert read(str(tmp_path / "table.csv")).examples == [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    (tmp_path / "table.tsv").write_text("a,b\tc;d\n1,2\t3\n")
    assert read(str(tmp_path / "table.tsv")).examples == [{"a,b": "1,2", "c;d": "3"}]


def test_an_array_of_objects_is_refused_with_what_makes_lines_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n  {"text": "a", "label": "good"}\n]\n')
    with pytest.raises(
        InputError, match=r"line 1, is not JSON .*; each line must be one object, as `jq -c '\.\[\]'` makes them of an"
    ):
        read(str(tmp_path / "a.json"))


@pytest.mark.slow
def test_a_run_is_asked_the_texts_of_files_by_the_column_that_holds_them(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path / "cache"))
    asked, run = ["a fine film, all in all", "dull"], str(sound / "run")
    Path("a.csv").write_text("label,text\n" + "".join(f'good,"{text}"\n' for text in asked), encoding="utf-8")
    Path("a.tsv").write_text("text\n" + "".join(f"{text}\n" for text in asked), encoding="utf-8")
    Path("a.txt").write_text("\n\n".join(asked) + "\n", encoding="utf-8")
    Path("a.jsonl").write_text("".join(json.dumps({"review": text}) + "\n" for text in asked), encoding="utf-8")
    Path("b.csv").write_text("text\nfine\n \n", encoding="utf-8")
    found = []
    for given in (asked, ["a.csv"], ["a.tsv"], ["a.txt"], ["a.jsonl", "--set", "data.text=review"]):
        assert main(["predict", run, *given, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["answers"])
    assert [answer["input"] for answer in found[0]] == asked
    assert all(answers == found[0] for answers in found)
    assert main(["predict", run, "a.jsonl"]) == 2
    assert "a.jsonl has no column 'text'; it has review: set data.text" in capsys.readouterr().err
    assert main(["predict", run, "b.csv"]) == 0
    said = "1 of 2 inputs are not answered: b.csv, example 2, has no text; remove it or fill it in"
    assert said in capsys.readouterr().err
    assert main(["predict", run, "absent.csv", "a\0.csv", "--json"]) == 0  # texts, as they name no file
