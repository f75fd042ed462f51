"""Private steps against formulas in numpy: clipping, noise, accounting, on one device and on several."""

import dataclasses
import functools
import sys
from typing import Any

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dp_accounting import pld

from models import bert
from train.contracts import Parallel
from train.data.batches import Pad
from train.engine.step import initialise, make_loss, make_step
from train.errors import InputError
from train.objectives import Classification
from train.optimizers import SGD, AdamW, Constant, Private, ScheduleFreeAdamW
from train.optimizers.accounting import Spent, add_steps, compute_epsilon, count_affordable, find_noise
from train.optimizers.private import NOISE, Budget, Guarantee
from train.parallel import Jit, Mesh, Pmap
from train.sums import compute_means

ROWS, RATE, CLIP = 16, 0.5, 1.6
LENGTH = 40  # of rows, long enough for parts of shorter ones to be cut
MODEL = bert.classifier(
    2,
    bert.transformer(
        vocab=64, width=8, depth=1, heads=2, hidden=16, length=LENGTH, types=0, dropout=0.0, attention_dropout=0.0
    ),
)
GUARANTEE = Guarantee(noise=0.7, clip=CLIP, delta=1e-5, limit=None, examples=100, batch_size=10, steps=5)
ALONE = Jit()
WAYS: dict[str, tuple[Parallel, int, int]] = {  # the parallelism, accumulated parts, and examples at once
    "alone": (Jit(), 1, 1),
    "chunks": (Jit(), 1, 4),
    "whole": (Jit(), 1, ROWS),
    "uneven": (Jit(), 1, 5),
    "parts": (Jit(), 4, 2),
    "pmap": (Pmap(), 1, 2),
    "mesh": (Mesh(data=4, fsdp=2), 1, 8),
    "parts on a mesh": (Mesh(data=2), 4, 2),
}


@functools.cache
def parameters() -> Any:
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), {"tokens": np.zeros((1, LENGTH), np.int32)})["params"]
    chance = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(chance.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


@functools.cache
def batch() -> Any:
    """Thirteen sentences and three empty rows."""
    chance = np.random.default_rng(0)
    rows: list[Any] = [
        {"tokens": chance.integers(1, 64, chance.integers(2, LENGTH)), "label": int(chance.integers(2)), "index": index}
        for index in range(13)
    ]
    return Pad([LENGTH], ROWS, 1)(rows)


@functools.cache
def each_gradient() -> tuple[list[np.ndarray], ...]:
    """The gradient of each sentence alone, as lists of numpy arrays."""
    loss = make_loss(MODEL, Classification())
    gradient = jax.jit(jax.grad(lambda params, row: loss(params, row, jax.random.key(0))[0]))
    rows = [{name: value[row : row + 1] for name, value in batch().items()} for row in range(13)]
    return tuple(
        [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradient(parameters(), row))] for row in rows
    )


def clipped_sum(clip: float) -> list[np.ndarray]:
    norms = [np.sqrt(sum((leaf**2).sum() for leaf in grads)) for grads in each_gradient()]
    scaled = [
        [leaf * min(1, clip / norm) for leaf in grads] for grads, norm in zip(each_gradient(), norms, strict=True)
    ]
    return [np.sum(leaves, axis=0) for leaves in zip(*scaled, strict=True)]


@functools.cache
def compiled(guarantee: Guarantee, parallel: Parallel, accumulate: int) -> Any:
    optimizer = SGD(Constant(RATE)).build(5, parameters())
    step = make_step(MODEL, Classification(), optimizer, accumulate=accumulate, guarantee=guarantee)
    return optimizer, parallel.compile_step(step)


def descend(guarantee: Guarantee, batch: Any, parallel: Parallel = ALONE, accumulate: int = 1) -> tuple[Any, Any]:
    """The gradient that one step of plain descent went along, leaf by leaf, and its sums."""
    optimizer, step = compiled(guarantee, parallel, accumulate)
    state, sums = step(parallel.start(lambda: initialise(parameters(), optimizer, 3)), parallel.put(batch))
    new, old = jax.tree.leaves(jax.device_get(parallel.whole(state.params))), jax.tree.leaves(parameters())
    return [(np.asarray(b) - a) / RATE for a, b in zip(new, old, strict=True)], jax.device_get(sums)


