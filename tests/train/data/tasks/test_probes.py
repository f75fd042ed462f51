"""Probes have the answers that their rules say, at every length."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from train.data.batches import Arrays
from train.data.tasks.circuits import PEOPLE, WORDS, IndirectObjects
from train.data.tasks.probes import (
    Compression,
    Copy,
    FuzzyRecall,
    Induction,
    Memorisation,
    Needle,
    NoisyRecall,
    Parity,
    StateTracking,
    _make_group,
)

TASKS = [
    Copy(),
    Induction(),
    Needle(),
    NoisyRecall(),
    FuzzyRecall(),
    Memorisation(),
    Compression(),
    Parity(),
    StateTracking(),
    IndirectObjects(),
]


def batch(task: Any, part: Any = "train") -> Arrays:
    return task.open().batches(part, 8, 1, 0)[1]


def rows(arrays: Arrays) -> list[tuple[list[int], list[int], list[int]]]:
    """Of each row its tokens, its labels, and the places that are asked for."""
    return [
        (tokens.tolist(), labels.tolist(), np.flatnonzero(weights).tolist())
        for tokens, labels, weights in zip(arrays["tokens"], arrays["labels"], arrays["weights"], strict=True)
    ]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_batches_are_in_the_vocabulary_and_a_function_of_seed_and_step(task: Any) -> None:
    opened = task.open()
    first, again = (opened.batches("train", 8, 1, 0)[1] for _ in range(2))
    assert first["tokens"].shape == (8, task.length)
    assert first["weights"].sum() > 0
    assert first["tokens"].min() >= 0
    assert max(first["tokens"].max(), first["labels"].max()) < task.vocab
    np.testing.assert_array_equal(first["tokens"], again["tokens"])
    others = (opened.batches("train", 8, 1, 1)[1], opened.batches("test", 8, 1, 0)[1])
    assert all((first["tokens"] != other["tokens"]).any() for other in others)


@pytest.mark.parametrize("task", [Copy(), Induction(), Needle(), Parity(), StateTracking()], ids=str)
def test_held_out_rows_are_as_many_times_as_long_as_asked(task: Any) -> None:
    longer = dataclasses.replace(task, stretch=2.5)
    assert batch(longer, "train")["tokens"].shape[1] == task.length
    assert batch(longer, "test")["tokens"].shape[1] == round(2.5 * task.length)
    assert longer.open().length == round(2.5 * task.length)


def test_answers_are_those_of_the_rules() -> None:
    for tokens, labels, asked in rows(batch(Copy(length=10))):
        assert asked == [5, 6, 7, 8, 9]
        assert labels[5:] == tokens[:5]
    for tokens, labels, asked in rows(batch(Induction())):
        assert asked == [31]
        assert tokens.count(0) == 2
        assert labels[31] == tokens[tokens.index(0) + 1] != 0
    for tokens, labels, asked in rows(batch(Needle())):
        assert asked == [63]
        assert labels[63] == tokens[tokens.index(tokens[63]) + 1]
    for tokens, labels, asked in rows(batch(NoisyRecall())):
        assert len(asked) == len({tokens[place] for place in asked}) == 4
        assert all(labels[place] == tokens[tokens.index(tokens[place]) + 1] for place in asked)
    for tokens, labels, asked in rows(batch(FuzzyRecall())):
        pairs = {tuple(tokens[start : start + 2]): tokens[start + 2] for start in range(0, 12, 3)}
        assert len(pairs) == len(asked) == 4
        assert all(labels[place] == pairs[tuple(tokens[place - 1 : place + 1])] for place in asked)
    table: dict[int, int] = {}
    for tokens, labels, asked in rows(batch(Compression(length=9))):
        assert (tokens[-1], asked) == (15, list(range(8)))
        assert labels[:-1] == tokens[:-1]
    for tokens, labels, _ in rows(batch(Memorisation())) + rows(batch(Memorisation(), "test")):
        assert all(table.setdefault(key, value) == value for key, value in zip(tokens, labels, strict=True))
    for tokens, labels, _ in rows(batch(Parity())):
        assert labels == [sum(tokens[: place + 1]) % 2 for place in range(32)]
    group, _ = _make_group(5)
    for tokens, labels, _ in rows(batch(StateTracking())):
        state = tuple(range(5))
        for token, label in zip(tokens, labels, strict=True):
            state = tuple(group[token][item] for item in state)
            assert group[label] == state


def test_an_indirect_object_is_the_name_that_is_not_repeated() -> None:
    task = IndirectObjects()
    opened = task.open()
    pairs = task.make_pairs(np.random.default_rng(0), 50)
    assert (opened.names, opened.vocab) == (WORDS, len(WORDS))
    orders = set()
    for row in range(50):
        clean, other = ([WORDS[token] for token in each["tokens"][row]] for each in (pairs.clean, pairs.corrupted))
        first, second, third = named = [word for word in clean if word in PEOPLE]
        right, wrong = WORDS[pairs.right[row]], WORDS[pairs.wrong[row]]
        orders.add((first == right, clean[0]))
        assert named.count(right) == 1
        assert {first, second} == {right, wrong}
        assert third == wrong
        assert clean[pairs.at[row]] == "to"
        assert set(clean[pairs.at[row] + 1 :]) == {"[PAD]"}
        assert pairs.clean["labels"][row, pairs.at[row]] == pairs.right[row]
        strangers = [word for word in other if word in PEOPLE]
        assert len({*strangers, right, wrong}) == 5
        assert [word for word in clean if word not in PEOPLE] == [word for word in other if word not in PEOPLE]
    assert len(orders) == 8


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Copy(length=1), "Copy has length 1"),
        (lambda: NoisyRecall(pairs=20), "give 80 or more"),
        (lambda: StateTracking(items=9), "9 items and 120 tokens; give 2 to 5"),
        (lambda: FuzzyRecall(width=1), "keys of 1 tokens; give 2 or more"),
        (lambda: Parity(held=0), "0 held out"),
        (lambda: IndirectObjects(length=9), "IndirectObjects has length 9, .* give 15 or more, 67 or more"),
    ],
)
def test_a_probe_that_cannot_be_made_is_refused(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()
