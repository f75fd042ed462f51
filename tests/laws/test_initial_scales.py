"""Laws of first values: every parameter of every component starts as its paper's or its released code's does."""

import dataclasses
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Block, Context, PreNorm, RMSNorm, Stack, TokenEmbed
from models.contracts import Layer, Norm, Position, Relative, Residual, Weigh, kind_of
from models.paths import SCANNED, TIED
from models.recurrence.decayed import Mamba2
from models.recurrence.delta import GatedDeltaNet, KimiDeltaAttention
from models.recurrence.rwkv import RWKV7
from models.residual.single import LayerScale
from models.residual.streams import HyperConnections, ManifoldHyperConnections
from tests.laws.components import arguments, component_classes, forms_of, shapes
from tests.laws.distributions import Constant, Distribution, Normal, Orthogonal
from tests.laws.scales import DEPTH, LAYER, PARTS, REFERENCES, STEPS, WIDTH, rates
from tests.laws.scales import explain as explain_parameter


def inputs(component: Any) -> tuple[Any, ...]:
    """Arguments of a component in one of several blocks, at the width of the table; of other kinds as in the laws."""
    x, ctx = jnp.zeros((1, 2, WIDTH)), Context(layer=LAYER, depth=DEPTH, tokens=jnp.zeros((1, 2), jnp.int32))
    kind, place = kind_of(component), jnp.zeros((1, 1, 1), jnp.int32)
    if kind is Residual:
        expand = getattr(component, "expand", None)
        return (expand(x, ctx) if expand else x), lambda y: y, ctx
    if kind is Layer:
        return x, dataclasses.replace(ctx, shared={"values": jnp.zeros((1, 8, 2, WIDTH // 8))})
    if kind is Relative:
        return jnp.zeros((1, 8, 1, 1)), jnp.zeros((1, 8, 1, 32)), place, place
    if kind is Norm:
        return (x,)
    if kind is Weigh:
        return jnp.zeros((1, 16, 1, 1)), None
    if kind is Position:
        return x, jnp.zeros((1, 2), jnp.int32)
    given = arguments(component)
    return (x, ctx, jnp.zeros((3, WIDTH))) if type(component).__name__.endswith("Head") else given


def first_values(component: Any, arguments: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """Parameters at the start, by path; from bits that compile quickly."""
    key = jax.random.key(1, impl="unsafe_rbg")
    params = jax.jit(lambda key: component.init(key, *arguments).get("params", {}))(key)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def law_first_values_are_the_references(component: Any, first: dict[str, Distribution]) -> None:
    values = first_values(component, inputs(component))
    for path, leaf in values.items():
        explain_parameter(path, leaf, first)
    unused = [pattern for pattern in first if not any(re.fullmatch(pattern, path) for path in values)]
    assert not unused, f"the rows {unused} match no parameter of {sorted(values)}"


@pytest.mark.represented_by(
    "Attention",
    "GatedDeltaNet",
    "RWKV7",
    "TokenEmbed",
    "PatchEmbed",
    "LayerScale",
    "HyperConnections",
    "LearnedPosition",
    "MLSTM",
)
@pytest.mark.parametrize("component", [pytest.param(row.form, id=owner.__name__) for owner, row in REFERENCES.items()])
def test_first_values_are_those_of_the_source(component: Any) -> None:
    law_first_values_are_the_references(component, dict(REFERENCES[type(component)].first))


OTHERS = [pytest.param(owner, id=owner.__name__) for owner in component_classes() if owner not in REFERENCES]


@pytest.mark.slow
@pytest.mark.parametrize("owner", OTHERS)
def test_what_has_no_row_starts_as_the_generic_rows_say(owner: type) -> None:
    component = next(iter(forms_of(owner).values()))
    if shapes(component):
        for path, leaf in first_values(component, inputs(component)).items():
            explain_parameter(path, leaf, PARTS)


# One wrong first value for each kind of row: each must fail.
BROKEN = [
    (RWKV7(4), {"key/kernel": Orthogonal(1.0)}),
    (LayerScale(1e-5), {"scale": Constant(0.1)}),
    (REFERENCES[TokenEmbed].form, {"token|type": Normal(0.04)}),
    (REFERENCES[Mamba2].form, {"log_rate": rates(0.0), "step_bias": STEPS, "skip": Constant(1.0)}),
    (REFERENCES[GatedDeltaNet].form, {"log_rate": rates(1.0), "step_bias": STEPS}),
    (REFERENCES[KimiDeltaAttention].form, {"log_rate": rates(1.0), "step_bias": rates(0.0)}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("component", "wrong"), BROKEN)
def test_other_first_values_fail(component: Any, wrong: dict[str, Distribution]) -> None:
    first = dict(REFERENCES[type(component)].first) | wrong
    with pytest.raises(AssertionError, match="is not"):
        law_first_values_are_the_references(component, first)


class Undeclared(nn.Module):
    """A component whose parameter is no kernel, bias or scale."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.param("temperature", nn.initializers.ones, ())


def test_a_parameter_that_nobody_declared_fails() -> None:
    with pytest.raises(AssertionError, match="temperature .* declare its first values"):
        explain_parameter("temperature", first_values(Undeclared(), (jnp.zeros((1, 4)),))["temperature"], {})


SLOW = [pytest.param(form, marks=pytest.mark.slow) for form in (PreNorm(RMSNorm()), ManifoldHyperConnections())]


@pytest.mark.slow
@pytest.mark.parametrize("residual", [HyperConnections(), *SLOW])
def test_first_values_follow_the_depth_in_a_scan_as_in_a_loop(residual: Any) -> None:
    """And what is tied starts as the first block does, though nothing tells it where it stands."""
    x, block = jnp.zeros((1, 2, 32)), Block(RWKV7(2), None, residual)

    def start(**options: Any) -> Any:
        return Stack(block, 3, **options).init(jax.random.key(0), x, Context())["params"]

    looped, scanned, tied = (
        jax.jit(lambda options=options: start(**options))() for options in ({}, {"scan": True}, {"tied": True})
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tied[TIED]["block_0"]):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        layers = [np.asarray(pick(looped[f"layer_{index}"], path)) for index in range(3)]
        if "_share" in name or "decay_bias" in name or "norm_scale" in name or name.endswith("/read"):
            assert np.abs(layers[0] - layers[1]).max() > 1e-3, f"{name} does not follow the depth"
        if "kernel" not in name:
            np.testing.assert_allclose(
                np.asarray(pick(scanned[SCANNED]["block_0"], path)), np.stack(layers), atol=1e-5, err_msg=name
            )
            np.testing.assert_allclose(np.asarray(leaf), layers[0], atol=1e-5, err_msg=name)


def pick(tree: Any, path: Any) -> Any:
    for key in path:
        tree = tree[key.key]
    return tree
