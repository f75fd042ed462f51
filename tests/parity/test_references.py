"""Parity of training with outside references: gradients and updates with PyTorch, schedules with optax, losses with
numpy.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers

from models import load_hf
from models.paths import path_name
from tests.parity.weights import ragged, saved, tiny
from train.engine.step import initialise, make_loss, make_step
from train.objectives import Classification, MeanSquaredError
from train.optimizers import AdamW, Constant, Cosine, Linear, WarmupStableDecay
from train.sums import compute_means

STEPS, WARMUP, PEAK = 8, 2, 1e-2


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """The same classifier without dropout: PyTorch's, ours, and our parameters."""
    theirs = tiny(
        transformers.BertForSequenceClassification,
        num_labels=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model, params = load_hf(saved(theirs, tmp_path_factory.mktemp("classifier")))
    return theirs.train(), model, params


def batches(count: int) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Ragged batches, each with its labels."""
    return [(ragged(seed), np.random.default_rng(seed).integers(0, 2, 3)) for seed in range(count)]


def our_batch(inputs: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, jax.Array]:
    names = {"input_ids": "tokens", "attention_mask": "segments", "token_type_ids": "types"}
    return {names[name]: jnp.asarray(value) for name, value in inputs.items()} | {"labels": jnp.asarray(labels)}


def their_loss(theirs: Any, inputs: dict[str, np.ndarray], labels: np.ndarray) -> Any:
    return theirs(**{name: torch.tensor(value) for name, value in inputs.items()}, labels=torch.tensor(labels)).loss


def as_our_tree(theirs: Any, values: dict[str, torch.Tensor], folder: Any) -> Any:
    """Values by PyTorch's parameter names, as our tree: written and loaded like weights."""
    whole = {name: values[name].detach().clone() for name, _ in theirs.named_parameters()}
    theirs.save_pretrained(folder, state_dict=whole, safe_serialization=True)
    return load_hf(folder)[1]


def assert_close(ours: Any, theirs: Any, tolerance: float, noise: str = "nothing") -> None:
    wanted = dict(jax.tree_util.tree_leaves_with_path(theirs))
    found = dict(jax.tree_util.tree_leaves_with_path(ours))
    assert wanted.keys() == found.keys()
    for path, value in found.items():
        if path_name(path).endswith(noise):
            continue
        np.testing.assert_allclose(value, wanted[path], atol=tolerance, err_msg=path_name(path))


def test_gradients_of_the_training_loss_equal_those_of_pytorch(pair: tuple[Any, Any, Any], tmp_path: Any) -> None:
    theirs, model, params = pair
    inputs, labels = batches(1)[0]
    theirs.zero_grad()
    loss = their_loss(theirs, inputs, labels)
    loss.backward()
    wanted = as_our_tree(theirs, {name: value.grad for name, value in theirs.named_parameters()}, tmp_path)
    gradient = jax.jit(jax.value_and_grad(make_loss(model, Classification()), has_aux=True))
    (total, sums), grads = gradient(params, our_batch(inputs, labels), jax.random.key(0))
    assert abs(compute_means(sums)["loss"] - loss.item()) < 1e-5
    assert float(total) == pytest.approx(3 * loss.item(), abs=1e-4)
    ours = jax.tree.map(lambda leaf: leaf / sums["loss"].weight, grads)
    assert_close(ours, wanted, 1e-4 * max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted)))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted)) > 1e-2


def test_five_steps_of_adamw_with_warmup_and_linear_fall_equal_those_of_pytorch(
    pair: tuple[Any, Any, Any], tmp_path: Any
) -> None:
    theirs, model, params = pair
    start = {name: value.detach().clone() for name, value in theirs.named_parameters()}
    spec = AdamW(Linear(PEAK, warmup=WARMUP), epsilon=1e-6, decay=0.1, clip=1.0)
    decayed = [
        value for name, value in theirs.named_parameters() if not name.endswith("bias") and "LayerNorm" not in name
    ]
    other = [value for name, value in theirs.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.999), eps=1e-6)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    transformation = spec.build(STEPS, params)
    state, step = initialise(params, transformation, 0), jax.jit(make_step(model, Classification(), transformation))
    rate = spec.rate.build(STEPS)
    for number, (inputs, labels) in enumerate(batches(5)):
        assert float(np.asarray(rate(number))) == pytest.approx(schedule.get_last_lr()[0], rel=1e-6)
        optimizer.zero_grad()
        their_loss(theirs, inputs, labels).backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        state, sums = step(state, our_batch(inputs, labels))
        assert compute_means(sums)["gradient_norm"] == pytest.approx(norm.item(), rel=1e-3)
    after = {name: value.detach().clone() for name, value in theirs.named_parameters()}
    theirs.load_state_dict(start, strict=False)
    wanted, moved = as_our_tree(theirs, after, tmp_path), jax.device_get(state.params)
    # The gradient of a key bias is zero but for rounding, and Adam divides it by its own size: it is noise in both.
    assert_close(moved, wanted, 1e-5, noise="key/bias")
    for (path, before), value in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(moved), strict=True):
        assert path_name(path).endswith("key/bias") or np.abs(value - np.asarray(before)).max() > 1e-3, path_name(path)