def noise_of(guarantee: Guarantee) -> list[np.ndarray]:
    """The noise of the first step from seed 3, drawn by its key."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 0), NOISE)
    leaves = jax.tree.leaves(parameters())
    keys = jax.random.split(key, len(leaves))
    scale = guarantee.noise * guarantee.clip
    return [scale * np.asarray(jax.random.normal(each, leaf.shape)) for each, leaf in zip(keys, leaves, strict=True)]


@pytest.mark.represented_by("chunks")
@pytest.mark.parametrize("way", WAYS)
def test_a_step_goes_along_the_clipped_sum_with_noise_once_over_the_expected_batch(way: str) -> None:
    parallel, accumulate, chunk = WAYS[way]
    guarantee = dataclasses.replace(GUARANTEE, chunk=chunk)
    moved, sums = descend(guarantee, batch(), parallel, accumulate)
    expected = [(total + noise) / 10 for total, noise in zip(clipped_sum(CLIP), noise_of(guarantee), strict=True)]
    for ours, theirs in zip(moved, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    norms = np.array([np.sqrt(sum((leaf**2).sum() for leaf in grads)) for grads in each_gradient()])
    assert 0 < (norms > CLIP).sum() < 13, "the bound cuts some gradients and not others"
    means = compute_means(sums)
    assert means["clipped"] == pytest.approx((norms > CLIP).mean())
    assert sums["loss"].weight == 13


def test_no_example_moves_the_sum_by_more_than_the_bound() -> None:
    guarantee = dataclasses.replace(GUARANTEE, chunk=4)
    whole, _ = descend(guarantee, batch())
    for row in range(0, 13, 4):
        less = {name: value.copy() for name, value in batch().items()}
        for value in less.values():
            value[row] = 0
        moved, _ = descend(guarantee, less)  # with the same noise
        change = np.sqrt(sum(((10 * (a - b)) ** 2).sum() for a, b in zip(whole, moved, strict=True)))
        norm = np.sqrt(sum((leaf**2).sum() for leaf in each_gradient()[row]))
        np.testing.assert_allclose(change, min(norm, CLIP), rtol=1e-3)


def test_a_gradient_that_is_not_finite_adds_nothing() -> None:
    beyond = {name: value.copy() for name, value in batch().items()}
    beyond["weights"][2] = np.inf
    less = {name: value.copy() for name, value in batch().items()}
    for value in less.values():
        value[2] = 0
    for chunk in (1, 4):
        guarantee = dataclasses.replace(GUARANTEE, chunk=chunk)
        moved, sums = descend(guarantee, beyond)
        assert not np.isfinite(sums["loss"][0])
        for ours, theirs in zip(moved, descend(guarantee, less)[0], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_noise_has_mean_nought_and_the_deviation_that_was_promised() -> None:
    zeros = {"a": jnp.zeros((400, 500)), "b": jnp.zeros(1000)}
    noise = jax.jit(GUARANTEE.release)(zeros, jax.random.key(7))
    flat = np.concatenate([10 * np.asarray(leaf).ravel() for leaf in jax.tree.leaves(noise)])
    scale = 0.7 * CLIP
    assert abs(flat.mean()) < 4 * scale / np.sqrt(flat.size)
    assert flat.std() == pytest.approx(scale, rel=4 / np.sqrt(2 * flat.size))
    assert not np.array_equal(np.asarray(noise["a"]).ravel()[:1000], np.asarray(noise["b"]))
    other = jax.jit(GUARANTEE.release)(zeros, jax.random.key(8))
    assert not np.array_equal(noise["a"], other["a"])
    left = jax.jit(dataclasses.replace(GUARANTEE, freeze=("^a$",)).release)(zeros, jax.random.key(7))
    assert not np.any(left["a"])
    np.testing.assert_array_equal(left["b"], noise["b"])


@pytest.mark.slow
def test_frozen_parameters_take_no_part_in_the_bound() -> None:
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(parameters())]
    guarantee = dataclasses.replace(GUARANTEE, freeze=("embed", "stack"), noise=1e-9, clip=0.05)
    moved, _ = descend(guarantee, batch())
    free = [("embed" not in name) and ("stack" not in name) for name in names]
    total = [np.zeros_like(leaf) for leaf in moved]
    for grads in each_gradient():
        norm = np.sqrt(sum((leaf**2).sum() for leaf, left in zip(grads, free, strict=True) if left))
        total = [sums + leaf * left * min(1, 0.05 / norm) for sums, leaf, left in zip(total, grads, free, strict=True)]
    for ours, theirs in zip(moved, total, strict=True):
        np.testing.assert_allclose(ours, theirs / 10, atol=1e-6)


SETTINGS = [
    (0.5, 0.001, 200, 1e-6),
    (0.7, 0.01, 50, 1e-5),
    (0.8, 0.004, 1000, 1e-5),
    (1.0, 0.01, 1000, 1e-5),
    (1.0, 0.05, 100, 1e-7),
    (1.2, 0.1, 30, 1e-5),
    (1.5, 0.02, 2000, 1e-6),
    (2.0, 0.25, 40, 1e-5),
    (3.0, 1.0, 10, 1e-5),
    (5.0, 0.5, 100, 1e-4),
]


@pytest.mark.represented_by("7")
@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_epsilon_is_that_of_the_accountant_of_dp_accounting(number: int) -> None:
    noise, share, steps, delta = SETTINGS[number]
    accountant = pld.PLDAccountant()
    event = dp_accounting.PoissonSampledDpEvent(share, dp_accounting.GaussianDpEvent(noise))
    accountant.compose(dp_accounting.SelfComposedDpEvent(event, steps))
    assert compute_epsilon((Spent(noise, share, steps),), delta) == pytest.approx(
        accountant.get_epsilon(delta), rel=1e-9
    )


def test_a_ledger_of_two_mechanisms_is_their_composition() -> None:
    accountant = pld.PLDAccountant()
    ledger = add_steps(add_steps(add_steps((), 2.0, 0.25, 10), 2.0, 0.25, 5), 3.0, 0.5, 7)
    assert ledger == ((2.0, 0.25, 15), (3.0, 0.5, 7))
    for noise, share, steps in ledger:
        event = dp_accounting.PoissonSampledDpEvent(share, dp_accounting.GaussianDpEvent(noise))
        accountant.compose(dp_accounting.SelfComposedDpEvent(event, steps))
    assert compute_epsilon(ledger, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    assert compute_epsilon((), 1e-5) == 0
    assert add_steps(ledger, 1.0, 0.1, 0) == ledger


def test_the_noise_of_an_epsilon_spends_it_and_no_more() -> None:
    noise = find_noise(0.25, 40, 3.0, 1e-5)
    assert 0.98 * 3 < compute_epsilon((Spent(noise, 0.25, 40),), 1e-5) <= 3
    assert compute_epsilon((Spent(0.99 * noise, 0.25, 40),), 1e-5) > 3


def test_steps_end_before_epsilon_is_passed_whatever_was_spent_before() -> None:
    limit = compute_epsilon((Spent(6.0, 0.5, 20),), 1e-5) + 1e-9
    assert count_affordable((), 6.0, 0.5, limit, 1e-5, 32) == 20
    made = dataclasses.replace(GUARANTEE, noise=6.0, examples=20, limit=limit)
    budget = Budget(made, (Spent(6.0, 0.5, 5),), 5)
    assert budget.find_last(32) == 20
    assert budget.find_last(19) == 19
    assert budget.spend(9) == ((6.0, 0.5, 9),)
    other = dataclasses.replace(budget, before=(Spent(4.0, 0.5, 5),))
    last = other.find_last(32)
    assert 5 < last < 20
    assert other.compute_epsilon(last) <= limit < other.compute_epsilon(last + 1)
    assert dataclasses.replace(budget, before=(Spent(1.0, 0.5, 9),)).find_last(32) == 5


def test_the_log_never_says_less_than_was_spent() -> None:
    budget = Budget(dataclasses.replace(GUARANTEE, noise=6.0, examples=20), (), 0)
    for step in (1, 33, 64, 100):
        assert budget.bound_epsilon(step, 100) >= budget.compute_epsilon(step)
    assert budget.bound_epsilon(100, 100) == budget.compute_epsilon(100)
    assert budget.bound_epsilon(1, 100) < budget.compute_epsilon(9)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "neither epsilon nor noise"),
        ({"epsilon": 0}, "epsilon is 0"),
        ({"noise": -1}, "noise is -1"),
        ({"epsilon": 3, "delta": 1}, "delta is 1"),
        ({"epsilon": 3, "clip": 0}, "clip is 0"),
        ({"epsilon": 3, "chunk": 0}, "chunk is 0"),
    ],
)
def test_a_guarantee_that_is_none_is_refused(settings: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Private(AdamW(), **settings)


def test_data_that_cannot_be_protected_is_refused() -> None:
    with pytest.raises(ValueError, match="Private itself"):
        Private(Private(AdamW(), noise=1.0), noise=1.0)
    with pytest.raises(InputError, match="batch_size is 32 and the data has 8 examples"):
        Private(AdamW(), noise=1.0).protect(8, 32, 10)
    with pytest.raises(InputError, match="set optimizer.delta below"):
        Private(AdamW(), noise=1.0, delta=0.01).protect(200, 20, 10)
    with pytest.raises(InputError, match="one step spends more than optimizer.epsilon=0.1"):
        Private(AdamW(), noise=0.5, epsilon=0.1).protect(200, 20, 10)


def test_the_rule_decides_the_rate_and_what_is_frozen() -> None:
    private = Private(AdamW(Constant(0.5), freeze=("embed",)), noise=1.0)
    assert private.rate == Constant(0.5)
    assert private.protect(100, 10, 5).freeze == ("embed",)
    assert Private(ScheduleFreeAdamW(), noise=1.0).protect(100, 10, 5).freeze == ()


def test_an_absent_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(InputError, match=r"pip install 'morphax\[privacy\]'"):
        Private(AdamW(), noise=1.0).protect(100, 10, 5)
