"""JSON lines of which only the offsets are kept."""

import os
from pathlib import Path

import pytest

from train.data.sources import Split
from train.data.sources.json_lines import read
from train.errors import InputError


def read_large(path: Path) -> Split:
    """Reads a small file as large ones are read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.data.sources.json_lines.LARGE", path.stat().st_size)
        return read(str(path))


SOUND = {
    "plain": '{"text": "a", "n": 1}\n{"text": "b"}\n',
    "no end": '{"text": "a"}\n{"text": "b"}',
    "marks": '\ufeff{"text": "\ufeffa"}\n\ufeff{"text": "b"}\n',
    "two marks": '\ufeff\ufeff{"text": "a"}\n{"text": "\ud55c\U0001f642"}\n',
    "empty lines": '\n \n{"text": "a"}\r\n\r\n \u00a0\n{"text": "b\\n\\u2028"}\n\n\n',
    "one line": '{"text": "a"}\n',
    "old ends": '{"text": "a"}\r{"text": "b"}\r',
}
FAULTY = {
    "no JSON": b'{"text": "a"}\n{"text": }\n',
    "array": b'[1, 2]\n[{"text": "a"}]\n',
    "half a pair": b'{"text": "a"}\n{"text": "\\ud83d"}\n',
    "Latin-1": b'{"text": "a"}\n{"text": "caf\xe9"}\n',
    "late fault": b'{"text": }\n{"text": "caf\xe9"}\n',
    "NUL": b'{"text": "a"}\n{"text": "b\0"}\n',
    "number": b"1\n2\n",
}


@pytest.mark.parametrize("name", SOUND)
def test_rows_by_their_offsets_are_those_in_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(SOUND[name], encoding="utf-8", newline="")
    inside, offsets = read(str(path)), read_large(path)
    assert isinstance(inside.examples, list)
    assert list(offsets.examples) == inside.examples
    assert isinstance(offsets.examples, list) is (name == "old ends")
    assert offsets.examples[-1] == inside.examples[-1]
    assert list(offsets.examples[1:]) == inside.examples[1:]
    with pytest.raises(IndexError):
        offsets.examples[len(inside.examples)]
    for column in inside.examples[0]:
        assert offsets.read_column(column) == inside.read_column(column)
    for part in ("train", "test"):
        ours, theirs = (split.divide("text", 0.5)[part] for split in (offsets, inside))
        assert list(ours.examples) == list(theirs.examples)
        assert [ours.where(index) for index in range(len(ours.examples))] == [
            theirs.where(index) for index in range(len(theirs.examples))
        ]


def test_rows_in_utf_16_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "\u0a0a"}\n', encoding="utf-16")
    assert [row["text"] for row in read_large(path).examples] == ["a", "\u0a0a"]


@pytest.mark.parametrize("name", FAULTY)
def test_what_is_wrong_with_a_large_file_is_said_as_of_a_small_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(FAULTY[name])
    said = []
    for reader in (lambda path: read(str(path)), read_large):
        with pytest.raises(InputError) as caught:
            reader(path)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_file_that_changes_while_it_is_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n', encoding="utf-8")
    split = read_large(path)
    assert split.examples[1] == {"text": "b"}
    os.replace(path, tmp_path / "moved.jsonl")
    assert split.examples[1] == {"text": "b"}
    (tmp_path / "moved.jsonl").write_text('{"text": "c"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="has changed while it was read; run the same command again"):
        split.examples[1]
