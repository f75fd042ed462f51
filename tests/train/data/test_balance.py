"""Rare classes: weights in the loss and a sampler, on a table of six classes of which one has 1.6 % of the rows."""

import collections
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Attention, Block, ClassHead, MeanPool, Stack, TokenEmbed, Transformer
from train.cli import main
from train.contracts import Parallel
from train.data.balance import Balanced, compute_class_weights
from train.data.tasks.drives import Drives
from train.data.tasks.images import Images
from train.data.tasks.text import Text
from train.engine.folder import read_run
from train.engine.prepared import Prepared, prepare
from train.engine.step import initialise, make_loss, make_step
from train.errors import InputError
from train.objectives import Classification
from train.optimizers import SGD, Constant
from train.parallel import Jit, Mesh, Pmap
from train.sinks.json_lines import read_metrics
from train.sums import compute_means

COUNTS = (591, 591, 590, 590, 590, 48)  # of 3,000 rows
CONFIG = """
from models import Block, ClassHead, MeanPool, Stack, TokenEmbed, Transformer, MLP
from train.data.tasks.text import Text
from train.experiment import Evaluation, Experiment
from train.objectives import Classification
from train.optimizers import AdamW, Constant
from train.review.classes import Classes


def experiment():
    return Experiment(
        model=Transformer(TokenEmbed(256, 16), Stack(Block(MLP(2.0), None), 1), ClassHead(6, MeanPool())),
        objective=Classification(),
        data=Text(path="train.csv", test="test.csv", length=32, buckets=(32,), pack=False),
        optimizer=AdamW(Constant(0.03), decay=0.0, clip=None),
        batch_size=64,
        epochs=1,
        evaluation=Evaluation(batch_size=128),
        review=Classes(),
    )
"""
PLAIN = {"plain": ()}
HELPED = {"weights": ("objective.class_weights=auto",), "sampler": ("data.balance=1",)}


def rows(counts: tuple[int, ...], seed: int) -> str:
    """Texts of six letters by chance, of which a fifth is replaced by that of their class."""
    draw, found = np.random.default_rng(seed), list[str]()
    for label, count in enumerate(counts):
        own = "abcdef"[label]
        letters = np.where(draw.random((count, 24)) < 0.2, own, draw.choice(list("abcdef"), (count, 24)))
        found += [f"{''.join(text)},{own}" for text in letters]
    return "text,label\n" + "".join(f"{found[place]}\n" for place in draw.permutation(len(found)))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("rare")
    (place / "train.csv").write_text(rows(COUNTS, 0))
    (place / "test.csv").write_text(rows((40,) * 6, 1))
    (place / "config.py").write_text(CONFIG)
    return place


@pytest.fixture(scope="module")
def runs(table: Path) -> dict[str, Path]:
    """A run of each kind, one epoch long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(table)
        for name, options in (PLAIN | HELPED).items():
            assert main(["train", "config.py", "--run", str(table / name), *options]) == 0
    return {name: table / name for name in PLAIN | HELPED}


def summary(folder: Path) -> dict[str, float]:
    return json.loads((folder / "summary.json").read_text())["review"]


@pytest.mark.slow
def test_plain_training_finds_none_of_a_rare_class(runs: dict[str, Path]) -> None:
    assert summary(runs["plain"])["accuracy_f"] == 0
    assert summary(runs["plain"])["accuracy_a"] > 0.7


@pytest.mark.slow
@pytest.mark.represented_by("weights")
@pytest.mark.parametrize("kind", HELPED)
def test_weights_and_sampler_find_a_rare_class(kind: str, runs: dict[str, Path]) -> None:
    assert summary(runs[kind])["accuracy_f"] > 0.2
    assert summary(runs[kind])["accuracy_a"] > 0.7
    assert summary(runs[kind])["macro_f1"] > summary(runs["plain"])["macro_f1"] + 0.08


@pytest.mark.slow
def test_the_settings_are_recorded(runs: dict[str, Path], table: Path) -> None:
    config = str(table / "config.py")
    assert read_run(runs["weights"], config).experiment.objective == Classification("auto")
    data: Any = read_run(runs["sampler"], config).experiment.data
    assert data.balance == 1
    data = read_run(runs["plain"], config).experiment.data
    assert (data.balance, read_run(runs["plain"], config).experiment.objective) == (0, Classification())


@pytest.mark.slow
def test_a_run_that_goes_on_ends_in_the_same_bits(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a checkpoint in the first epoch to a step in the second."""
    monkeypatch.chdir(table)
    options = (
        "epochs=none",
        "evaluation.every=100",
        "checkpoints.every=8",
        "log_every=1",
        "review=none",
        "objective.class_weights=(1, 1, 1, 1, 1, 9)",
        *HELPED["sampler"],
    )
    whole, parts = table / "whole", table / "parts"
    assert main(["train", "config.py", "--run", str(whole), *options, "steps=60"]) == 0
    assert main(["train", "config.py", "--run", str(parts), *options, "steps=10"]) == 0
    assert main(["train", "config.py", "--run", str(parts), *options, "steps=60"]) == 0
    lines = [[line for line in read_metrics(folder) if "train/loss" in line] for folder in (whole, parts)]
    losses = [{line["step"]: line["train/loss"] for line in own} for own in lines]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 60


