"""Tables of a user: quotation marks, names of columns, encodings, and labels of every type."""

import csv
import io
import json
import random
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TRAIN
from train.cli import main
from train.data.sources import read
from train.data.sources.text_files import read_blocks, read_whole
from train.data.tasks.corpus import Corpus
from train.data.tasks.pairs import Pairs
from train.data.tasks.series import Series
from train.data.tasks.text import Text
from train.errors import InputError

REVIEWS = [
    ("A plain first film", "1"),
    ('"A quote that is opened by the critic and never closed here', "0"),
    ("Dull and far too long", "0"),
    ('and he ended it with a quote mark"', "1"),
    ("A fine last film", "1"),
]


def lines(rows: Sequence[Sequence[str]], delimiter: str = "\t", end: str = "\n") -> str:
    """Rows as they stand, below the names of two columns."""
    return "".join(delimiter.join(row) + end for row in [("text", "label"), *rows])


def of(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_a_quotation_mark_that_closes_in_another_row_joins_none(end: str, tmp_path: Path) -> None:
    opened = Text(path=(path := of(tmp_path / "reviews.tsv", lines(REVIEWS, end=end))), test=path).open()
    assert [opened.classes[row["label"]] for row in opened.rows["train"]] == ["1", "0", "0", "1", "1"]
    assert [example["text"] for example in opened.splits["train"].examples] == [text for text, _ in REVIEWS]
    (note,) = opened.notes
    assert str(note).endswith("quotation marks are read as part of the text: line 3 opens a quotation mark that line"
                              " 5 closes, and both are"
                              " rows of 2 fields by themselves")  # fmt: skip


def test_no_row_of_many_is_lost_whatever_marks_it_has(tmp_path: Path) -> None:
    kinds = {1: ('"review {}', "pos"), 2: ('review {}"', "neg")}
    rows = [(text.format(n), label) for n in range(120) for text, label in [kinds.get(n % 4, ("a {}", "pos"))]]
    assert [tuple(row.values()) for row in read(of(tmp_path / "a.tsv", lines(rows))).examples] == rows


WHOLE = [("one\ntwo", "x"), ('a "b" c', "y"), ("a\tb", "x"), ('"', "y"), ("plain", "x"), ("p\tq\nr\ts", "y")]


@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_what_a_program_quotes_is_read_as_it_was(delimiter: str, tmp_path: Path) -> None:
    made = io.StringIO()
    writer = csv.writer(made, delimiter=delimiter, lineterminator="\n")
    writer.writerows([("text", "label"), *WHOLE])
    split = read(of(tmp_path / ("a.tsv" if delimiter == "\t" else "a.csv"), made.getvalue()))
    assert [tuple(row.values()) for row in split.examples] == WHOLE
    assert not split.notes


@pytest.mark.parametrize(
    "rows",
    [
        [('"Fine" he said', "1"), ("dull", "0")],
        [('a "fine" film', "1"), ('"Fine"', "0")],
        [('5" disc', "1"), ('"', "0")],
        [('"', "1"), ("dull", "0"), ("fine", "1")],
        [('"never closed', "1"), ("dull", "0")],
    ],
)
def test_marks_that_do_not_hold_whole_fields_are_text_between_tabs(rows: list[tuple[str, str]], tmp_path: Path) -> None:
    split = read(of(tmp_path / "a.tsv", lines(rows)))
    assert [tuple(row.values()) for row in split.examples] == rows
    assert "quotation marks are read as part of the text" in str(split.notes[0])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", lines(REVIEWS, ","), r"line 3 opens a quotation mark that line 5 closes.*double a mark that is text"),
        ("a.tsv", 'text\n"one\ntwo"\nthree\n', r"line 2 opens a quotation mark that line 3 closes"),
        ("a.tsv", lines([*REVIEWS, ("no label",)]), r"line 3 opens a quotation mark that line 5 closes"),
        (
            "a.tsv",
            lines([("fine", "1"), ("dull", "0"), ('"a', 'b\nc"', "1")]),
            r"line 4 opens a quotation mark that line 5 closes",
        ),
        ("a.tsv", 'text\tlabel\n"\t\n"\tgood\nfine\tbad\n', r"line 2 opens a quotation mark that line 3 closes"),
        ("a.tsv", lines([("fine", "1"), ("dull",)]), r"line 3, has 1 fields and the first row names 2"),
        ("a.tsv", lines([("fine", "1"), ("dull", "0", "0")]), r"line 3, has 3 fields and the first row names 2"),
        ("a.tsv", lines([("fine", "1"), ('"dull', "0", "0")]), r"line 3, is not well-formed"),
        (
            "a.csv",
            lines([("fine", "1"), ('"dull', "0"), ("bad", "0")], ","),
            r"line 3, is not well-formed: .*; close a quotation mark",
        ),
    ],
)
def test_marks_that_can_be_read_in_two_ways_are_refused_with_their_row(
    name: str, content: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        read(of(tmp_path / name, content))


def test_what_a_program_quotes_is_read_as_it_was_whatever_it_is(tmp_path: Path) -> None:
    """Cells of commas, quotation marks and ends of lines, with a class or a number: none is refused, joined or cut."""
    draw = random.Random(0)
    for number in range(200):
        pieces = ["fine", "dull", ", ", '"', "\n", " ", "good", ",", "1"]
        rows = [
            ["".join(draw.choices(pieces, k=draw.randrange(1, 9))) for _ in range(1 + number % 2)]
            + [draw.choice(["good", "bad"])]
            for _ in range(draw.randrange(1, 9))
        ]
        made = io.StringIO()
        csv.writer(made, lineterminator="\n").writerows([["text", "more"][: 1 + number % 2] + ["label"], *rows])
        assert [list(row.values()) for row in read(of(tmp_path / "a.csv", made.getvalue())).examples] == rows


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".jsonl"])
def test_lines_may_end_as_any_system_ends_them_and_files_may_be_put_together(suffix: str, tmp_path: Path) -> None:
    rows = {".txt": "fine\ndull\n", ".jsonl": '{"text": "fine"}\n{"text": "dull"}\n'}.get(suffix, "text\nfine\ndull\n")
    for end in ("\n", "\r\n", "\r"):
        path = of(tmp_path / f"a{suffix}", rows.replace("\n", end))
        assert [row["text"] for row in read(path).examples] == ["fine", "dull"]
    path = of(tmp_path / f"b{suffix}", "\ufeff" + rows.replace("\n", "\n\ufeff", 1))
    assert [row["text"] for row in read(path).examples] == ["fine", "dull"]


