"""Private runs spend what they say: across kills, until their epsilon, and on samples that nothing else decides."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.contracts import Batch
from tests.train.engine.runs import LANGUAGE_MODEL, SENTENCES, abstract, restored, same_end, train
from train.config import load_config
from train.contracts import Arrays
from train.data.batches import Batches
from train.data.poisson import Poisson, count_drawn, redraw
from train.engine.prepared import Prepared, prepare
from train.errors import InputError
from train.objectives import NextToken
from train.optimizers.accounting import Spent, compute_epsilon
from train.sinks.json_lines import read_metrics
from train.sums import Sum, Sums

OPEN = "optimizer=Private(AdamW(), noise=1.5, secret=false)"  # the randomness of the seed, to compare runs
DATA = ("data.pack=false", "data.labels=('bad', 'good')", "data.buckets=(48,)")
SHORT = ("steps=12", "evaluation.every=6", "checkpoints.every=4", "log_every=4")


@pytest.fixture(scope="module", autouse=True)
def _inside(workshop: Path) -> Iterator[None]:
    """The workshop as the working folder and the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop)
        patch.setenv("MORPHAX_CACHE", str(workshop / "cache"))
        yield


@pytest.fixture(scope="module")
def finished(workshop: Path) -> Path:
    """A private run that nothing happened to."""
    assert train(workshop / "private", OPEN, *SHORT) == 0
    return workshop / "private"


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def ready(*overrides: str) -> Prepared:
    experiment, _ = load_config(SENTENCES, [*DATA, *overrides])
    return prepare(experiment, experiment.data.open())


@pytest.mark.slow
def test_summary_log_checkpoint_and_report_have_the_epsilon_that_was_spent(finished: Path) -> None:
    said = summary_of(finished)["privacy"]
    share = said["sampled"] / said["examples"]
    assert said["steps"] == 12
    assert said["epsilon"] == compute_epsilon((Spent(1.5, share, 12),), 1e-5)
    logged = [line["train/epsilon"] for line in read_metrics(finished) if "train/epsilon" in line]
    assert logged == [compute_epsilon((Spent(1.5, share, step),), 1e-5) for step in (4, 6, 8, 12)]
    _, progress = restored(finished, abstract(finished, LANGUAGE_MODEL))
    assert progress.spent == [[1.5, share, 12]]
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert f"({said['epsilon']:.3g}, 1e-05)-differentially private after 12 steps" in page
    assert "Not covered: the curves of training" in page
    assert "optimizer.secret is false" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    "places", [("step 5 SIGTERM", "step 9 SIGINT"), ("step 2 SIGINT",)], ids=["twice", "before a checkpoint"]
)
def test_a_killed_run_ends_as_if_it_had_not_been_and_spends_the_same(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[str, ...]
) -> None:
    for place in places:
        monkeypatch.setenv("MORPHAX_SIGNAL", place)
        assert train(tmp_path / "run", OPEN, *SHORT) > 128
    monkeypatch.delenv("MORPHAX_SIGNAL")
    assert train(tmp_path / "run", OPEN, *SHORT) == 0
    same_end(tmp_path / "run", finished, LANGUAGE_MODEL)
    assert summary_of(tmp_path / "run")["privacy"] == summary_of(finished)["privacy"]


