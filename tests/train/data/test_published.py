"""The published sets themselves: sizes and splits, of those on a package index and of those below $MORPHAX_DATA."""

import os
from pathlib import Path

import numpy as np
import pytest

from train.data import published
from train.data.sources import open_dataset
from train.errors import InputError

pytestmark = pytest.mark.slow
FOLDER = os.environ.get("MORPHAX_DATA", "")  # of multi30k, bccd and tinyshakespeare, which no package ships


@pytest.fixture(autouse=True)
def _kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # not where stand-ins are prepared under the same names
    monkeypatch.setenv("MORPHAX_CACHE", str(cache.with_name("published")))


def columns(name: str, part: str, column: str) -> list[object]:
    examples = open_dataset(name, part).examples
    return [examples[index][column] for index in range(len(examples))]


@pytest.mark.parametrize(("name", "sizes", "classes"), [("reuters_r8", (5485, 2189), 8), ("tweets", (29814, 7383), 3)])
def test_texts_are_split_without_a_common_sentence(name: str, sizes: tuple[int, int], classes: int) -> None:
    parts = {part: open_dataset(name, part) for part in ("train", "test")}
    rows = {part: [split.examples[index] for index in range(len(split.examples))] for part, split in parts.items()}
    assert tuple(len(some) for some in rows.values()) == sizes
    assert len(parts["train"].names["label"]) == classes
    for some in rows.values():
        assert set(np.unique([row["label"] for row in some])) == set(range(classes))
    if name == "tweets":
        texts = [{row["text"] for row in some} for some in rows.values()]
        assert not texts[0] & texts[1]


def test_whole_plays_are_held_out() -> None:
    titles = [columns("shakespeare_plays", part, "title") for part in ("train", "test")]
    assert (len(set(titles[0])), len(set(titles[1]))) == (38, 4)
    assert not set(titles[0]) & set(titles[1])
    assert (
        sum(len(text) for text in columns("shakespeare_plays", "train", "text") if isinstance(text, bytes)) > 4_000_000
    )


def paired(name: str, sizes: tuple[int, int]) -> None:
    """Both splits have their sizes and no source in common."""
    sources = [columns(name, part, "source") for part in ("train", "test")]
    assert tuple(map(len, sources)) == sizes
    assert not set(sources[0]) & set(sources[1])


def test_generated_numbers_are_in_one_split_only() -> None:
    paired("number_words", (20_000, 1_000))


def test_what_is_below_the_named_folder_is_the_published_set() -> None:
    assert FOLDER, "set MORPHAX_DATA to the folder that holds multi30k, bccd and tinyshakespeare"
    paired("multi30k/en-de", (29_000, 1_000))
    assert [len(open_dataset("bccd", part).examples) for part in ("train", "validation", "test")] == [205, 87, 72]
    assert [len(columns("tiny_shakespeare", part, "text")) for part in ("train", "test")] == [1, 1]


@pytest.mark.parametrize("name", ["multi30k/en-de", "bccd", "tiny_shakespeare"])
def test_a_folder_that_nobody_named_is_not_looked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for inner in ("multi30k", "bccd", "tinyshakespeare"):
        (tmp_path / "shared" / "data" / inner).mkdir(parents=True)
        (tmp_path / "shared" / "data" / inner / "input.txt").write_text("not what was published", encoding="utf-8")
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MORPHAX_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def unreachable(*_: object, **__: object) -> None:
        raise TimeoutError("nobody answers")

    monkeypatch.setattr(published.urllib.request, "urlopen", unreachable)
    with pytest.raises(InputError, match="could not be fetched.*MORPHAX_DATA"):
        open_dataset(name, "test")
