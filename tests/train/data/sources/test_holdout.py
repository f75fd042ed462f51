"""Where examples come from, and what is held out: answered once, for every task."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from train.contracts import PART
from train.data import tasks
from train.data.sources import Sourced, divide, divide_by_rank, find_cut, open_parts
from train.data.tasks.corpus import Corpus
from train.spec.parts import list_project_parts

TASKS: dict[str, Callable[..., object]] = {
    name: kind
    for name, kind in list_project_parts().items()
    if isinstance(kind, type)
    and dataclasses.is_dataclass(kind)
    and "holdout" in {field.name for field in dataclasses.fields(kind)}
}
NAMES = [f"film {number}" for number in range(200)]


def test_every_task_that_reads_files_holds_a_part_out() -> None:
    assert set(TASKS) >= {"Boxes", "Clips", "Corpus", "Drives", "Images", "Pairs", "Series", "Text"}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_a_share_that_leaves_a_part_empty_is_refused_by_every_task(name: str, share: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name}\.holdout is {share}; give a part of the \w+ between 0 and 1\.$"):
        TASKS[name](holdout=share)


@pytest.mark.parametrize("name", TASKS)
def test_a_test_file_without_a_training_file_is_refused_by_every_task(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}\.test is given without path; give what to train on as path too\.$"):
        TASKS[name](test="test.csv")


def test_no_task_decides_by_itself_where_examples_come_from() -> None:
    files = sorted(Path(tasks.__path__[0]).glob("*.py"))
    own = re.compile(r"hashlib|md5\(|\.splits\[part ==|1 - self\.holdout|self\.holdout \*|< self\.holdout")
    assert [file.name for file in files if own.search(file.read_text(encoding="utf-8"))] == []


def test_an_item_is_held_out_by_its_own_key_alone() -> None:
    parts = divide(NAMES, NAMES, 0.25)
    assert sorted(parts["train"] + parts["test"]) == sorted(NAMES)
    assert parts["test"] == [
        name for name in NAMES if int.from_bytes(hashlib.md5(name.encode()).digest()[:4], "big") / 2**32 < 0.25
    ]
    assert 30 < len(parts["test"]) < 70
    some = NAMES[50:]
    assert divide(some, some, 0.25)["test"] == [name for name in parts["test"] if name in some]
    assert divide(range(4), ["same"] * 4, 0.9) == {"train": [], "test": [0, 1, 2, 3]}


@pytest.mark.parametrize(("count", "share", "tested"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 2), (10, 0.26, 3)])
def test_a_rank_leaves_at_least_one_item_to_each_part(count: int, share: float, tested: int) -> None:
    parts = divide_by_rank(range(count), NAMES[:count], share)
    assert len(parts["test"]) == tested
    assert sorted(parts["train"] + parts["test"]) == list(range(count))
    order = sorted(range(count), key=lambda index: hashlib.md5(NAMES[index].encode()).hexdigest())
    assert parts["test"] + parts["train"] == order


@pytest.mark.parametrize(
    ("count", "share", "below", "nearest"), [(10, 0.2, 8, 8), (11, 0.2, 8, 9), (100, 0.1, 90, 90), (3, 0.9, 0, 0)]
)
def test_the_end_of_a_sequence_begins_at_the_cut(count: int, share: float, below: int, nearest: int) -> None:
    assert (find_cut(count, share), find_cut(count, share, nearest=True)) == (below, nearest)


SOURCES: dict[str, tuple[Sourced, Mapping[PART | None, Mapping[PART, str]]]] = {
    "a data set": (
        Corpus(dataset="plays", splits=("first", "second")),
        {None: {"train": "plays first", "test": "plays second"}, "test": {"test": "plays second"}},
    ),
    "two files": (
        Corpus(path="a", test="b"),
        {None: {"train": "read a train", "test": "read b test"}, "train": {"train": "read a train"}},
    ),
    "a file": (
        Corpus(path="a"),
        {None: {"train": "most of read a train", "test": "rest"}, "test": {"test": "rest"}},
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_settings_decide_where_each_part_comes_from(name: str) -> None:
    settings, expected = SOURCES[name]
    for only, parts in expected.items():
        opened = open_parts(
            settings,
            only,
            lambda dataset, split: f"{dataset} {split}",
            lambda path, part: f"read {path} {part}",
            lambda whole: {"train": f"most of {whole}", "test": "rest"},
        )
        assert opened == parts