@pytest.mark.slow
def test_training_ends_when_epsilon_is_spent_and_goes_no_further(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share = summary_of(finished)["privacy"]["sampled"] / summary_of(finished)["privacy"]["examples"]
    limit = compute_epsilon((Spent(1.5, share, 7),), 1e-5)
    limited = OPEN.replace("noise=1.5", f"noise=1.5, epsilon={limit + 1e-6}")
    assert train(tmp_path / "run", limited, *SHORT) == 0
    assert "epsilon is spent at step 7 of 12" in capsys.readouterr().err
    summary = summary_of(tmp_path / "run")
    assert summary["steps"] == summary["privacy"]["steps"] == 7
    assert summary["privacy"]["epsilon"] == limit
    longer = [option.replace("steps=12", "steps=20") for option in SHORT]
    assert train(tmp_path / "run", limited, *longer) == 0
    assert "epsilon is spent at step 7 of 20" in capsys.readouterr().err
    assert summary_of(tmp_path / "run")["privacy"] == summary["privacy"]


def test_a_run_has_a_key_of_its_own_and_samples_by_it() -> None:
    secret = ready("optimizer=Private(AdamW(), noise=1.5)")
    keys = [np.asarray(secret.begin().state.rng) for _ in range(2)]
    assert not np.array_equal(keys[0], keys[1])
    assert not np.array_equal(redraw(secret.batches, keys[0])[0]["index"], redraw(secret.batches, keys[1])[0]["index"])
    known = ready(OPEN)
    np.testing.assert_array_equal(known.begin().state.rng, known.begin().state.rng)


@pytest.mark.slow
def test_noise_is_found_for_an_epsilon_over_all_steps_of_the_run() -> None:
    made = ready("optimizer=Private(AdamW(), epsilon=3)", "steps=30").guarantee
    assert made is not None
    assert 2.9 < compute_epsilon((Spent(made.noise, made.share, 30),), 1e-5) <= 3


def alone(count: int) -> Batches:
    """Examples that are their own number, in another order each epoch."""

    def make(step: int) -> Arrays:
        epoch, place = divmod(step, count)
        index = np.array([(place + epoch) % count], np.int32)
        return {"x": np.repeat(index[None], 3, axis=1), "index": index, "weights": np.ones(1, np.float32)}

    return Batches(count, make)


def test_each_example_is_taken_with_its_probability_and_apart_from_all_others() -> None:
    batches = Poisson(alone(40), 10, 4).draw((1, 2))
    taken = np.zeros((600, 40))
    for step in range(600):
        batch = batches[step]
        present = batch["weights"] > 0
        assert len(set(batch["index"][present])) == present.sum() == count_drawn(batch), "an example is taken twice"
        np.testing.assert_array_equal(batch["x"][:, 0], batch["index"])
        assert len(present) % 4 == 0
        assert not batch["x"][~present].any()
        taken[step, batch["index"][present]] = 1
    deviation = np.sqrt(0.25 * 0.75 / 600)
    assert np.abs(taken.mean(0) - 0.25).max() < 4.5 * deviation
    assert taken.sum(1).var() == pytest.approx(40 * 0.25 * 0.75, rel=0.3)
    correlations = np.asarray(np.corrcoef(taken.T))[np.triu_indices(40, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(600)
    assert np.asarray(np.corrcoef(taken[:-1].ravel(), taken[1:].ravel()))[0, 1] < 0.03


def test_no_draw_is_cut_and_an_empty_one_is_a_batch_of_nothing() -> None:
    sample = Poisson(alone(60), 3, 2, room=0)
    assert (sample.rows, Poisson(alone(60), 3, 2).rows) == (4, 10)
    batches = sample.draw((0,))
    sizes = [(count_drawn(batch), len(batch["x"])) for batch in map(batches.make, range(200))]
    assert max(drawn for drawn, _ in sizes) > 4 > min(drawn for drawn, _ in sizes) == 0
    assert all(rows == max(4, drawn + drawn % 2) for drawn, rows in sizes)
    assert len(Poisson(alone(60), 60, 8).draw((0,))[0]["x"]) == 64


LEAKS = {
    "patience": (["evaluation.patience=2"], "set evaluation.patience=none"),
    "goal": (["evaluation.goal=0.5"], "set evaluation.goal=none"),
    "packed": (["data.pack=true"], "set data.pack=false"),
    "balance": (["data.balance=0.5"], "set data.balance=0"),
    "class weights": (["objective.class_weights=auto"], "set objective.class_weights=none"),
    "labels": (["data.labels=()"], "list them: \"data.labels=('bad','good')\""),
    "delta": (["optimizer.delta=0.5"], "set optimizer.delta below"),
    "batch": (["batch_size=64"], "set batch_size="),
    "experts": (
        ["model.stack.block.feedforward=Experts(experts=2, active=1, router=AuxiliaryLossFree())"],
        "experts are balanced by counts over the batch",
    ),
}


@pytest.mark.represented_by("packed", "experts")
@pytest.mark.parametrize("leak", LEAKS)
def test_what_would_leak_is_refused_in_a_sentence(leak: str) -> None:
    overrides, said = LEAKS[leak]
    with pytest.raises(InputError, match=re.escape(said)):
        ready(OPEN, *overrides)


OTHERS = {  # of other kinds of data: config, overrides, and what is said
    "generated": ("recall", ("evaluation.goal=none",), "this data is made anew at each step"),
    "learnt tokens": (
        LANGUAGE_MODEL,
        ("data.tokenizer=bpe:280", "model.embed.vocab=280"),
        "data.tokenizer=bpe:280 learns its tokens",
    ),
    "mixup": (
        "images_vit",
        ("data.path=squares", "model.head.classes=2", "data.augment.mixup=0.2"),
        "set data.augment.mixup=0",
    ),
    "groups": (SENTENCES, (*DATA, "groups=GroupWeights('label')"), "set groups=none"),
}


@pytest.fixture(scope="module")
def _squares(workshop: Path) -> None:
    """A folder of pictures of two classes, for images_vit."""
    for shade, name in enumerate(("bright", "dark")):
        (workshop / "squares" / name).mkdir(parents=True)
        for number in range(8):
            picture = Image.fromarray(np.full((28, 28), 40 + 120 * shade + number, np.uint8))
            picture.save(workshop / "squares" / name / f"{number}.png")


@pytest.mark.usefixtures("_squares")
@pytest.mark.represented_by("learnt tokens")
@pytest.mark.parametrize("kind", OTHERS)
def test_what_would_leak_in_other_data_is_refused_in_a_sentence(kind: str) -> None:
    config, overrides, said = OTHERS[kind]
    experiment, _ = load_config(config, [OPEN, *overrides])
    with pytest.raises(InputError, match=re.escape(said)):
        prepare(experiment, experiment.data.open())


class Compares(NextToken):
    """An objective whose sums do not say what each example adds."""

    def __call__(self, outputs: Any, batch: Batch) -> Sums:
        return {name: Sum(total.value, total.weight) for name, total in super().__call__(outputs, batch).items()}


def test_a_loss_that_may_compare_examples_is_refused() -> None:
    experiment, _ = load_config(LANGUAGE_MODEL, [OPEN])
    experiment = dataclasses.replace(experiment, objective=Compares())
    with pytest.raises(InputError, match="Compares gives its loss without `each`"):
        prepare(experiment, experiment.data.open())
