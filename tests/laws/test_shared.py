"""A scan is a loop or is refused, whatever a layer gives to the layers after it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Attention, Block, Context, SharedAttention, Stack, ValueResidual, scanned
from models.laws.depth import context, law_scan_equals_loop, stream
from models.laws.verdict import NotTestedError
from models.structure import replace

X, CONTEXT = stream(), context()


class Mine(nn.Module):
    """A value residual of one's own: the first layer's parameters are those of the others."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> Any:
        value = nn.Dense(x.shape[-1], name="value")(x)
        first = ctx.shared.get("mine", value)
        return (value + first) / 2, {"mine": first}


class Once(Mine):
    """The same, given by the first layer alone, which branches."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> Any:
        value = nn.Dense(x.shape[-1], name="value")(x)
        return (value + ctx.shared["mine"]) / 2 if "mine" in ctx.shared else (value, {"mine": value})


class Branching(Mine):
    """A layer that reads no number of what it finds, only that it is there."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> Any:
        value = nn.Dense(x.shape[-1], name="value")(x)
        return (value if "mine" in ctx.shared else jnp.tanh(value)), {"mine": value}


class Running(Mine):
    """A layer that reads what the one before it gave, and gives its own under the same name."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> Any:
        value = nn.Dense(x.shape[-1], name="value")(x)
        return (value + ctx.shared.get("mine", 0 * value)) / 2, {"mine": value}


class Giving(Mine):
    """A layer that gives what it never reads."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> Any:
        value = nn.relu(nn.Dense(x.shape[-1], name="value")(x))  # whose derivative is a rule of its own
        return value, {"mine": value}


def of(mixer: Any, **fields: Any) -> Stack:
    return Stack(Block(mixer, None), 2, **fields)


def first(mixer: Any, **fields: Any) -> Stack:
    """A stack whose first layer stands before the scan."""
    return of(mixer, prefix=(Block(mixer, None),), **fields)


REFUSED = {
    "the same parameters": of(Mine()),
    "other parameters": of(ValueResidual(2)),
    "the first alone gives": of(Once()),
    "only that it is there": of(Branching()),
    "from layer to layer": of(Running()),
    "from layer to layer, with a prefix": first(Running()),
}


@pytest.mark.parametrize("remat", [None, "full"])
@pytest.mark.parametrize("form", REFUSED)
def test_a_scan_whose_later_layers_compute_something_else_is_refused(form: str, remat: str | None) -> None:
    stack = replace(replace(REFUSED[form], "scan", True), "remat", remat)
    with pytest.raises(ValueError, match=r"gives (mine|values) in each repeat.*Stack\.prefix"):
        jax.eval_shape(stack.init, jax.random.key(0), X, CONTEXT)


PAIR = (Block(SharedAttention(2), None, dropout=0.1), Block(SharedAttention(2, reuse=True), None))
ALLOWED = {
    "a first layer before the scan": first(Mine()),
    "a first layer before the scan that alone gives": first(Once()),
    "a value residual": first(ValueResidual(2)),
    "given and never read": of(Giving()),
    "pairs": Stack(PAIR, 2),
    "keys of one layer": Stack(PAIR[1], 2, prefix=(PAIR[0],)),
    "a loop": of(Attention(2)),
}


@pytest.mark.parametrize("remat", [None, "full"])
@pytest.mark.parametrize("form", ALLOWED)
def test_a_scan_that_computes_what_the_loop_does_is_not_refused(form: str, remat: str | None) -> None:
    stack = replace(replace(ALLOWED[form], "scan", True), "remat", remat)
    jax.eval_shape(stack.init, jax.random.key(0), X, CONTEXT)


def test_a_scan_after_a_first_layer_of_ones_own_is_the_loop() -> None:
    loop = first(Mine())
    params = jax.jit(loop.init)(jax.random.key(0), X, CONTEXT)["params"]
    expected = jax.jit(loop.apply)({"params": params}, X, CONTEXT)
    found = jax.jit(replace(loop, "scan", True).apply)({"params": scanned(params, loop)}, X, CONTEXT)
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-5)


def test_the_law_of_scans_puts_a_first_layer_before_the_scan_or_says_why_not() -> None:
    law_scan_equals_loop(of(Mine()))
    with pytest.raises(NotTestedError, match=r"gives mine in each repeat"):
        law_scan_equals_loop(of(Running()))


def test_repeats_that_share_parameters_are_looked_at_too() -> None:
    with pytest.raises(ValueError, match=r"Stack\.prefix"):
        jax.eval_shape(of(Mine(), tied=True).init, jax.random.key(0), X, CONTEXT)
    jax.eval_shape(Stack(PAIR, 2, tied=True).init, jax.random.key(0), X, CONTEXT)