def test_every_reader_of_tables_counts_the_same_rows(tmp_path: Path) -> None:
    path = of(tmp_path / "reviews.tsv", lines(REVIEWS))
    texts = [text for text, _ in REVIEWS]
    pairs = Pairs(path=path, test=path, source="text", target="label", tokenizer="bpe:300").open()
    assert [source for source, _ in pairs.pairs["train"]] == texts
    corpus = Corpus(path=path, test=path, length=16).open()
    assert corpus.characters["train"] == len("\n".join(texts))
    asked = Text().reader()
    assert asked.list_questions([path]) == texts
    for opened in (pairs, corpus, asked):
        assert "quotation marks are read as part of the text" in str(opened.notes[0])


UNNAMED = {
    "a.tsv": [("A plain first film", "1"), ("Dull and far too long", "0"), ("A fine last film of his", "1")],
    "a.csv": [("1", "A plain first film"), ("0", "Dull and far too long"), ("1", "A fine last film of his")],
    "b.csv": [("good", "fine"), ("bad", "dull"), ("good", "so so")],
    "one.csv": [("A plain first film",), ("Dull and far too long",)],
}


@pytest.mark.parametrize("name", UNNAMED)
def test_a_table_without_names_is_recognised_and_the_command_that_is_told_keeps_every_row(
    name: str, tmp_path: Path
) -> None:
    rows, mark = UNNAMED[name], "\t" if name.endswith("tsv") else ","
    path = of(tmp_path / name, "".join(mark.join(row) + "\n" for row in rows))
    with pytest.raises(
        InputError, match=r"has no row of column names, as its first row \(.*\) is like those below it; add one"
    ) as refused:
        Text(path=path, test=path).open() if len(rows[0]) > 1 else Text().reader().list_questions([path])
    command = str(refused.value).split("`")[1]
    subprocess.run(command, shell=True, check=True)
    named = read(str(tmp_path / name.replace(".", ".named.")))
    assert len(named.examples) == len(rows)
    place = int(len(rows[0]) > 1 and max(map(len, (row[0] for row in rows))) < max(map(len, (row[1] for row in rows))))
    if name != "b.csv":
        assert [row["text"] for row in named.examples] == [row[place] for row in rows]


def test_names_that_are_given_twice_or_are_numbers_are_told_from_rows_without_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no row of column names"):
        read(of(tmp_path / "a.csv", "1,1\n0,1\n1,1\n"))
    with pytest.raises(InputError, match="names a column twice"):
        read(of(tmp_path / "a.csv", "text,text\na,b\n"))
    with pytest.raises(InputError, match="no column 'label'; it has text, stars: set data.text and data.target"):
        Text(path=(path := of(tmp_path / "a.csv", "text,stars\na,1\nb,2\n")), test=path).open()
    assert read(of(tmp_path / "a.csv", " text , label \na,b\n")).examples == [{"text": "a", "label": "b"}]


