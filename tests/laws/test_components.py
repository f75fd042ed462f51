"""Laws over every component of every kind."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

from models import (
    MLP,
    Attention,
    Block,
    Context,
    EncoderDecoder,
    LayerNorm,
    LogitsHead,
    PreNorm,
    RoPE,
    Stack,
    TokenEmbed,
    Transform,
    Transformer,
)
from models.contracts import Norm, kind_of
from models.laws.general import (
    law_compiled_equals_eager,
    law_equal_components_have_equal_parameters,
    law_every_parameter_has_a_gradient,
    law_floats_stay_in_their_type,
)
from tests.laws.components import (
    VOCAB,
    WIDTH,
    component_classes,
    forms,
    forms_of,
    is_recurrence,
    module_classes,
    modules_run,
    normal,
    parameters,
)
from train.cost import traced
from train.spec.encoding import decode, encode
from train.spec.parts import list_project_parts


def law_json_gives_the_same_component(component: Any) -> None:
    assert decode(encode(component), list_project_parts()) == component


def law_parameters_are_the_sum_of_sizes(component: Any) -> None:
    leaves = jax.tree.leaves(parameters(component))
    assert traced.count_parameters(parameters(component)) == sum(np.asarray(leaf).size for leaf in leaves)


LAWS = [
    # each operation of the eager one is a program to compile
    pytest.param(law_compiled_equals_eager, marks=pytest.mark.slow),
    pytest.param(law_floats_stay_in_their_type, marks=pytest.mark.slow),
    law_json_gives_the_same_component,
    pytest.param(law_equal_components_have_equal_parameters, marks=pytest.mark.slow),
    law_parameters_are_the_sum_of_sizes,
]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("component", forms())
def test_every_component_obeys(component: Any, law: Any) -> None:
    law(component)


# gradients of recurrences are compiled longest; `make test` has those of their chunks, in test_recurrence.py
@pytest.mark.parametrize(
    "component",
    [
        pytest.param(*form.values, id=form.id, marks=pytest.mark.slow if is_recurrence(form.values[0]) else ())
        for form in forms()
    ],
)
def test_every_parameter_has_a_gradient(component: Any) -> None:
    law_every_parameter_has_a_gradient(component)


@pytest.mark.parametrize("owner", component_classes())
def test_every_component_class_has_a_form_of_its_own_class(owner: type) -> None:
    built = forms_of(owner)
    assert built
    assert all(type(form) is owner for form in built.values())


@pytest.mark.slow
def test_every_module_class_of_the_package_runs_in_some_form() -> None:
    ran = frozenset[type]().union(*(modules_run(form.values[0]) for form in forms()))
    assert ran.issuperset(module_classes())


def test_components_are_found_for_every_kind_of_socket() -> None:
    kinds = {getattr(kind_of(owner), "__name__", "") for owner in component_classes()}
    assert kinds == {
        "Layer",
        "Norm",
        "Position",
        "Relative",
        "Weigh",
        "Router",
        "Residual",
        "Embed",
        "Pool",
        "Head",
        "Model",
    }


def test_a_key_bias_without_positions_moves_no_output() -> None:
    x, plain, turned = normal(1, 1, 5, 16), Attention(4, bias=True), Attention(4, bias=True, position=RoPE())
    params = parameters(plain)
    moved = {**params, "key": {**params["key"], "bias": params["key"]["bias"] + normal(2, 16)}}
    outputs = [layer.apply({"params": tree}, x, Context()) for layer in (plain, turned) for tree in (params, moved)]
    np.testing.assert_allclose(np.asarray(outputs[0]), np.asarray(outputs[1]), atol=1e-5)
    assert np.abs(np.asarray(outputs[2]) - np.asarray(outputs[3])).max() > 1e-2


class Traced(nn.Module):
    """Broken: another function when compiled."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return 2 * x if isinstance(x, Tracer) else x


class Widened(nn.Module):
    """Broken: float32 out of bfloat16."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32)


class Unused(nn.Module):
    """Broken: a parameter without effect."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return x + jax.lax.stop_gradient(self.param("shift", nn.initializers.ones, (x.shape[-1],)))


class Infinite(nn.Module):
    """Broken: a gradient that is not a number, from the root of zero."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return x + jnp.sqrt(jnp.square(scale - jax.lax.stop_gradient(scale)))


class Forgetful(nn.Module):
    """Broken: comes back from JSON with another value."""

    rate: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", self.rate / 2)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return x * self.rate


def law_json_of_a_test_component(component: Any) -> None:
    names = {type(component).__name__: type(component)}
    assert decode(encode(component), list_project_parts() | names) == component


class Pair(nn.Module):
    """Broken where both are one object: linen gives that one set of parameters, and its equal of two objects two."""

    first: Norm
    second: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(self.first(x))


ONE = LayerNorm()


def law_equals_of_other_objects_have_equal_parameters(component: Any) -> None:
    law_equal_components_have_equal_parameters(component, Pair(LayerNorm(), LayerNorm()))


def test_models_whose_parts_are_one_object_have_the_parameters_of_their_equals() -> None:
    embed, head = TokenEmbed(VOCAB, WIDTH, norm=ONE), LogitsHead(transform=Transform(norm=ONE))
    stack = Stack(Block(Attention(2), MLP(1.0), PreNorm(ONE)), 1, ONE)
    law_equal_components_have_equal_parameters(Transformer(embed, stack, head))
    law_equal_components_have_equal_parameters(EncoderDecoder(embed, stack, stack, head))


BROKEN = [
    (law_equals_of_other_objects_have_equal_parameters, Pair(ONE, ONE)),
    (law_compiled_equals_eager, Traced()),
    (law_floats_stay_in_their_type, Widened()),
    (law_every_parameter_has_a_gradient, Unused()),
    (law_every_parameter_has_a_gradient, Infinite()),
    (law_json_of_a_test_component, Forgetful()),
]


@pytest.mark.parametrize(("law", "component"), BROKEN)
def test_broken_components_fail(law: Any, component: Any) -> None:
    with pytest.raises(AssertionError):
        law(component)