def test_auto_weights_are_n_over_k_n_c_and_average_to_one(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table)
    opened = Text(path="train.csv", test="test.csv", length=32).open()
    weights = compute_class_weights("auto", opened)
    assert weights is not None
    np.testing.assert_allclose(weights, [3000 / (6 * count) for count in COUNTS], rtol=1e-6)
    np.testing.assert_allclose(weights @ np.array(COUNTS) / 3000, 1, rtol=1e-6)
    gone = Text(path="train.csv", test="test.csv", length=32, labels=("a", "b", "c", "d", "e", "f", "g")).open()
    weights = compute_class_weights("auto", gone)
    assert weights is not None
    assert weights[6] == 0
    assert np.isfinite(weights).all()


def test_the_loss_is_its_equation_and_evaluation_is_of_the_data_as_it_is() -> None:
    draw = np.random.default_rng(0)
    logits, labels = draw.standard_normal((9, 3)).astype(np.float32), draw.integers(0, 3, 9)
    w, weights = np.array([0.5, 1.0, 20.0], np.float32), jnp.asarray([1.0] * 7 + [0.0] * 2)
    batch = {"labels": jnp.asarray(labels), "emphasis": jnp.asarray(w[labels]), "weights": weights}
    sums = Classification(tuple(w.tolist()))(jnp.asarray(logits), batch)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(9), labels]
    np.testing.assert_allclose(compute_means(sums)["loss"], (w[labels] * losses)[:7].mean(), rtol=1e-6)
    assert compute_means(sums)["accuracy"] == np.mean(logits.argmax(-1)[:7] == labels[:7])
    del batch["emphasis"]
    plain = compute_means(Classification("auto")(jnp.asarray(logits), batch))["loss"]
    np.testing.assert_allclose(plain, losses[:7].mean(), rtol=1e-6)


def test_batches_to_train_on_have_the_weight_of_each_example_and_those_to_test_on_have_none(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table)
    for pack in (False, True):
        data = Text(path="train.csv", test="test.csv", length=32, pack=pack)
        ready = prepared(data, Classification((1, 2, 3, 4, 5, 60)))
        batch = ready.batches[0]
        expected = np.array([1, 2, 3, 4, 5, 60], np.float32)[batch["labels"]]
        np.testing.assert_array_equal(batch["emphasis"], expected)
        assert "emphasis" not in ready.data.batches("test", 8, 1, None)[0]


def prepared(data: Text, objective: Any) -> Prepared:
    from train.experiment import Experiment
    from train.optimizers import AdamW

    return prepare(Experiment(MODEL, objective, data, AdamW(), batch_size=16, epochs=1), data.open())


MODEL = Transformer(TokenEmbed(256, 16), Stack(Block(Attention(2), None), 1), ClassHead(6, MeanPool()))
WAYS: dict[str, tuple[Parallel, int]] = {"parts": (Jit(), 4), "pmap": (Pmap(), 2), "mesh": (Mesh(data=4, fsdp=2), 2)}


def stepped(batch: dict[str, np.ndarray], parallel: Parallel, parts: int) -> tuple[Any, Any]:
    """The parameters and the sums after a step of plain descent."""
    optimizer = SGD(Constant(0.1))
    params = jax.jit(MODEL.init)(jax.random.key(0), jax.tree.map(jnp.asarray, batch))["params"]
    made = optimizer.build(1, params)
    step = parallel.compile_step(make_step(MODEL, Classification((1, 2, 3, 4, 5, 60)), made, accumulate=parts))
    state, sums = step(parallel.start(lambda: initialise(params, made, 0)), parallel.put(batch))
    return jax.device_get((parallel.whole(state).params, sums))