def test_a_series_without_names_loses_no_row(tmp_path: Path) -> None:
    path = of(tmp_path / "a.csv", "".join(f"{number}.5,{number}\n" for number in range(40)))
    with pytest.raises(InputError, match="has no row of column names"):
        Series(path=path, time=None, context=8, horizon=4, patch=4).open()
    named = of(tmp_path / "b.csv", "17,18\n" + "".join(f"{number}.5,{number}\n" for number in range(40)))
    assert Series(path=named, time=None, values=("17", "18"), context=8, horizon=4, patch=4).open().classes == (
        "17",
        "18",
    )


ENCODED = {"latin-1": "café", "cp1252": "“café” – 5 €", "utf-16-le": "cafe", "utf-16-be": "cafe"}


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".jsonl"])
def test_another_encoding_is_told_with_a_command_that_works(encoding: str, suffix: str, tmp_path: Path) -> None:
    text = ENCODED[encoding]
    rows = {
        ".txt": f"fine\n{text}\n",
        ".jsonl": "".join(json.dumps({"text": one}, ensure_ascii=False) + "\n" for one in ("fine", text)),
    }
    content = rows.get(suffix, f"text\nfine\n{text}\n")
    path = of(tmp_path / f"my reviews{suffix}", content.encode(encoding))
    with pytest.raises(InputError, match=r"convert it: `iconv -f [A-Z0-9-]+ -t UTF-8 .*`\.$") as refused:
        read(path)
    subprocess.run(str(refused.value).split("`")[1], shell=True, check=True)
    assert [row["text"] for row in read(str(tmp_path / f"my reviews.utf8{suffix}")).examples] == ["fine", text]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(encoding: str, tmp_path: Path) -> None:
    path = of(tmp_path / "a.tsv", lines(REVIEWS, end="\r\n").encode(encoding))
    assert [tuple(row.values()) for row in read(path).examples] == REVIEWS
    with pytest.raises(InputError, match="begins as UTF-16 and is damaged"):
        read(of(tmp_path / "a.csv", "text\nfine".encode("utf-16")[:-1]))


def test_a_nul_byte_is_told_with_its_line_and_a_command_that_works(tmp_path: Path) -> None:
    path = of(tmp_path / "a.csv", "text\nfine\nfi\0ne\n")
    with pytest.raises(InputError, match=r"a\.csv, line 3, has a NUL byte; remove it: `tr -d ") as refused:
        read(path)
    subprocess.run(str(refused.value).split("`")[1], shell=True, check=True)
    assert [row["text"] for row in read(str(tmp_path / "a.utf8.csv")).examples] == ["fine", "fine"]


RIGHT: list[tuple[list[Any], tuple[str, ...]]] = [
    ([True, False], ("False", "True")),
    ([0, 1], ("0", "1")),
    (["b ", "a"], ("a", "b")),
]
WRONG: list[tuple[list[Any], str]] = [
    (["a", None], "example 2, has None for a class; give a name"),
    ([1, 0.5], "example 2, has 0.5 for a class; give a name, or set data.kind=value"),
    ([float("nan"), 1], "example 1, has nan for a class"),
    (["a", ["a", "b"]], r"example 2, has \['a', 'b'\] for a class; an example has one: give its name as a string"),
    (["a", {"name": "a"}], r"example 2, has {'name': 'a'} for a class; an example has one"),
    (["a", []], r"example 2, has \[\] for a class; an example has one"),
    (
        [True, 1],
        "example 2, has 1 for a class, a whole number, and .* example 1, has True, a truth value; write all classes"
        " as strings",
    ),
    (["1", 1], "example 2, has 1 for a class, a whole number, and .* has '1', a string; write all"),
    (["a", True], "example 2, has True for a class, a truth value, and .* has 'a', a string"),
    (["a", " "], "example 2, has ' ' for a class; give a name"),
]


def labelled(folder: Path, labels: list[Any]) -> str:
    rows = [json.dumps({"text": f"t{place}", "label": label}) + "\n" for place, label in enumerate(labels)]
    return of(folder / "a.jsonl", "".join(rows))


@pytest.mark.parametrize(("labels", "classes"), RIGHT)
def test_labels_of_one_type_are_the_classes(labels: list[Any], classes: tuple[str, ...], tmp_path: Path) -> None:
    path = labelled(tmp_path, labels)
    opened = Text(path=path, test=path).open()
    assert opened.classes == classes
    assert [opened.classes[row["label"]] for row in opened.rows["train"]] == [str(label).strip() for label in labels]


