"""Batches of questions: few shapes, all of them known at the start, and each question's output at its place."""

from pathlib import Path

import numpy as np
import pytest

from train.contracts import Arrays
from train.engine.folder import open_run
from train.engine.prepared import prepare_inference
from train.use.evaluate import restore_params
from train.use.serving.batching import pull
from train.use.serving.inputs import get_shape
from train.use.serving.shapes import Joins, Packed, Stacked, choose_join, choose_rows

LENGTHS = (4, 8, 16, 24)
WAYS: dict[str, Joins] = {
    "stacked, of few shapes": Stacked([{"x": np.zeros((1, 3))}, {"x": np.zeros((1, 5))}], 12),
    "stacked, of many shapes": Stacked([{"x": np.zeros((1, count))} for count in range(2, 10)], 12),
    "packed": Packed(LENGTHS, 5, 12),
    "packed, one a row": Packed(LENGTHS, 1, 12),
    "packed, of one length": Packed((24,), 5, 12),
    "packed, one at a time": Packed(LENGTHS, 5, 1),
}


def make_question(chance: np.random.Generator) -> Arrays:
    """A question of 1 to 24 tokens, padded to 24."""
    count = int(chance.integers(1, 25))
    present = (np.arange(24) < count)[None].astype(np.int32)
    return {"tokens": present * chance.integers(1, 99, (1, 24), dtype=np.int32), "segments": present}


def measure(batch: Arrays) -> tuple[object, int]:
    """The shapes of a batch, with its rows."""
    return get_shape(batch), len(next(iter(batch.values())))


@pytest.mark.represented_by(*WAYS)
@pytest.mark.parametrize("name", WAYS)
def test_every_batch_has_a_shape_that_is_compiled_at_the_start(name: str) -> None:
    way, chance = WAYS[name], np.random.default_rng(0)
    known = {measure(batch) for batch, _ in way.list_batches()}
    shapes = way.shapes if isinstance(way, Stacked) else ()
    for _ in range(300):
        count = int(chance.integers(1, way.most + 1))
        if shapes:
            questions = [shapes[int(chance.integers(len(shapes)))]] * count
        else:
            questions = [make_question(chance) for _ in range(count)]
        assert len({way.key(question) for question in questions}) == 1
        batch, places = way.join(questions)
        assert measure(batch) in known
        assert len(set(places)) == len(places) == count


@pytest.mark.represented_by("packed")
@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if isinstance(way, Packed)])
def test_packed_questions_keep_their_tokens_and_their_places(name: str) -> None:
    way, chance = WAYS[name], np.random.default_rng(1)
    for count in range(1, way.most + 1):
        questions = [make_question(chance) for _ in range(count)]
        batch, places = way.join(questions)
        for question, place in zip(questions, places, strict=True):
            assert isinstance(place, tuple)
            row, number = place
            kept = batch["segments"][row] == number + 1
            ids = question["tokens"][question["segments"] > 0]
            assert batch["tokens"][row][kept].tolist() == ids.tolist()
            assert batch["starts"][place] == np.flatnonzero(kept)[0]
            assert batch["positions"][row][kept].tolist() == list(range(len(ids)))


def test_short_questions_share_shorter_rows() -> None:
    question: Arrays = {"tokens": np.ones((1, 4), np.int32), "segments": np.ones((1, 4), np.int32)}
    shapes = [Packed(LENGTHS, 5, 12).join([question] * count)[0]["tokens"].shape for count in (1, 2, 5, 6, 7, 12)]
    assert shapes == [(1, 4), (1, 8), (1, 24), (2, 16), (2, 16), (3, 16)]


def test_packed_questions_have_the_outputs_that_they_have_alone(classifier: Path) -> None:
    run = open_run(classifier)
    data = run.experiment.data.reader(run.classes)
    texts = ["a fine film", "dull", "a film " * 6, "of all the films the dullest", "fine"] * 4
    questions = [data.questions([text], 1, 1)[0] for text in texts]
    inference = prepare_inference(run.experiment, data, questions[0])
    _, params = restore_params(classifier, inference, best=False)
    way = choose_join(data, questions, 32)
    assert isinstance(way, Packed)
    batch, places = way.join(questions)
    assert len(batch["tokens"]) < len(questions)
    together = pull(inference.outputs(params, inference.parallel.put(batch)))
    assert isinstance(together, np.ndarray)
    for question, place in zip(questions, places, strict=True):
        alone = pull(inference.outputs(params, inference.parallel.put(question)))
        assert isinstance(alone, np.ndarray)
        np.testing.assert_allclose(together[place], alone[0], rtol=1e-5, atol=1e-6)


def test_row_counts_are_few() -> None:
    assert [choose_rows(most, fine=False) for most in (1, 4, 32)] == [(1,), (1, 4), (1, 4, 16, 32)]
    assert choose_rows(24, fine=True) == (1, 2, 3, 4, 6, 8, 12, 16, 24)
