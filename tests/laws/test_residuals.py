"""Laws of residuals beyond the plain ones: closed forms, where they start, loop and scan; and of stacks that grow."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import MLP, Attention, Block, Context, Decoding, LayerNorm, PostNorm, PreNorm, RMSNorm, Stack, scanned
from models.depth.skipping import MixtureOfDepths
from models.laws.depth import law_scan_equals_loop, loop_parameters
from models.residual.single import (
    DeepNorm,
    Highway,
    LayerScale,
    NormalizedResidual,
    ReZero,
    ScaledNorm,
    StochasticDepth,
)
from models.residual.streams import DenseFormer, HyperConnections, ManifoldHyperConnections, UNet, doubly_stochastic
from models.structure import replace
from models.surgery.growth import Order, deepened
from tests.laws.components import WIDTH, normal, parameters
from tests.laws.stacks import CONTEXT, Doubled, X, assert_close, law_starts_as, normalised
from train.cost import traced

RESIDUALS = [
    ReZero(),
    LayerScale(),
    DeepNorm(),
    ScaledNorm(),
    StochasticDepth(ScaledNorm(), 0.5),
    Highway(),
    NormalizedResidual(),
    HyperConnections(3),
    HyperConnections(2, dynamic=True),
    ManifoldHyperConnections(2, steps=4),
    StochasticDepth(DenseFormer(), 0.5),
    UNet(),
]
SCANNED = ("8 HyperConnections",)


def stacked(residual: Any, repeats: int = 4) -> Stack:
    return Stack(Block(Attention(2, causal=True), MLP(1.0), residual), repeats)


@pytest.mark.slow
@pytest.mark.represented_by(*SCANNED)
@pytest.mark.parametrize(
    "residual", [pytest.param(one, id=f"{place} {type(one).__name__}") for place, one in enumerate(RESIDUALS)]
)
def test_a_scan_of_four_blocks_is_their_loop(residual: Any) -> None:
    law_scan_equals_loop(stacked(residual))


def sphere(x: Any) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True))


def highway(p: Any, x: Any) -> np.ndarray:
    z = normalised(p["norm"], x)
    gate = 1 / (1 + np.exp(-(z @ np.asarray(p["gate"]["kernel"]) + np.asarray(p["gate"]["bias"]))))
    return gate * np.sin(z) + (1 - gate) * x


def normalized(p: Any, x: Any) -> np.ndarray:
    u = sphere(x)
    return sphere(u + np.abs(p["alpha"]) * 0.05 * 4 * (sphere(np.sin(u)) - u))


CLOSED_FORMS: list[tuple[Any, Any]] = [
    (ReZero(), lambda p, x: x + np.asarray(p["alpha"]) * np.sin(x)),
    (LayerScale(), lambda p, x: x + np.asarray(p["scale"]) * np.sin(normalised(p["norm"], x))),
    (DeepNorm(), lambda p, x: normalised(p["norm"], 10**0.25 * x + np.sin(x))),
    (DeepNorm(3.0), lambda p, x: normalised(p["norm"], 3 * x + np.sin(x))),
    (ScaledNorm(), lambda p, x: x + np.sin(normalised(p["norm"], x) / 2)),
    (Highway(), highway),
    (NormalizedResidual(), normalized),
]
FOURTH = Context(layer=3, depth=5)


def law_residual_is_its_closed_form(residual: Any, formula: Any) -> None:
    params = parameters(residual)
    np.testing.assert_allclose(
        residual.apply({"params": params}, X, jnp.sin, FOURTH), formula(params, np.asarray(X)), atol=1e-5
    )


@pytest.mark.parametrize(("residual", "formula"), CLOSED_FORMS)
def test_a_residual_is_its_closed_form_in_the_fourth_of_five_blocks(residual: Any, formula: Any) -> None:
    law_residual_is_its_closed_form(residual, formula)


STARTS = [
    (ReZero(), None),
    (LayerScale(1.0), PreNorm()),
    (StochasticDepth(PostNorm(), 0.5), PostNorm()),
    (HyperConnections(1), PreNorm()),
    (HyperConnections(3), PreNorm()),
    (HyperConnections(2, dynamic=True), PreNorm()),
    (ManifoldHyperConnections(1), PreNorm()),
    (ManifoldHyperConnections(3), PreNorm()),
    (DenseFormer(), PreNorm()),
    (UNet(), PreNorm()),
    (Highway(bias=-30.0), None),
]


@pytest.mark.parametrize(("residual", "other"), STARTS)
def test_a_residual_starts_as_it_says(residual: Any, other: Any) -> None:
    law_starts_as(residual, other)


@pytest.mark.parametrize(("residual", "name"), [(HyperConnections(3), "read"), (ManifoldHyperConnections(3), "base")])
def test_each_branch_reads_the_stream_after_that_of_the_branch_before(residual: Any, name: str) -> None:
    """Branch k = layer * branches + branch of a model reads stream k mod n at the start, as arXiv:2409.19606 has it."""
    reads = []
    for layer, branch in itertools.product(range(3), range(2)):
        ctx = Context(depth=3, branches=2, layer=layer, branch=branch)
        params = residual.init(jax.random.key(0), residual.expand(X, ctx), jnp.sin, ctx)["params"]
        reads.append(int(np.argmax(params[name][:3])))
    assert reads == [0, 1, 2, 0, 1, 2]


def test_mixes_are_doubly_stochastic() -> None:
    mix = np.asarray(doubly_stochastic(normal(5, 3, 4, 4), 20))
    np.testing.assert_allclose(mix.sum(-1), 1, atol=1e-4)
    np.testing.assert_allclose(mix.sum(-2), 1, atol=1e-4)
    assert (mix > 0).all()


def test_dense_former_and_u_net_are_their_closed_forms() -> None:
    weights = [np.asarray(normal(layer, 4)) for layer in range(3)]
    norm = parameters(LayerNorm())
    history, x, state = [np.asarray(X)], np.asarray(X), DenseFormer().expand(X, Context(depth=3))
    for layer in range(3):
        ctx = Context(layer=layer, depth=3)
        state = DenseFormer().apply({"params": {"weights": weights[layer], "norm": norm}}, state, jnp.sin, ctx)
        history.append(x + np.sin(normalised(norm, x)))
        x = history[-1] + sum(weights[layer][place] * past for place, past in enumerate(history))
    np.testing.assert_allclose(DenseFormer().reduce(jnp.asarray(state), Context()), x, atol=1e-4)

    inputs, x, state = [], np.asarray(X), UNet().expand(X, Context(depth=3))
    for layer in range(3):
        state = UNet().apply(
            {"params": {"weight": jnp.array(0.5), "norm": norm}}, state, jnp.sin, Context(layer=layer, depth=3)
        )
        inputs.append(x)
        x = x + (0.5 * inputs[2 - layer] if layer >= 1 else 0)
        x = x + np.sin(normalised(norm, x))
    np.testing.assert_allclose(UNet().reduce(jnp.asarray(state), Context()), x, atol=1e-4)


def test_stochastic_depth_drops_whole_examples_at_the_rate_of_its_block() -> None:
    ctx = Context(segments=jnp.tile(jnp.array([[1, 1, 2, 2]]), (400, 1)), layer=1, depth=4, train=True)
    params, x = parameters(StochasticDepth(ReZero(), 0.5)), jnp.zeros((400, 4, 3))
    added = StochasticDepth(ReZero(), 0.5).apply(
        {"params": params}, x, lambda x: x + 1, ctx, rngs={"dropout": jax.random.key(0)}
    )
    kept = np.asarray(added)[..., 0] != 0
    assert (kept[:, 0] == kept[:, 1]).all()
    assert (kept[:, 2] == kept[:, 3]).all()
    assert (kept[:, 0] != kept[:, 2]).any()
    assert abs(kept.mean() - 0.75) < 0.05
    np.testing.assert_allclose(np.asarray(added)[kept], np.asarray(params["residual"]["alpha"]) / 0.75, rtol=1e-5)


GROWN = [
    (PreNorm(), "interleaved"),
    (PreNorm(RMSNorm()), "stacked"),
    (ScaledNorm(), "stacked"),
    (LayerScale(), "interleaved"),
]


def law_growth_keeps_the_outputs(stack: Stack, order: Any, scan: bool, preserving: bool = True) -> None:
    params = scanned(loop_parameters(stack), stack) if scan else loop_parameters(stack)
    stack = replace(stack, "scan", scan)
    deep = replace(stack, "repeats", 5)
    grown = deepened(params, stack, 5, order, preserving)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(
        jnp.shape, jax.eval_shape(deep.init, jax.random.key(0), X, CONTEXT)["params"]
    )
    assert_close(stack.apply({"params": params}, X, CONTEXT), deep.apply({"params": grown}, X, CONTEXT))


@pytest.mark.represented_by("residual0-interleaved-True", "residual1-stacked-False")
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(("residual", "order"), GROWN)
def test_a_stack_grows_without_changing_what_it_computes(residual: Any, order: Any, scan: bool) -> None:
    law_growth_keeps_the_outputs(stacked(residual, 2), order, scan)


def test_growth_copies_layers_in_its_order_and_refuses_what_it_cannot_keep() -> None:
    stack = stacked(PreNorm(), 2)
    params = loop_parameters(stack)
    orders: list[tuple[Order, tuple[int, ...]]] = [("stacked", (0, 1, 0, 1)), ("interleaved", (0, 0, 1, 1))]
    for order, sources in orders:
        grown = deepened(params, stack, 4, order)
        for layer, source in enumerate(sources):
            jax.tree.map(np.testing.assert_array_equal, grown[f"layer_{layer}"], params[f"layer_{source}"])
    with pytest.raises(ValueError, match="at least as many"):
        deepened(params, stack, 1)
    with pytest.raises(ValueError, match="one of PreNorm"):
        deepened(params, stacked(PostNorm(), 2), 4, preserving=True)


def mixture(residual: Any, capacity: float) -> MixtureOfDepths:
    return MixtureOfDepths(Attention(2, causal=True), MLP(1.0), residual, capacity=capacity)


@pytest.mark.slow
def test_a_mixture_of_depths_changes_its_share_of_each_example_and_costs_as_much() -> None:
    x = normal(9, 2, 8, WIDTH)
    stack = Stack(mixture(PreNorm(), 0.5), 1)
    params = loop_parameters(stack)
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 2, 0], [1] * 8])
    y = np.asarray(stack.apply({"params": params}, x, Context(segments=segments)))
    changed = (y != np.asarray(x)).any(-1)
    assert [changed[0, :4].sum(), changed[0, 4:7].sum(), changed[0, 7], changed[1].sum()] == [2, 1, 0, 4]
    alone: Any = stack.apply({"params": params}, x[:1, 4:7], Context())
    np.testing.assert_allclose(alone, y[:1, 4:7], atol=1e-5)
    whole, part = (
        traced.count_flops(lambda x, stack=stack: stack.apply({"params": params}, x, Context()), x)
        for stack in (Stack(mixture(PreNorm(), 1.0), 1), stack)
    )
    assert part < 0.55 * whole
    with pytest.raises(ValueError, match="cannot decode"):
        stack.apply({"params": params}, x, Context(decoding=Decoding(0, 8)))


def test_a_mixture_of_depths_that_takes_all_tokens_joins_the_blocks_change_by_its_weight() -> None:
    mixed = mixture(PreNorm(), 1.0)
    params = loop_parameters(Stack(mixed, 1))["layer_0"]
    block = {name: value for name, value in params.items() if name != "router"}
    full = Block(mixed.mixer, mixed.feedforward, mixed.residual).apply({"params": block}, X, CONTEXT)[0]
    real = np.asarray(CONTEXT.segments)[..., None] > 0
    weight = 1 / (1 + np.exp(-np.asarray(X) @ np.asarray(params["router"]["kernel"])))
    y = mixed.apply({"params": params}, X, CONTEXT)[0]
    np.testing.assert_allclose(y, np.asarray(X) + real * weight * (np.asarray(full) - np.asarray(X)), atol=1e-4)


@pytest.mark.slow
@pytest.mark.represented_by("residual0")
@pytest.mark.parametrize("residual", [PreNorm(), HyperConnections(2)])
def test_mixtures_of_depths_scan_as_they_loop(residual: Any) -> None:
    law_scan_equals_loop(Stack((Block(Attention(2, causal=True), None, residual), mixture(residual, 0.5)), 2))


BROKEN = [
    (law_residual_is_its_closed_form, (Doubled(), CLOSED_FORMS[4][1])),
    (law_starts_as, (Doubled(), PreNorm())),
    (law_growth_keeps_the_outputs, (stacked(PreNorm(), 2), "stacked", False, False)),
]


@pytest.mark.parametrize(("law", "given"), BROKEN)
def test_broken_components_fail(law: Any, given: Any) -> None:
    with pytest.raises(AssertionError):
        law(*given)
