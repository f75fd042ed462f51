"""Batches as a pure function of data, seed and step; readers of the user's files; the builders' real data."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.places import ROOT
from train.data.batches import Arrays, Batches, Pack, Pad
from train.data.builders.movie_snippets import MovieSnippets
from train.data.sources import open_dataset, read
from train.data.sources.tfds import get_features, make_builder, silence
from train.data.tasks.corpus import Corpus, Masking
from train.data.tasks.text import Text
from train.errors import InputError

COUNT, LENGTH = 101, 24


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sentences of 2 to 20 letters; the value of each is its number, so that it can be told from the others."""
    chance = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("table") / "table.csv"
    lines = [f"{''.join(chance.choice(list('abcdefgh'), chance.integers(2, 21)))},{number}" for number in range(COUNT)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture(params=["packed", "padded", "windows", "masked"])
def make(request: pytest.FixtureRequest, table: str, prose: str) -> Callable[[int | None], Batches]:
    """seed -> batches, of every kind of data."""
    if request.param in ("packed", "padded"):
        opened: Any = Text(
            path=table, test=table, kind="value", length=LENGTH, segments=3, pack=request.param == "packed"
        ).open()
    else:
        opened = Corpus(
            path=prose, test=prose, length=32, masking=Masking(token="~") if request.param == "masked" else None
        ).open()
    return lambda seed: opened.batches("train", 8, 4, seed)


def same(left: Arrays, right: Arrays) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
        assert left[name].dtype == right[name].dtype


def numbers(batches: Batches, steps: Sequence[int]) -> list[int]:
    """The numbers of the sentences in some batches."""
    return [int(value) for step in steps for value in batches[step]["values"][batches[step]["weights"] > 0].ravel()]


def test_a_batch_does_not_depend_on_what_was_asked_before(make: Callable[[int | None], Batches]) -> None:
    batches = make(7)
    last = 2 * len(batches) + 3
    forward = {step: batches[step] for step in range(last)}
    for step in (last - 1, 0, len(batches), 5):
        same(make(7)[step], forward[step])
        same(batches[step], forward[step])


def test_a_stream_is_the_batches_of_its_steps(make: Callable[[int | None], Batches]) -> None:
    batches = make(7)
    start, stop = len(batches) - 2, len(batches) + 3
    streamed = list(batches.stream(start, stop))
    assert len(streamed) == stop - start
    for step, batch in enumerate(streamed, start):
        same(batch, batches[step])


def test_another_seed_gives_other_batches(make: Callable[[int | None], Batches]) -> None:
    one, other = make(7)[0]["tokens"], make(8)[0]["tokens"]
    assert one.shape != other.shape or (one != other).any()


@pytest.mark.represented_by("0-packed", "3-padded", "None-packed")
@pytest.mark.parametrize("pack", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("seed", [0, 3, None])
def test_every_example_comes_exactly_once_an_epoch(table: str, pack: bool, seed: int | None) -> None:
    batches = (
        Text(path=table, test=table, kind="value", length=LENGTH, segments=3, pack=pack)
        .open()
        .batches("train", 8, 4, seed)
    )
    assert len(batches) == 13
    epochs = [numbers(batches, range(epoch * 13, epoch * 13 + 13)) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(COUNT))
    different = {tuple(epoch) for epoch in epochs}
    assert len(different) == (1 if seed is None else 3)


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "padded"])
def test_a_batch_holds_the_tokens_of_its_sentences_and_nothing_else(table: str, pack: bool) -> None:
    texts = [row["text"] for row in read(table).examples]
    batches = (
        Text(path=table, test=table, kind="value", length=LENGTH, segments=3, pack=pack)
        .open()
        .batches("train", 8, 4, 1)
    )
    for step in range(len(batches)):
        batch = batches[step]
        weights, values = (
            batch["weights"].reshape(len(batch["tokens"]), -1),
            batch["values"].reshape(len(batch["tokens"]), -1),
        )
        starts = batch.get("starts", np.zeros_like(weights, np.int32))
        for row, (tokens, segments, positions) in enumerate(
            zip(batch["tokens"], batch["segments"], batch["positions"], strict=True)
        ):
            assert set(segments) - {0} == set(range(1, int(weights[row].sum()) + 1))
            assert not tokens[segments == 0].any()
            for place in np.flatnonzero(weights[row]):
                own = segments == place + 1
                assert bytes(tokens[own].astype(np.uint8)).decode() == texts[int(values[row, place])]
                np.testing.assert_array_equal(positions[own], np.arange(own.sum()))
                np.testing.assert_array_equal(np.flatnonzero(own), starts[row, place] + np.arange(own.sum()))


