"""The pure step: theta <- theta - alpha * grad L, accumulation, precision, packing."""

import dataclasses
import functools
from typing import Any, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    Attention,
    Block,
    LogitsHead,
    MeanPool,
    PreNorm,
    RMSNorm,
    RoPE,
    Stack,
    TokenEmbed,
    Transformer,
    ValueHead,
    bert,
    replace,
)
from models.contracts import Batch
from models.paths import path_name
from train.contracts import Objective, Parallel
from train.data.batches import Pack, Pad, Row
from train.engine.step import TrainState, initialise, make_evaluation, make_loss, make_step
from train.objectives import Classification, MeanSquaredError, NextToken
from train.optimizers import SGD, AdamW, Constant
from train.parallel import Jit, Mesh
from train.precision import Precision
from train.sums import Sum, Sums, compute_means

LENGTH = 16
BODY = bert.transformer(
    vocab=256, width=16, depth=1, heads=2, hidden=32, length=LENGTH, types=0, dropout=0.0, attention_dropout=0.0
)
CLASSIFIER = bert.classifier(2, BODY)
REGRESSOR = replace(BODY, "head", ValueHead(1, MeanPool()))
CAUSAL = Transformer(
    TokenEmbed(256, 16),
    Stack(Block(Attention(2, causal=True, window=5, position=RoPE()), residual=PreNorm(RMSNorm())), repeats=1),
    LogitsHead(),
)
TASKS: dict[str, tuple[Transformer, Objective]] = {
    "first token": (CLASSIFIER, Classification()),
    "mean pool": (REGRESSOR, MeanSquaredError()),
    "every token": (CAUSAL, NextToken()),
}


@functools.cache
def parameters(task: str) -> Any:
    """Parameters drawn by numpy: that needs no compilation."""
    shapes = jax.eval_shape(TASKS[task][0].init, jax.random.key(0), {"tokens": np.zeros((1, LENGTH), np.int32)})[
        "params"
    ]
    chance = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(chance.normal(0.0, 0.3, leaf.shape), jnp.float32), shapes)


def sentences(count: int, seed: int = 0) -> list[Row]:
    """Sentences of 2 to 12 tokens with a label and a value."""
    chance = np.random.default_rng(seed)
    return [
        {
            "tokens": chance.integers(1, 256, chance.integers(2, 13)),
            "label": int(chance.integers(2)),
            "value": float(chance.normal()),
        }
        for _ in range(count)
    ]


def packed(count: int, rows: int, seed: int = 0) -> Any:
    return Pack(LENGTH, 4, rows, rows)(sentences(count, seed))


def start(params: Any, optimizer: Any) -> TrainState:
    return initialise(params, optimizer, 0)


def same(left: Any, right: Any) -> None:
    """Equal in every bit."""
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


def close(left: Any, right: Any, tolerance: float) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), left, right)


def test_plain_descent_is_theta_minus_alpha_times_the_gradient_of_the_mean_loss_in_every_bit() -> None:
    model, objective = TASKS["mean pool"]
    alpha, params, batch = 0.05, parameters("mean pool"), packed(12, 8)
    optimizer = SGD(Constant(alpha)).build(10, params)

    def summed(params: Any) -> tuple[jax.Array, jax.Array]:
        loss = objective(model.apply({"params": params}, batch, train=True), batch)["loss"]
        return loss.value, loss.weight

    # Not compiled as a whole: every operation of both sides is a program of its own, and no two are fused and rounded
    # together.
    gradient, weight = jax.grad(summed, has_aux=True)(params)
    state, sums = make_step(model, objective, optimizer)(start(params, optimizer), batch)
    same(state.params, jax.tree.map(lambda theta, grad: theta - alpha * (grad / weight), params, gradient))
    assert int(state.step) == 1
    assert sums["loss"].weight == weight == 12


@pytest.mark.parametrize("task", TASKS)
def test_the_compiled_step_descends_along_the_gradient_of_the_mean_loss(task: str) -> None:
    model, objective = TASKS[task]
    alpha, params, batch = 0.05, parameters(task), packed(12, 8)
    optimizer = SGD(Constant(alpha)).build(10, params)

    def average(params: Any) -> jax.Array:
        loss = objective(model.apply({"params": params}, batch), batch)["loss"]
        return loss.value / loss.weight

    loss, gradient = jax.jit(jax.value_and_grad(average))(params)
    state, sums = jax.jit(make_step(model, objective, optimizer))(start(params, optimizer), batch)
    close(state.params, jax.tree.map(lambda theta, grad: theta - alpha * grad, params, gradient), 1e-6)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    means = compute_means(sums)
    np.testing.assert_allclose([means["loss"], means["gradient_norm"]], [loss, norm], rtol=1e-5)


@pytest.mark.slow
def test_accumulating_over_parts_gives_what_the_whole_batch_gives_also_on_a_mesh() -> None:
    params, batch = parameters("first token"), packed(30, 32)
    weights = batch["weights"].sum(-1).reshape(-1, 4).sum(0)  # of the four parts
    assert len(set(weights.tolist())) > 1
    optimizer = SGD(Constant(0.1)).build(10, params)

    def stepped(parallel: Parallel, parts: int) -> tuple[Any, Sums]:
        step = parallel.compile_step(make_step(CLASSIFIER, Classification(), optimizer, accumulate=parts))
        state, sums = step(parallel.start(lambda: start(params, optimizer)), parallel.put(batch))
        return state.params, sums

    whole, sums = stepped(Jit(), 1)
    for parallel in (Jit(), Mesh(data=4, fsdp=2)):
        accumulated, added = stepped(parallel, 4)
        close(accumulated, whole, 1e-6)
        close(added, sums, 1e-5)