@pytest.mark.parametrize(("labels", "sentence"), WRONG)
def test_labels_that_are_no_classes_are_refused_with_the_way_out(
    labels: list[Any], sentence: str, tmp_path: Path
) -> None:
    path = labelled(tmp_path, labels)
    with pytest.raises(InputError, match=sentence):
        Text(path=path, test=path).open()


@pytest.mark.parametrize("label", [True, None, "fine", [1.0], {"a": 1}, float("inf")])
def test_values_that_are_no_numbers_are_refused(label: Any, tmp_path: Path) -> None:
    path = labelled(tmp_path, [1.5, label])
    with pytest.raises(InputError, match=r"example 2, has .*for a number; (correct it|give a finite one|write 1 or 0)"):
        Text(path=path, test=path, kind="value").open()


def test_a_text_of_another_type_is_told(tmp_path: Path) -> None:
    path = of(tmp_path / "a.jsonl", '{"text": ["a"], "label": "x"}\n')
    with pytest.raises(InputError, match=r"example 1, has no text but \"\['a'\]\", of type list; write it as a string"):
        Text(path=path, test=path).open()


def test_what_is_cut_or_left_out_is_counted_and_named(tmp_path: Path) -> None:
    path = of(tmp_path / "a.csv", "text,label\n" + "".join(f"{'a' * length},x\n" for length in (3, 90, 4, 80)))
    cut = Text(path=path, test=path, length=50, truncate=True).open()
    assert [str(note).partition(" of ")[2] for note in cut.notes] == [
        f"4 examples of {path} have more than data.length=50 tokens and are cut: example 2, example 4"
    ]
    pairs = of(tmp_path / "b.csv", "source,target\n" + "".join(f"{'a ' * length},x\n" for length in (3, 90, 4, 80)))
    other = of(tmp_path / "c.csv", "source,target\na a,x\n")
    left = Pairs(path=pairs, test=other, length=10, skip=True, tokenizer="bpe:300").open()
    assert [(note.names, note.total) for note in left.notes] == [(("train pair 2", "train pair 4"), 4)]
    assert "have more than data.length=10 tokens and are left out" in str(left.notes[0])


@pytest.mark.slow
def test_standard_input_in_another_encoding_is_told_with_a_command_that_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sound: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("café\n".encode("latin-1")), encoding="utf-8"))
    assert main(["predict", str(sound / "run"), "-"]) == 2
    said = capsys.readouterr().err
    command = re.search(r"(iconv -f \S+ -t UTF-8)", said)
    assert command is not None
    assert (
        subprocess.run(command[1], shell=True, check=True, input="café".encode("latin-1"), capture_output=True).stdout
        == "café".encode()
    )


@pytest.mark.slow
def test_training_and_prediction_read_the_same_rows_of_a_table_and_say_so(
    sound: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    rows = [(text[:40], "good" if label == "1" else "bad") for text, label in REVIEWS[:3]] + [
        ('he ended it"', "good"),
        ("fine", "good"),
    ]
    of(tmp_path / "reviews.tsv", lines(rows))
    of(tmp_path / "train.csv", TRAIN)
    run = str(sound / "run")
    assert main(["predict", run, "reviews.tsv", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [answer["input"] for answer in json.loads(out)["answers"]] == [text for text, _ in rows]
    assert "quotation marks are read as part of the text" in err
    assert main(["eval", run, "--data", "reviews.tsv", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "quotation marks are read as part of the text" in json.loads(out)["data"][0]["said"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_a_text_in_blocks_is_the_whole_text(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.txt"
    for text in (
        "a\r\n\r\rb\n",
        "a\rb\r",
        "\ufeffa\n\ufeff\ufeffb\ufeff\n\ufeff",
        "\r\n\ufeffx\r",
        "数\n字\r\n\U0001f642",
        "a",
    ):
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
            path.write_bytes(text.encode(encoding))
            assert "".join(read_blocks(str(path), size)) == read_whole(str(path))
    for data in (b"a\n\0b", b"a\ncaf\xe9", b" \n", b"", b"a\n\xe6\x95", b"\xff\xfea\0\n\0b", b"\xff\xfea"):
        path.write_bytes(data)
        with pytest.raises(InputError) as whole:
            read_whole(str(path))
        with pytest.raises(InputError) as blocks:
            list(read_blocks(str(path), size))
        assert str(blocks.value) == str(whole.value)