def rates(spec: Any, steps: int) -> np.ndarray:
    rate = spec.build(steps)
    return np.array([float(rate(step)) for step in range(steps + 1)])


STEP = np.arange(101)
RISE = np.minimum(STEP / 10, 1.0)
SCHEDULES = [
    (Constant(0.3), 0.3 * np.ones(101)),
    (Constant(0.3, warmup=0.1), 0.3 * RISE),
    (Linear(0.3, warmup=10, end=0.2), 0.3 * np.where(STEP < 10, RISE, 1 - 0.8 * (STEP - 10) / 90)),
    (
        Cosine(0.3, warmup=0.1, end=0.1),
        0.3 * np.where(STEP < 10, RISE, 0.1 + 0.45 * (1 + np.cos(np.pi * (STEP - 10) / 90))),
    ),
    (WarmupStableDecay(0.3, warmup=0.1, decay=0.2, end=0.5), 0.3 * RISE * (1 - 0.5 * np.clip((STEP - 80) / 20, 0, 1))),
]


@pytest.mark.parametrize(("spec", "expected"), SCHEDULES)
def test_a_schedule_is_its_closed_form(spec: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(rates(spec, 100), expected, atol=1e-6)


OPTAX = [
    (Linear(0.3, warmup=10), optax.warmup_constant_schedule(0.0, 0.3, 10), 11),
    (Linear(0.3), optax.linear_schedule(0.3, 0.0, 100), 101),
    (Cosine(0.3, warmup=10, end=0.1), optax.warmup_cosine_decay_schedule(0.0, 0.3, 10, 100, 0.03), 101),
    (Cosine(0.3, end=0.1), optax.cosine_decay_schedule(0.3, 100, 0.1), 101),
]


@pytest.mark.parametrize(("spec", "reference", "until"), OPTAX)
def test_a_schedule_is_that_of_optax(spec: Any, reference: Any, until: int) -> None:
    wanted = [float(reference(step)) for step in range(until)]
    np.testing.assert_allclose(rates(spec, 100)[:until], wanted, atol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_the_linear_schedule_is_that_of_transformers(warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, 20)
    wanted: list[float] = []
    for _ in range(21):
        wanted.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates(Linear(0.3, warmup=warmup), 20), wanted, atol=1e-6)


def test_the_squared_error_is_half_the_mean_square_and_its_gradient_the_mean_error() -> None:
    draw = np.random.default_rng(0)
    outputs, values = draw.standard_normal((6, 1)), draw.standard_normal((6, 1))
    weights = np.array([1.0, 1, 0, 1, 1, 0])
    kept, count = weights[:, None] > 0, weights.sum()
    batch = {"values": jnp.asarray(values, jnp.float32), "weights": jnp.asarray(weights, jnp.float32)}
    given = jnp.asarray(outputs, jnp.float32)
    sums = compute_means(MeanSquaredError()(given, batch))
    errors = (outputs - values)[kept]
    assert sums["loss"] == pytest.approx((errors**2).mean() / 2, rel=1e-5)
    assert sums["mean_squared_error"] == pytest.approx((errors**2).mean(), rel=1e-5)
    assert sums["mean_absolute_error"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)

    def loss(shift: jax.Array) -> jax.Array:
        total = MeanSquaredError()(given + shift, batch)["loss"]
        return total.value / total.weight

    assert float(jax.grad(loss)(jnp.zeros(()))) == pytest.approx(errors.mean(), rel=1e-5)
    each = jax.grad(lambda given: MeanSquaredError()(given, batch)["loss"].value / count)(given)
    np.testing.assert_allclose(np.asarray(each), np.where(kept, outputs - values, 0) / count, atol=1e-6)


def test_the_squared_error_is_half_that_of_pytorch_and_the_cross_entropy_is_that_of_pytorch() -> None:
    draw = np.random.default_rng(1)
    outputs, values, labels = draw.standard_normal((6, 3)), draw.standard_normal((6, 3)), draw.integers(0, 3, 6)
    squared = compute_means(MeanSquaredError()(jnp.asarray(outputs), {"values": jnp.asarray(values)}))["loss"]
    crossed = compute_means(Classification()(jnp.asarray(outputs), {"labels": jnp.asarray(labels)}))["loss"]
    assert squared == pytest.approx(
        torch.nn.functional.mse_loss(torch.tensor(outputs), torch.tensor(values)).item() / 2, rel=1e-5
    )
    assert crossed == pytest.approx(
        torch.nn.functional.cross_entropy(torch.tensor(outputs), torch.tensor(labels)).item(), rel=1e-5
    )


def test_no_decay_leaves_biases_and_norms_alone(pair: tuple[Any, Any, Any]) -> None:
    _, _, params = pair
    spec = dataclasses.replace(AdamW(Constant(1.0), decay=0.5), clip=None)
    transformation = spec.build(10, params)

    def resting(params: Any) -> Any:
        return transformation.update(jax.tree.map(jnp.zeros_like, params), transformation.init(params), params)[0]

    updates, leaves = jax.jit(resting)(params), dict(jax.tree_util.tree_leaves_with_path(params))
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name, leaf = path_name(path), np.asarray(leaves[path])
        kept = name.endswith(("bias", "scale"))
        np.testing.assert_allclose(update, 0 * leaf if kept else -0.5 * leaf, atol=1e-7, err_msg=name)
