"""Laws of depth: residuals, loops and scans, recomputed activations."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    GLU,
    MLP,
    Attention,
    Block,
    Context,
    LayerNorm,
    PostNorm,
    PreNorm,
    RMSNorm,
    Sandwich,
    Stack,
    scanned,
    unrolled,
)
from models.contracts import Norm, Residual, conforms
from models.depth.stack import POLICIES
from models.laws.depth import (
    law_recomputing_changes_nothing,
    law_residual_keeps_the_shape_of_the_state,
    law_scan_equals_loop,
    law_zero_branch_leaves_the_state,
    loop_parameters,
)
from models.structure import replace
from tests.laws.components import BLOCK, WIDTH, forms, parameters
from tests.laws.stacks import CONTEXT, Branch, Doubled, X, assert_close, normalised
from train.cost import traced


@pytest.mark.parametrize("residual", forms(Residual))
def test_a_residual_keeps_the_shape_of_the_state(residual: Any) -> None:
    law_residual_keeps_the_shape_of_the_state(residual)


def test_a_branch_of_zeros_leaves_the_state_of_pre_norm() -> None:
    law_zero_branch_leaves_the_state(PreNorm())
    law_zero_branch_leaves_the_state(PreNorm(RMSNorm()))


def test_a_branch_of_zeros_leaves_the_state_of_a_sandwich_without_bias() -> None:
    law_zero_branch_leaves_the_state(Sandwich(RMSNorm()))
    law_zero_branch_leaves_the_state(Sandwich(LayerNorm(bias=False)))


CLOSED_FORMS = [
    (PreNorm(), lambda p, x: x + np.sin(normalised(p["norm"], x))),
    (PostNorm(), lambda p, x: normalised(p["norm"], x + np.sin(x))),
    (Sandwich(), lambda p, x: x + normalised(p["norm_out"], np.sin(normalised(p["norm_in"], x)))),
]


def law_residual_is_its_closed_form(residual: Any, formula: Any) -> None:
    params = parameters(residual)
    np.testing.assert_allclose(
        residual.apply({"params": params}, X, jnp.sin, Context()), formula(params, np.asarray(X)), atol=1e-5
    )


@pytest.mark.parametrize(("residual", "formula"), CLOSED_FORMS)
def test_a_residual_is_its_closed_form(residual: Any, formula: Any) -> None:
    law_residual_is_its_closed_form(residual, formula)


class HyperConnection(nn.Module):
    """n streams: a branch reads their weighted sum and is added to each; streams mix.  arXiv:2409.19606."""

    streams: int = 3
    norm: Norm = LayerNorm()

    def expand(self, x: jax.Array, ctx: Context) -> jax.Array:
        """n copies."""
        return jnp.broadcast_to(x, (self.streams, *x.shape))

    def reduce(self, state: jax.Array, ctx: Context) -> jax.Array:
        """Their mean."""
        return state.mean(0)

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        n = self.streams
        read = self.param("read", lambda _: jnp.full((n,), 1 / n))
        write = self.param("write", nn.initializers.ones, (n,))
        mix = self.param("mix", lambda _: jnp.eye(n))
        given = branch(self.norm(jnp.einsum("n,nbtd->btd", read, state)))
        return jnp.einsum("mn,nbtd->mbtd", mix, state) + write[:, None, None, None] * given


HYPER = Stack(Block(Attention(2, causal=True), None, HyperConnection()), 2)
PLAIN = Stack(BLOCK, 2)
PATTERN = Stack((Block(Attention(2, causal=True), None), Block(GLU(2.0), None, Sandwich())), 2, RMSNorm())


def law_conversions_are_inverses(stack: Stack, into: Any, back: Any) -> None:
    params = loop_parameters(stack)
    other = into(params, stack)
    assert jax.tree.structure(back(other, stack)) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back(other, stack), params)
    jax.tree.map(np.testing.assert_array_equal, into(back(other, stack), stack), other)
    shapes = jax.eval_shape(replace(stack, "scan", True).init, jax.random.key(0), X, CONTEXT)["params"]
    assert jax.tree.map(jnp.shape, other) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.parametrize("stack", [PLAIN, PATTERN, HYPER])
def test_a_scanned_stack_gives_the_outputs_and_gradients_of_the_loop(stack: Stack) -> None:
    law_scan_equals_loop(stack)


@pytest.mark.parametrize("stack", [PLAIN, PATTERN, HYPER])
def test_scanned_and_unrolled_are_inverses_and_leave_what_is_converted(stack: Stack) -> None:
    law_conversions_are_inverses(stack, scanned, unrolled)
    params = loop_parameters(stack)
    assert unrolled(params, stack) == params
    once = scanned(params, stack)
    assert scanned(once, stack) == once


def test_identity_hyper_connections_are_pre_norm() -> None:
    hyper = loop_parameters(HYPER)
    start = {"read": jnp.full((3,), 1 / 3), "write": jnp.ones(3), "mix": jnp.eye(3)}

    def identity(params: Any) -> Any:
        return {
            name: identity(value) | (start if "mix" in value else {}) if isinstance(value, dict) else value
            for name, value in params.items()
        }

    def pre_norm(params: Any) -> Any:
        return {
            name: pre_norm(value) if isinstance(value, dict) else value
            for name, value in params.items()
            if name not in start
        }

    y = HYPER.apply({"params": identity(hyper)}, X, CONTEXT)
    plain = replace(HYPER, "block.residual", PreNorm())
    assert_close(y, plain.apply({"params": pre_norm(hyper)}, X, CONTEXT))
    assert conforms(HyperConnection, Residual)


DROPPED = Stack(Block(Attention(2), None, PreNorm(), dropout=0.3), 1)


@pytest.mark.represented_by("full", "dots", "offload")
@pytest.mark.parametrize("policy", POLICIES)
def test_recomputed_activations_give_the_same_outputs_and_gradients_with_dropout(policy: str) -> None:
    law_recomputing_changes_nothing(replace(DROPPED, "remat", policy), DROPPED)


@pytest.mark.slow
def test_recomputed_activations_under_a_scan_give_the_same_outputs_and_gradients_with_dropout() -> None:
    scan = replace(replace(DROPPED, "scan", True), "repeats", 2)
    law_recomputing_changes_nothing(replace(scan, "remat", "full"), scan)


class Passed(nn.Module):
    """The branch alone, so that a stack of them multiplies what its layers drop."""

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        return branch(state)


class Same(nn.Module):
    """A layer that does nothing."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return x


