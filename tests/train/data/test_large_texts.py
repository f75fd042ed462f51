"""Data sets of large files: batches as from memory, in memory that does not grow with the file."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.places import ROOT
from train.data.sources import read
from train.data.tasks.corpus import Corpus, Masking
from train.data.tasks.pairs import Pairs
from train.data.tasks.text import Text
from train.data.tokens import Learnt, Published

DATA: dict[str, Callable[[str], Any]] = {
    "classes": lambda path: Text(path=path, length=64, truncate=True),
    "values": lambda path: Text(path=path, target="score", kind="value", length=200, pack=False),
    "pairs": lambda path: Pairs(path=path, source="text", target="other", tokenizer="bpe:300", length=256),
    "rows": lambda path: Corpus(path=path, length=32, masking=Masking(token="~")),
    "text": lambda path: Corpus(path=path.replace("jsonl", "txt"), length=32, tokenizer="bpe:300"),
}


def write(folder: Path, rows: int) -> str:
    """Writes rows as JSON lines and as a text, with several bytes a character and lines of many lengths, that
    repeat in the end.
    """
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghiéü数字", k=chance.randint(1, 9))) for _ in range(500)]
    some = [[" ".join(chance.choices(words, k=chance.randint(1, 9))) for _ in range(2)] for _ in range(300)]
    files = ((folder / name).open("w", encoding="utf-8") for name in ("a.jsonl", "a.txt"))
    with next(files) as table, next(files) as text:
        for number in (row % 977 for row in range(rows)):  # of few words, whose counts byte pairs are learnt from
            first, other = some[number % len(some)]
            row = {"text": f"{number} {first}", "other": other, "label": "abc"[number % 3], "score": number / 7}
            table.write(json.dumps(row, ensure_ascii=False) + "\n")
            text.write(f"{number} {first}\n")
    return str(folder / "a.jsonl")


def collect(spec: Any) -> dict[str, Any]:
    """All batches of two epochs of both parts, and what else a data set says of its examples."""
    opened = spec.open()
    batches = {part: opened.batches(part, 16, 2, seed) for part, seed in (("train", 3), ("test", None))}
    found: dict[str, Any] = {part: [some[step] for step in range(2 * len(some))] for part, some in batches.items()}
    shown = [opened.show_example("test", index) for index in range(9)] if hasattr(opened, "show_example") else []
    return found | {"classes": opened.classes, "notes": list(map(str, opened.notes)), "shown": shown}


@pytest.mark.represented_by("classes", "text")
@pytest.mark.parametrize("name", DATA)
def test_batches_of_a_large_file_are_those_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write(tmp_path, 300)
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path / "cache"))
    small = collect(DATA[name](path))
    assert not (tmp_path / "cache").exists()
    for limit in ("encoded.IN_MEMORY", "sources.json_lines.LARGE"):
        monkeypatch.setattr(f"train.data.{limit}", 1000)
    assert name == "text" or not isinstance(read(path).examples, list)
    for _ in range(2):  # tokenised, and from the cache
        large = collect(DATA[name](path))
        assert (tmp_path / "cache" / "tokens").is_dir()
        np.testing.assert_equal(large, small)


def test_byte_pairs_of_a_text_in_blocks_are_learnt_from_its_lines(tmp_path: Path) -> None:
    text = "one\r\ntwo\u2028three\x0b four\n\n five" * 40
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    opened = Corpus(path=str(path), test=str(path), length=8, tokenizer="bpe:290").open()
    learnt = Learnt(text.replace("\r\n", "\n").splitlines(), 290)
    assert isinstance(opened.tokens, Published)
    assert opened.tokens.to_json() == learnt.to_json()


MEASURE = """
import resource, sys
from pathlib import Path
from tests.train.data.test_large_texts import DATA
batches = DATA[sys.argv[1]](sys.argv[2]).open().batches("train", 8, 1, 0)
batches[0], batches[1]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A file of some 11 MB and one ten times as large."""
    return [write(tmp_path_factory.mktemp("large"), rows) for rows in (80_000, 800_000)]


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, files: list[str], name: str) -> None:
    small, large = (Path(path).stat().st_size for path in files)
    peaks: list[int] = []
    for path in files:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, name, path],
            cwd=ROOT,
            env=os.environ | {"MORPHAX_CACHE": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert large - small > 90 * 2**20
    assert peaks[1] - peaks[0] < 32 * 2**20 + 40 * 720_000  # and some tens of bytes a row
