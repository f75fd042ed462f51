"""Logits left to the loss, in chunks: the numbers of whole ones, on one device and on many, without ever holding them
all.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Context, LogitsHead, Stack, TokenEmbed, Transformer, replace
from models.head.chunked import Projected
from models.head.logits import MultiTokenHead
from tests.laws.components import BLOCK, VOCAB, WIDTH, normal, parameters, tokens
from train.contracts import Parallel
from train.cost.compiled import COLLECTIVES
from train.cost.hlo import Program
from train.engine.step import initialise, make_evaluation, make_loss, make_step
from train.errors import InputError
from train.objectives import Classification, MaskedLM, NextToken, NextTokens, Translation
from train.optimizers import SGD, Constant
from train.parallel import Jit, Mesh, Pmap

OBJECTIVES: dict[str, tuple[Any, Any]] = {
    "next": (NextToken(), LogitsHead(bias=True, cap=2.0)),
    "untied": (NextToken(), LogitsHead(tied=False, bias=True)),
    "smoothed": (Translation(0.3), LogitsHead(bias=True, cap=2.0)),
    "masked": (MaskedLM(), LogitsHead(bias=True)),
    "ahead": (NextTokens(), MultiTokenHead(3)),
}
every = pytest.mark.parametrize("name", OBJECTIVES)


def batch(rows: int, t: int) -> dict[str, jax.Array]:
    """Packed rows, the first with padding, and labels of which some weigh nothing."""
    segments = jnp.ones((rows, t), jnp.int32).at[0, 3:].set(2).at[0, -1].set(0)
    weights = jnp.abs(normal(4, rows, t)) * (tokens(5, rows, t) > 2)
    return {"tokens": tokens(1, rows, t), "segments": segments, "labels": tokens(2, rows, t), "weights": weights}


def chunked_and_whole(name: str, chunk: int, precision: Any = jnp.float32) -> list[Any]:
    """Sums and gradients of an objective, with the logits in chunks and whole."""
    objective, head = OBJECTIVES[name]
    params = jax.tree.map(lambda leaf: leaf.astype(precision), parameters(head))
    hidden, table = normal(3, 2, 7, WIDTH).astype(precision), normal(4, VOCAB, WIDTH).astype(precision)

    def loss(head: Any, params: Any, hidden: jax.Array, table: jax.Array) -> tuple[jax.Array, Any]:
        sums = objective(head.apply({"params": params}, hidden, Context(), table), batch(2, 7))
        return sums["loss"].value, sums

    heads = [replace(head, "chunk", size) for size in (chunk, None)]
    return [
        jax.jit(jax.value_and_grad(functools.partial(loss, head), (0, 1, 2), has_aux=True))(params, hidden, table)
        for head in heads
    ]


@pytest.mark.represented_by("1-untied", "5-next", "5-ahead", "64-masked")
@every
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_logits_in_chunks_give_the_sums_and_gradients_of_whole_ones(name: str, chunk: int) -> None:
    left, right = chunked_and_whole(name, chunk)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), left, right)


@pytest.mark.represented_by("next", "masked")
@every
def test_in_bfloat16_chunks_are_as_near_to_float32_as_whole_logits(name: str) -> None:
    chunked, whole = chunked_and_whole(name, 5, jnp.bfloat16)
    exact = chunked_and_whole(name, 5)[1]
    for (path, right), *found in zip(
        jax.tree_util.tree_leaves_with_path(exact), *map(jax.tree.leaves, (chunked, whole)), strict=True
    ):
        # which of two logits is above the other may change by rounding
        if "accuracy" not in jax.tree_util.keystr(path):
            far, near = (np.abs(np.asarray(each, np.float32) - right).max() for each in found)
            assert far <= 1.5 * near + 0.02 * np.abs(right).max()


def test_the_gradient_of_a_chunked_loss_towards_its_weights_is_each_token_s_loss() -> None:
    outputs, labels, weights = (
        Projected(normal(1, 2, 7, 16), normal(2, 11, 16), chunk=4),
        tokens(3, 2, 7),
        jnp.abs(normal(4, 2, 7)),
    )
    chances = jax.nn.log_softmax(outputs.logits(), axis=-1)
    losses = -jnp.take_along_axis(chances, labels[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(jax.grad(lambda weights: outputs.loss(labels, weights)[0])(weights), losses, atol=1e-5)
    smoothed = 0.7 * losses - 0.3 * chances.mean(-1)
    np.testing.assert_allclose(
        jax.grad(lambda weights: outputs.loss(labels, weights, 0.3)[0])(weights), smoothed, atol=1e-5
    )


@every
def test_logits_in_chunks_are_never_held_all_at_once(name: str) -> None:
    objective, given = OBJECTIVES[name]
    head: Any = replace(given, "chunk", 8)
    v = 512

    def loss(params: Any, hidden: jax.Array, table: jax.Array) -> jax.Array:
        return objective(head.apply({"params": params}, hidden, Context(), table), batch(4, 32))["loss"].value

    def widest(jaxpr: Any) -> int:
        inner = [getattr(value, "jaxpr", value) for equation in jaxpr.eqns for value in equation.params.values()]
        sizes = [variable.aval.size for equation in jaxpr.eqns for variable in equation.outvars]
        return max([*sizes, *(widest(part) for part in inner if hasattr(part, "eqns"))], default=0)

    hidden, table = jnp.zeros((4, 32, 16)), jnp.zeros((v, 16))
    params = jax.eval_shape(lambda: head.init(jax.random.key(0), hidden, Context(), table)).get("params", {})
    gradient = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(params, hidden, table)
    assert widest(gradient.jaxpr) <= max(8 * v, table.size) < 4 * 31 * v
    whole = jax.make_jaxpr(lambda p, h, e: head.apply({"params": p}, h, Context(), e).logits())(params, hidden, table)
    assert widest(whole.jaxpr) == 4 * 32 * v * getattr(head, "tokens", 1)


ROWS, LONG = 16, 12
WAYS: dict[str, Parallel] = {"pmap": Pmap(), "data": Mesh(), "fsdp": Mesh(fsdp=8), "both": Mesh(data=2, fsdp=4)}
SPREAD = Transformer(TokenEmbed(64, 16), Stack(BLOCK, 1), LogitsHead(tied=False, bias=True, chunk=4))


@functools.cache
def stepped(parallel: Parallel, chunk: int | None, precision: Any = "float32") -> tuple[Any, Any, Any, Program]:
    """One step of plain gradient descent: its sums, the parameters after it, an evaluation before it, and the compiled
    step.
    """
    model, objective = replace(SPREAD, "head.chunk", chunk), Translation()
    params, optimizer = parameters(SPREAD), SGD(Constant(1.0)).build(1, None)
    placed = parallel.put(jax.tree.map(np.asarray, batch(ROWS, LONG)))
    state = parallel.start(lambda: initialise(params, optimizer, 0))
    measured = jax.device_get(
        parallel.compile_evaluation(make_evaluation(model, objective, precision))(state.params, placed)
    )
    step: Any = parallel.compile_step(make_step(model, objective, optimizer, precision))
    compiled = step.lower(state, placed).compile()
    state, sums = compiled(state, placed)
    return jax.device_get(sums), jax.device_get(parallel.whole(state).params), measured, Program(compiled.as_text())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunk", [4, 24])
@pytest.mark.slow
def test_chunks_on_many_devices_give_the_sums_and_gradients_of_whole_logits_on_one(way: str, chunk: int) -> None:
    one, many = stepped(Jit(), None), stepped(WAYS[way], chunk)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), many[:2], one[:2])
    # moments are differences
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-3), many[2], one[2])


@pytest.mark.represented_by("both")
@pytest.mark.parametrize("way", WAYS)
def test_devices_add_the_gradient_of_the_table_once_and_not_for_every_chunk(way: str) -> None:
    program = stepped(WAYS[way], 4)[3]
    talking = [(one, times) for one, _, times in program.executed if one.op.removesuffix("-start") in COLLECTIVES]
    assert talking
    assert [one.text for one, times in talking if times > 1] == []
    assert max(times for _, _, times in program.executed) >= LONG // 2  # 2 rows a device, 4 tokens at a time


@pytest.mark.slow
def test_a_mesh_in_bfloat16_gives_the_gradients_of_one_device() -> None:
    start = parameters(SPREAD)
    one, many = (jax.tree.map(np.subtract, start, stepped(way, 4, "bfloat16")[1]) for way in (Jit(), WAYS["fsdp"]))
    for left, right in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(left, right, atol=0.03 * np.abs(right).max())


def test_an_objective_of_whole_logits_refuses_chunks() -> None:
    model = replace(SPREAD, "head.chunk", 4)
    with pytest.raises(
        InputError, match="chunks of 4, and the objective Classification takes whole logits; leave model.head.chunk out"
    ):
        jax.eval_shape(make_loss(model, Classification()), parameters(SPREAD), batch(2, 7))
    with pytest.raises(ValueError, match="NextTokens takes logits .*MultiTokenHead gives, and got"):
        jax.eval_shape(make_loss(model, NextTokens()), parameters(SPREAD), batch(2, 7))