@pytest.mark.parametrize("scan", [False, True])
def test_every_layer_drops_elements_of_its_own(scan: bool) -> None:
    stack = Stack(Block(Same(), None, Passed(), dropout=0.5), 3, scan=scan)
    y = stack.apply({}, jnp.ones((8, 8, WIDTH)), Context(train=True), rngs={"dropout": jax.random.key(0)})
    assert abs(float(jnp.mean(y == 0)) - 7 / 8) < 0.05


def law_scan_counts_as_much_as_the_loop(loop: Any, scan: Any, *args: Any) -> None:
    assert traced.count_flops(loop, *args) == traced.count_flops(scan, *args) > 0


def test_a_scanned_stack_counts_the_products_of_the_loop() -> None:
    params, scan = loop_parameters(PATTERN), replace(PATTERN, "scan", True)
    law_scan_counts_as_much_as_the_loop(
        lambda x: PATTERN.apply({"params": params}, x, CONTEXT),
        lambda x: scan.apply({"params": scanned(params, PATTERN)}, x, CONTEXT),
        X,
    )


def test_a_stack_refuses_no_repeats_and_an_unknown_policy_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="repeats its pattern 0 times"):
        Stack(BLOCK, 0)
    with pytest.raises(ValueError, match="did you mean 'dots_saveable'"):
        Stack(BLOCK, 1, remat="dots_savable")


def shuffled(params: Any, stack: Stack) -> Any:
    """Broken conversion: layers in the reverse order."""
    wrong = scanned(params, stack)
    return {
        name: jax.tree.map(lambda leaf: leaf[::-1], value) if name == "blocks" else value
        for name, value in wrong.items()
    }


class Narrowed(nn.Module):
    """Broken residual: loses a stream."""

    def expand(self, x: jax.Array, ctx: Context) -> jax.Array:
        return jnp.stack([x, x])

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        return state[:1]


class Late(nn.Module):
    """Broken under a scan: doubles in the first layer of a loop only."""

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        return branch(state) * (2 if "layer_0" in self.path else 1)


BROKEN = [
    (law_zero_branch_leaves_the_state, (Doubled(),)),
    (law_zero_branch_leaves_the_state, (PostNorm(),)),
    (law_residual_keeps_the_shape_of_the_state, (Narrowed(),)),
    (law_residual_is_its_closed_form, (Doubled(), CLOSED_FORMS[0][1])),
    (law_scan_equals_loop, (Stack(Block(MLP(1.0), None, Late()), 2),)),
    (law_conversions_are_inverses, (PLAIN, shuffled, unrolled)),
    (law_recomputing_changes_nothing, (replace(DROPPED, "block.dropout", 0.0), DROPPED)),
    (law_scan_counts_as_much_as_the_loop, (lambda x: x @ x, lambda x: x @ (x @ x), jnp.ones((3, 3)))),
]


@pytest.mark.parametrize(("law", "given"), BROKEN)
def test_broken_components_fail(law: Any, given: Any) -> None:
    with pytest.raises(AssertionError):
        law(*given)