@pytest.mark.parametrize("way", ["parts", *(pytest.param(way, marks=pytest.mark.slow) for way in ("pmap", "mesh"))])
def test_parts_and_devices_give_the_same_numbers(way: str, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table)
    data = Text(path="train.csv", test="test.csv", length=32, buckets=(32,), pack=False, balance=0.5)
    ready = prepared(data, Classification((1, 2, 3, 4, 5, 60)))
    batch = dict(ready.batches[0])
    batch["weights"] = np.where(np.arange(16) < 13, batch["weights"], 0).astype(np.float32)  # a ragged one
    whole = stepped(batch, Jit(), 1)
    assert whole[1]["loss"].weight == 13
    assert len(set(batch["emphasis"])) > 2
    for a, b in zip(jax.tree.leaves(stepped(batch, *WAYS[way])), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_weights_and_counts_are_exact_where_the_model_computes_in_bfloat16() -> None:
    """In bfloat16 301 would be 300, and so would the sum of 301 examples be."""
    batch = {"tokens": jnp.zeros((301, 2), jnp.int32), "labels": jnp.zeros(301, jnp.int32), "weights": jnp.ones(301)}
    params = jax.jit(MODEL.init)(jax.random.key(0), batch)["params"]
    loss = jax.jit(make_loss(MODEL, Classification("auto"), "bfloat16"))
    plain, weighed = loss(params, batch)[1]["loss"], loss(params, batch | {"emphasis": jnp.full(301, 301.0)})[1]["loss"]
    assert plain.weight == weighed.weight == 301
    np.testing.assert_allclose(weighed.value, 301 * plain.value, rtol=1e-5)


@pytest.mark.parametrize(("power", "expected"), [(0.0, list(COUNTS)), (1.0, [500] * 6)])
def test_the_sampler_draws_classes_by_their_equation(power: float, expected: list[int]) -> None:
    labels = tuple(label for label, count in enumerate(COUNTS) for _ in range(count))
    drawn = Balanced(labels, power).draw(0, 3)
    counts = collections.Counter(labels[index] for index in drawn)
    assert len(drawn) == 3000
    assert sorted((counts[label] for label in range(6)), reverse=True) == sorted(expected, reverse=True)
    times = collections.Counter(int(index) for index in drawn)
    for label in range(6):
        own = {times[index] for index in range(3000) if labels[index] == label}
        assert max(own) - min(own) <= 1


def test_the_square_root_lies_between_and_draws_are_a_function_of_seed_and_epoch() -> None:
    labels = tuple(label for label, count in enumerate(COUNTS) for _ in range(count))
    sampler, roots = Balanced(labels, 0.5), np.sqrt(COUNTS)
    for label in range(6):
        assert abs(sampler.counts[label] - 3000 * roots[label] / roots.sum()) < 1
    np.testing.assert_array_equal(sampler.draw(1, 2), Balanced(labels, 0.5).draw(1, 2))
    assert any(sampler.draw(1, 2) != sampler.draw(1, 3))
    assert any(sampler.draw(1, 2) != sampler.draw(2, 2))


def test_an_example_drawn_twice_is_changed_by_chance_each_time_and_the_test_part_stays(tmp_path: Path) -> None:
    from PIL import Image

    from train.data.transforms.augment import Augment

    draw = np.random.default_rng(0)
    for label, count in (("many", 9), ("one", 1)):
        (tmp_path / label).mkdir()
        for number in range(count):
            Image.fromarray(draw.integers(0, 256, (12, 12), np.uint8)).save(tmp_path / label / f"{number}.png")
    data = Images(path=str(tmp_path), test=str(tmp_path), size=(8, 8), balance=1.0, augment=Augment(scale=(0.3, 1.0)))
    opened = data.open()
    batch = opened.batches("train", 10, 1, 0)[0]
    twice = batch["image"][batch["labels"] == 1]
    assert len(twice) == 5
    assert len(np.unique(twice.reshape(5, -1), axis=0)) == 5
    assert opened.batches("test", 10, 1, None)[0]["labels"].sum() == 1


@pytest.mark.parametrize("given", [(), (0, 0), (1, -1), "many", "(1, x)", (float("nan"), 1)])
def test_weights_that_cannot_be_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"Classification\.class_weights is .*; give auto, or numbers of 0 or above"):
        Classification(given)


def test_weights_are_read_from_the_command_line_and_refused_in_a_sentence(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Classification("(1, 20)") == Classification((1, 20)) == Classification("1,20")
    monkeypatch.chdir(table)
    for option, words in {
        "objective.class_weights=(1, 20)": "objective.class_weights has 2 numbers for the 6 classes a, b, c, d, e, f;",
        "objective.class_weights=rare": "Classification.class_weights is 'rare'; give auto, or numbers",
        "data.balance=2": "Text.balance is 2.0; give a number from 0",
        "objective.class_weights=auto;data.balance=0.5": "data.balance=0.5 each make up for rare classes",
    }.items():
        assert main(["train", "config.py", "--run", str(table / "refused"), *option.split(";")]) == 2
        assert words in capsys.readouterr().err
        assert not (table / "refused").exists()


def test_data_without_classes_has_no_weights() -> None:
    opened = Text(path=None, kind="value").reader()
    assert compute_class_weights(None, opened) is None
    with pytest.raises(InputError, match=r"weighs the classes of examples; this data has none"):
        compute_class_weights("auto", opened)
    with pytest.raises(InputError, match=r"has none: leave it out \(of trajectories, data\.balance repeats"):
        compute_class_weights("auto", Drives().reader())
    with pytest.raises(ValueError, match=r"Text\.balance draws rare classes more often; kind is value"):
        Text(kind="value", balance=0.5)
