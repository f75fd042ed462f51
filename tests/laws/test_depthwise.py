"""Laws of residuals that read all earlier outputs: against their equations, branch by branch in float64."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import MLP, MUDD, Attention, AttentionResiduals, Block, Context, PreNorm, RMSNorm, Stack
from models.laws.carrier import branch, chain, parameters_of
from models.laws.depth import law_scan_equals_loop
from models.structure import replace
from tests.laws.stacks import CONTEXT, X, law_starts_as

LAYERS, BRANCHES = 3, 2  # of `chain`
Params = dict[str, Any]


def outputs(index: int, x: np.ndarray) -> np.ndarray:
    """The branches of `chain`."""
    return np.asarray(branch(index, jnp.asarray(x, jnp.float32)), np.float64)


def root(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def rms(p: Params, x: np.ndarray) -> np.ndarray:
    return root(x) * np.asarray(p["scale"], np.float64)


def attended(params: Params, blocks: int | None) -> np.ndarray:
    """Algorithm of arXiv:2603.15031: the query before branch l stands with branch l - 1, that of the output last."""
    numbers = [(layer, index) for layer in range(LAYERS) for index in range(BRANCHES)]
    sources, partial, x = [np.asarray(X, np.float64)], None, np.asarray(X, np.float64)
    for layer, index in numbers:
        p = params[f"{layer}_{index}"]
        y = outputs(index, rms(p["norm"], x))
        opens = blocks is None or (index == 0 and layer % blocks == 0)
        if opens and partial is not None:
            sources.append(partial)
        partial = y if opens else partial + y
        values = np.stack([*sources, partial])
        powers = np.exp(rms(p["source_norm"], values) @ np.asarray(p["query"], np.float64))
        x = ((powers / powers.sum(0))[..., None] * values).sum(0)
    return x


def mudd(params: Params, _: None) -> np.ndarray:
    """Equations of arXiv:2502.12170 with two ways, of the residual and of the mixer's input."""
    sources = [np.asarray(X, np.float64)]
    residual = entering = sources[0]
    for layer in range(LAYERS):
        p = params[f"{layer}_1"]
        h = residual + outputs(0, rms(params[f"{layer}_0"]["norm"], entering))
        sources.append(h + outputs(1, rms(p["norm"], h)))
        z = root(sources[-1]) @ np.asarray(p["hidden"]["kernel"], np.float64)
        z = np.asarray(jax.nn.gelu(jnp.asarray(z), approximate=False), np.float64)
        weights = z @ np.asarray(p["weights"]["kernel"], np.float64) + np.asarray(p["weights"]["bias"], np.float64)
        weights = weights.reshape(*weights.shape[:-1], 2, LAYERS + 1)
        weights[..., layer + 1] += 1
        residual, entering = np.einsum("...mj,j...d->m...d", weights[..., : layer + 2], np.stack(sources))
    return residual


def law_residual_is_its_equations(residual: Any, equations: Callable[..., np.ndarray], *given: Any) -> None:
    params = parameters_of(residual)
    y = np.asarray(jax.jit(lambda: chain(residual, params, X, CONTEXT))())
    np.testing.assert_allclose(y, equations(params, *given), atol=1e-4)


FORMS = [(AttentionResiduals(), attended, None), (AttentionResiduals(blocks=2), attended, 2), (MUDD(), mudd, None)]


@pytest.mark.represented_by("blocks of two", "mudd")
@pytest.mark.parametrize(("residual", "equations", "given"), FORMS, ids=["attention", "blocks of two", "mudd"])
def test_six_branches_are_the_equations(residual: Any, equations: Any, given: Any) -> None:
    law_residual_is_its_equations(residual, equations, given)


@pytest.mark.slow
def test_the_equations_tell_the_forms_apart() -> None:
    with pytest.raises(AssertionError):
        law_residual_is_its_equations(AttentionResiduals(), attended, 2)
    with pytest.raises(AssertionError):
        law_residual_is_its_equations(AttentionResiduals(blocks=2), attended, None)


@pytest.mark.slow
def test_dynamic_dense_connections_start_as_pre_norm() -> None:
    law_starts_as(MUDD(), PreNorm(RMSNorm()))


@pytest.mark.slow
def test_attention_residuals_start_as_the_mean_of_all_outputs_so_far() -> None:
    residual, ctx = AttentionResiduals(), Context(depth=2)
    state, sources, x = residual.expand(X, ctx), [X], X
    for layer in range(2):
        ctx = dataclasses.replace(ctx, layer=layer)
        variables = residual.init(jax.random.key(0), state, jnp.sin, ctx)
        state = jnp.asarray(residual.apply(variables, state, jnp.sin, ctx))
        sources.append(jnp.sin(root(np.asarray(x))))
        x = sum(sources) / len(sources)
        np.testing.assert_allclose(residual.reduce(state, ctx), x, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("residual", [AttentionResiduals(), AttentionResiduals(2), MUDD()])
def test_a_scan_of_four_blocks_is_their_loop(residual: Any) -> None:
    law_scan_equals_loop(Stack(Block(Attention(2, causal=True), MLP(1.0), residual), 4))


def test_blocks_of_unlike_branches_need_sources_of_whole_blocks() -> None:
    stack = Stack((Block(residual=AttentionResiduals()), Block(feedforward=None, residual=AttentionResiduals())), 1)
    with pytest.raises(ValueError, match="room for the outputs of 4 branches, and 2 blocks like this one have 2: give"):
        jax.eval_shape(stack.init, jax.random.key(0), X, CONTEXT)
    for index in range(2):
        stack = replace(stack, f"block.{index}.residual", AttentionResiduals(blocks=1))
    assert jax.eval_shape(stack.init, jax.random.key(0), X, CONTEXT)