def test_the_step_is_pure() -> None:
    model = replace(CLASSIFIER, "embed.dropout", 0.3)
    params, batch = parameters("first token"), packed(12, 8)
    optimizer = AdamW().build(10, params)
    step = jax.jit(make_step(model, Classification(), optimizer))
    state = start(params, optimizer)
    before = jax.device_get(jax.tree.map(np.array, (state, batch)))
    first, second = step(state, batch), step(state, batch)
    same(first, second)
    same((state, batch), before)


def test_every_step_drops_other_elements_and_every_seed_too() -> None:
    model = replace(CLASSIFIER, "embed.dropout", 0.3)
    params, batch = parameters("first token"), packed(12, 8)
    optimizer = SGD(Constant(0.1)).build(10, params)
    step = jax.jit(make_step(model, Classification(), optimizer))
    losses = {
        float(
            step(dataclasses.replace(initialise(params, optimizer, seed), step=jnp.int32(number)), batch)[1][
                "loss"
            ].value
        )
        for seed, number in ((0, 0), (0, 1), (0, 2), (1, 0))
    }
    assert len(losses) == 4


def test_the_step_is_traced_once_for_batches_of_one_shape() -> None:
    params = parameters("first token")
    optimizer = AdamW().build(10, params)
    chex.clear_trace_counter()
    parallel = Jit()
    step = parallel.compile_step(chex.assert_max_traces(make_step(CLASSIFIER, Classification(), optimizer), n=1))
    state = parallel.start(lambda: start(params, optimizer))
    for seed in range(4):
        state, _ = step(state, parallel.put(packed(8, 8, seed)))
    assert int(state.step) == 4


def test_bfloat16_computes_near_float32_and_keeps_parameters_and_moments_in_float32() -> None:
    params, batch = parameters("first token"), packed(12, 8)
    optimizer = AdamW(Constant(1e-3)).build(10, params)
    losses: list[float] = []
    for precision in get_args(Precision):
        state, sums = jax.jit(make_step(CLASSIFIER, Classification(), optimizer, precision))(
            start(params, optimizer), batch
        )
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
        assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(state.opt_state))
        assert all(total.value.dtype == jnp.float32 for total in sums.values())
        assert np.isfinite(compute_means(sums)["gradient_norm"])
        losses.append(compute_means(sums)["loss"])
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


def test_bfloat16_reaches_the_inside_of_the_model() -> None:
    hidden = replace(CLASSIFIER, "head", None)
    kinds = [
        jax.eval_shape(make_loss(hidden, Total(), precision), parameters("first token"), packed(12, 8))[0].dtype
        for precision in get_args(Precision)
    ]
    assert kinds == [jnp.float32, jnp.bfloat16]


class Total:
    """An objective that adds outputs up in their own type."""

    def __call__(self, outputs: jax.Array, batch: Batch) -> Sums:
        return {"loss": Sum(outputs.sum(), jnp.ones(()))}

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        return {}


def test_an_evaluation_drops_nothing() -> None:
    batch, params = packed(12, 8), parameters("first token")
    plain, dropping = (
        make_evaluation(model, Classification()) for model in (CLASSIFIER, replace(CLASSIFIER, "embed.dropout", 0.5))
    )
    same(dropping(params, batch), plain(params, batch))


@pytest.mark.represented_by("mean pool")
@pytest.mark.parametrize("task", TASKS)
def test_packed_rows_give_the_loss_and_the_gradient_of_single_rows(task: str) -> None:
    model, objective = TASKS[task]
    members = sentences(12)
    rows = Pack(LENGTH, 4, 1, 1)(members)
    assert len(rows["tokens"]) < len(members)
    alone = Pad([LENGTH], 12, 4)(members)
    gradient = jax.jit(jax.value_and_grad(make_loss(model, objective), has_aux=True))
    (loss, sums), grads = gradient(parameters(task), rows)
    (lone_loss, lone_sums), lone_grads = gradient(parameters(task), alone)
    close(loss, lone_loss, 1e-5)
    close(sums, lone_sums, 1e-5)
    close(grads, lone_grads, 1e-5)
    assert all(
        np.abs(grad).max() > 1e-4
        for path, grad in jax.tree_util.tree_leaves_with_path(grads)
        if "key/bias" not in path_name(path)
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_sentence_does_not_feel_the_others_of_its_row(task: str) -> None:
    model, objective = TASKS[task]
    chance = np.random.default_rng(3)
    members = [{"tokens": chance.integers(1, 256, length), "label": 0, "value": 0.0} for length in (5, 4, 3)]
    batch = Pack(LENGTH, 4, 1, 1)(members)
    changed = {**batch, "tokens": np.where(batch["segments"] == 2, batch["tokens"] % 255 + 1, batch["tokens"])}
    forward = jax.jit(lambda batch: model.apply({"params": parameters(task)}, batch))
    one, other = np.asarray(forward(batch))[0], np.asarray(forward(changed))[0]
    own = batch["segments"][0] == 2 if isinstance(objective, NextToken) else np.arange(len(one)) == 1
    used = batch["segments"][0] > 0 if isinstance(objective, NextToken) else batch["weights"][0] > 0
    np.testing.assert_array_equal(one[used & ~own], other[used & ~own])
    assert (one[own] != other[own]).any(-1).all()
