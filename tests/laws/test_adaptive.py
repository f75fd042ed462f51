"""Depth that each token chooses is adaptive computation time, token by token."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import MLP, AdaptiveStack, Attention, Block, Context, PreNorm, RMSNorm, Stack
from models.contracts import Branch, Tree
from models.laws.depth import law_recomputing_changes_nothing, law_scan_equals_loop, outputs_and_gradients
from models.structure import replace
from tests.laws.components import normal, packed_context, parameters

BLOCK = Block(Attention(2, causal=True), MLP(1.0), PreNorm(RMSNorm()))
FIRST = Block(Attention(4), None)
STACK = AdaptiveStack(BLOCK, 5, RMSNorm(), prefix=(FIRST,), epsilon=0.1, cost=0.5)
X, CONTEXT = normal(1, 2, 8, 16), packed_context()


class Streams(nn.Module):
    """A residual whose state has an axis before those of rows and tokens."""

    def expand(self, x: jax.Array, ctx: Context) -> jax.Array:
        return jnp.stack([x, x, x])

    def reduce(self, state: jax.Array, ctx: Context) -> jax.Array:
        return state.mean(0)

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        return state + branch(state.mean(0))


def halt(params: Tree, x: np.ndarray) -> float:
    kernel, bias = (np.asarray(params["tied"]["halt"][name], np.float64) for name in ("kernel", "bias"))
    return float(1 / (1 + np.exp(-(x.astype(np.float64) @ kernel + bias)[0])))


def ponder(stack: AdaptiveStack, params: Tree) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The stream at the end, N and R of each token, by a loop over repeats and tokens."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(block: Block, params: Tree, x: jax.Array) -> jax.Array:
        return block.apply({"params": params}, x, CONTEXT)[0]

    def apply(block: Block, params: Tree, x: np.ndarray) -> np.ndarray:
        return np.asarray(run(block, params, jnp.asarray(x)))

    x = apply(FIRST, params["first_0"], np.asarray(X))
    output, steps, remainders = np.zeros(x.shape), np.zeros(x.shape[:2]), np.zeros(x.shape[:2])
    chances: dict[tuple[int, ...], list[float]] = {place: [] for place in np.ndindex(*x.shape[:2])}
    for index in range(stack.repeats):
        new = apply(BLOCK, params["tied"]["block_0"], x)
        x = np.where(remainders[..., None] > 0, x, new)
        for place, before in chances.items():
            if not remainders[place]:
                chance = halt(params, x[place])
                if sum(before) + chance >= 1 - stack.epsilon or index == stack.repeats - 1:
                    remainders[place], chance = 1 - sum(before), 1 - sum(before)
                output[place] += chance * x[place]
                before.append(chance)
                steps[place] += 1
    return output, steps, remainders


def law_is_adaptive_computation_time(stack: AdaptiveStack) -> None:
    """Outputs, the loss and the metric."""
    params = dict(parameters(stack))
    # so that tokens halt after different numbers of repeats
    params["tied"] = params["tied"] | {"halt": {"kernel": 0.15 * normal(3, 16, 1), "bias": jnp.full((1,), -0.8)}}
    output, steps, remainders = ponder(STACK, params)
    assert set(steps.ravel()) >= {2, 3, 5}
    y, sown = jax.jit(lambda params: stack.apply({"params": params}, X, CONTEXT, mutable=["losses", "metrics"]))(params)
    expected: Any = RMSNorm().apply({"params": params["norm"]}, jnp.asarray(output, jnp.float32))
    np.testing.assert_allclose(y, expected, atol=1e-4)
    real = np.array([[1, 1, 1, 1, 1, 1, 1, 0], [1] * 8])
    (loss,), (metric,) = sown["losses"]["ponder"], sown["metrics"]["ponder_steps"]
    lengths = np.array([[3, 3, 3, 4, 4, 4, 4, 1], [5, 5, 5, 5, 5, 3, 3, 3]])
    np.testing.assert_allclose(loss.values, 0.5 * (steps + remainders) * real / lengths, atol=1e-4)
    np.testing.assert_allclose(np.asarray(metric), [(steps * real).sum(), 15])


def test_an_adaptive_stack_is_adaptive_computation_time() -> None:
    law_is_adaptive_computation_time(STACK)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"epsilon": 0.6}, {"repeats": 4}, {"cost": 0.25}])
def test_another_halting_fails(changes: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        law_is_adaptive_computation_time(dataclasses.replace(STACK, **changes))


@pytest.mark.slow
def test_tokens_that_never_halt_give_the_tied_stack() -> None:
    """Every h_n is near 0, so that the last repeat has all the weight."""
    params = dict(parameters(STACK))
    params["tied"] = params["tied"] | {"halt": {"kernel": jnp.zeros((16, 1)), "bias": jnp.full((1,), -30.0)}}
    tied = Stack(BLOCK, 5, RMSNorm(), prefix=(FIRST,), tied=True)
    plain = params | {"tied": {"block_0": params["tied"]["block_0"]}}
    y, expected = (
        jax.jit(lambda tree, stack=stack: stack.apply({"params": tree}, X, CONTEXT))(tree)
        for stack, tree in ((STACK, params), (tied, plain))
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.slow
def test_an_adaptive_stack_recomputes_and_is_a_layer_of_a_scanned_stack() -> None:
    law_recomputing_changes_nothing(replace(STACK, "remat", "full"), STACK)
    inner = AdaptiveStack(BLOCK, 2)
    law_scan_equals_loop(Stack(Block(inner, None, PreNorm(RMSNorm())), 2))
    assert outputs_and_gradients(STACK, parameters(STACK))[1]["tied"]["halt"]["kernel"].any()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: AdaptiveStack(BLOCK, tied=False), "is tied; leave tied=False out"),
        (lambda: AdaptiveStack(BLOCK, epsilon=1.0), "epsilon is 1.0; it must be below 1"),
        (lambda: AdaptiveStack(BLOCK, cost=-1.0), "cost is -1.0; it must be 0 or above"),
        (
            lambda: AdaptiveStack(Block(MLP(1.0), None, Streams())).init(jax.random.key(0), X, CONTEXT),
            "the state of Streams has the shape",
        ),
    ],
)
def test_what_cannot_halt_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()