def first_fit(lengths: Sequence[int], length: int, most: int) -> int:
    """Rows that first fit needs, in the order given."""
    rows: list[list[int]] = []
    for size in lengths:
        row = next((row for row in rows if sum(row) + size <= length and len(row) < most), None)
        if row is None:
            rows.append([size])
        else:
            row.append(size)
    return len(rows)


def test_a_plan_fills_no_row_beyond_its_room_and_places_every_example_once() -> None:
    chance = np.random.default_rng(0)
    for _ in range(50):
        most = int(chance.integers(1, 7))
        lengths = [int(size) for size in chance.integers(1, 33, 40)]
        plan = Pack(32, most, 1, 1).plan(lengths)
        assert sorted(index for row in plan for index in row) == list(range(40))
        assert all(sum(lengths[index] for index in row) <= 32 for row in plan)
        assert all(1 <= len(row) <= most for row in plan)
        assert len(plan) >= max(-(-sum(lengths) // 32), -(-40 // most))
        assert len(plan) <= first_fit(lengths, 32, most)


def test_best_fit_takes_the_fullest_row_that_has_room() -> None:
    assert Pack(10, 4, 1, 1).plan([6, 7, 3, 4]) == [[1, 2], [0, 3]]
    assert Pack(10, 4, 1, 1).plan([5, 7, 3]) == [[1, 2], [0]]
    assert Pack(10, 1, 1, 1).plan([3, 4]) == [[1], [0]]
    assert Pack(10, 2, 1, 1).plan([2, 2, 2, 2]) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("multiple", [1, 4, 16])
def test_rows_come_in_multiples(table: str, prose: str, multiple: int) -> None:
    for data in (
        Text(path=table, test=table, kind="value", length=LENGTH),
        Text(path=table, test=table, kind="value", length=LENGTH, pack=False),
        Corpus(path=prose, test=prose, length=32),
    ):
        batches = data.open().batches("train", 10, multiple, 0)
        counts = {len(batches[step]["tokens"]) for step in range(len(batches))}
        assert all(count % multiple == 0 for count in counts)
        assert min(counts) > 0
        if not (isinstance(data, Text) and data.pack):
            assert counts == {-(-10 // multiple) * multiple}


def test_packing_takes_the_rows_that_a_batch_needs_and_at_least_its_floor() -> None:
    members = [{"tokens": np.arange(5)} for _ in range(6)]
    assert len(Pack(10, 4, 1, 1)(members)["tokens"]) == 3
    assert len(Pack(10, 4, 5, 1)(members)["tokens"]) == 5
    assert len(Pack(10, 4, 3, 4)(members)["tokens"]) == 4


@pytest.mark.parametrize(("longest", "width"), [(1, 4), (4, 4), (5, 8), (8, 8), (9, 20), (20, 20)])
def test_padding_goes_to_the_smallest_bucket_that_holds_the_longest(longest: int, width: int) -> None:
    members = [{"tokens": np.arange(1, size + 1)} for size in {1, longest}]
    batch = Pad([4, 8, 20], 3, 2)(members)
    assert batch["tokens"].shape == (4, width)
    assert batch["weights"].tolist() == [1.0] * len(members) + [0.0] * (4 - len(members))
    assert "starts" not in batch


def test_padded_batches_are_sorted_by_length_within_a_window(table: str) -> None:
    data = Text(path=table, test=table, kind="value", length=LENGTH, buckets=(4, 8, 12, 16, 32), pack=False)
    batches = data.open().batches("train", 8, 1, 0)
    widths = [batches[step]["tokens"].shape[1] for step in range(len(batches))]
    assert set(widths) <= {4, 8, 12, 16, LENGTH}
    assert sum(widths) < len(batches) * max(widths)
    assert widths != sorted(widths)  # yet training does not go from short to long


def test_questions_keep_their_order_and_stand_alone(table: str) -> None:
    opened = Text(path=table, kind="value", length=LENGTH).reader()
    texts = ["ccc", "a", "bb", "dddd", "e"]
    batches = opened.questions(texts, 2, 1)
    asked = [
        bytes(row[row > 0].astype(np.uint8)).decode() for step in range(len(batches)) for row in batches[step]["tokens"]
    ]
    assert [text for text in asked if text] == texts


@pytest.mark.slow
def test_movie_snippets_builds_balanced_splits_that_share_no_sentence(tmp_path: Path) -> None:
    with silence():
        builder: Any = MovieSnippets(config="labels", data_dir=tmp_path, file_format="array_record")
        builder.download_and_prepare(file_format="array_record")
    rows = {part: list(builder.as_data_source(part)) for part in ("train", "test")}
    assert {part: len(some) for part, some in rows.items()} == {"train": 8021, "test": 2049}
    texts = {part: {row["text"] for row in some} for part, some in rows.items()}
    assert len(texts["train"]) == 8021
    assert not texts["train"] & texts["test"]
    for some in rows.values():
        assert np.mean([row["label"] for row in some]) == pytest.approx(0.5, abs=0.025)
        assert all(abs(row["score"]) >= 0.5 and (row["score"] > 0) == row["label"] for row in some)
    assert "MIT" in builder.info.redistribution_info.license
    assert builder.info.features["label"].names == ["negative", "positive"]


def test_a_split_of_a_data_set_is_read_by_place() -> None:
    split = open_dataset("movie_snippets/labels", "test")
    assert len(split.examples) == 2049
    assert split.names == {"label": ("negative", "positive")}
    assert split.examples[7] == split.examples[7]


def test_a_slice_of_a_split_is_its_part_and_a_wrong_one_is_one_sentence() -> None:
    whole, part = open_dataset("movie_snippets/labels", "test"), open_dataset("movie_snippets/labels", "test[10:14]")
    assert [part.examples[place] for place in range(len(part.examples))] == [
        whole.examples[place] for place in range(10, 14)
    ]
    with pytest.raises(InputError, match=r"has no slice 'test\[:x\]' .*write one as 'test\[:500\]'"):
        open_dataset("movie_snippets/labels", "test[:x]")
    with pytest.raises(InputError, match=r"has no slice 'test\[:9999\]' .*2049 examples"):
        open_dataset("movie_snippets/labels", "test[:9999]")


def test_a_data_set_of_ours_may_have_a_name_of_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorflow_datasets.core.features import ClassLabel

    with pytest.raises(InputError, match="No data set is called"):
        make_builder("no_such_set")  # after which the catalogue is known
    monkeypatch.delitem(sys.modules, "train.data.builders.fashion_mnist", raising=False)
    label = get_features(make_builder("fashion_mnist"))["label"]
    assert isinstance(label, ClassLabel)
    assert label.names[0] == "t-shirt"


def test_clips_that_are_simulated_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "highway_env.road.road", None)
    with pytest.raises(InputError, match=r"simulated by highway-env; run `pip install 'morphax\[drive\]'`"):
        open_dataset("highway_manoeuvres/few", "train")


DRY = """
import sys
from train.data.tasks.text import Text
opened = Text("movie_snippets/labels", length=512).open()
batch = opened.batches("train", 8, 1, 0)[0]
found = sorted(name for name in sys.modules if name.partition(".")[0] == "tensorflow")
print(len(opened.rows["train"]), opened.classes, batch["weights"].sum(), found)
"""


@pytest.mark.slow
def test_tensorflow_is_never_imported() -> None:
    done = subprocess.run([sys.executable, "-c", DRY], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "8021 ('negative', 'positive') 8.0 []"
