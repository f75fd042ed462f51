"""Laws of structures as values: parts, replacements, text, cost."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from models import MLP, Attention, Block, Context, LayerNorm, RMSNorm, Stack, Transformer, part, replace
from models.experts.grouped import multiply_ragged
from models.structure import differences, fields
from tests.laws.components import BERT, BLOCK, OTHER, forms, shapes
from train.config import list_configs, load_config
from train.cost import traced
from train.spec.encoding import decode, encode
from train.spec.overrides import list_changes


def paths(value: Any, path: str = "") -> list[str]:
    """Every dotted path that leads to a field."""
    inner = enumerate(value) if isinstance(value, tuple) else ()
    if dataclasses.is_dataclass(value):
        inner = [(field.name, getattr(value, field.name)) for field in fields(value)]
    found: list[str] = []
    for name, item in inner:
        here = f"{path}.{name}".lstrip(".")
        found += [here, *paths(item, here)]
    return found


def law_replacing_a_part_by_itself_changes_nothing(value: Any, change: Any = replace) -> None:
    for path in paths(value):
        assert change(value, path, part(value, path)) == value


@pytest.mark.parametrize("component", forms())
def test_replacing_any_part_by_itself_gives_the_same_value(component: Any) -> None:
    law_replacing_a_part_by_itself_changes_nothing(component)


MODEL = Transformer(stack=Stack((BLOCK, OTHER), 2))


def law_replace_then_part_gives_what_was_put(change: Any) -> None:
    for path, new in (
        ("stack.block.1.mixer", Attention(2)),
        ("stack.block.0.residual.norm", LayerNorm()),
        ("head", None),
    ):
        before = encode(MODEL)
        changed = change(MODEL, path, new)
        assert part(changed, path) == new
        assert encode(MODEL) == before
        assert all(found.startswith(path) for found, _, _ in differences(MODEL, changed))
        assert change(changed, path, part(MODEL, path)) == MODEL


def test_a_part_replaced_is_there_and_nothing_else_has_changed() -> None:
    law_replace_then_part_gives_what_was_put(replace)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("stack.blok", "Stack has no field 'blok'; did you mean 'block'"),
        ("stack.block.0.mixer.head", "Attention has no field 'head'; did you mean 'heads'"),
        ("stack.block.2", "no place in a tuple of 2"),
        ("stack.repeats.value", "type int has no field 'value'"),
        ("stack.block.0.parent", "Block has no field 'parent'"),
    ],
)
def test_a_path_that_leads_nowhere_names_the_nearest_field(path: str, words: str) -> None:
    with pytest.raises(LookupError, match=words):
        part(MODEL, path)
    with pytest.raises(LookupError, match=words):
        replace(MODEL, path, None)


@pytest.mark.parametrize("name", list_configs())
def test_a_config_comes_back_from_json_as_it_was(name: str) -> None:
    experiment, names = load_config(name, [])
    again = decode(encode(experiment), names)
    assert again == experiment
    assert list_changes(experiment, again) == []


def test_a_changed_config_is_another_and_its_difference_has_one_line() -> None:
    experiment, names = load_config("tiny_lm", ["model.stack.block.mixer.heads=8"])
    old, _ = load_config("tiny_lm", [])
    assert decode(encode(experiment), names) != old
    assert list_changes(old, experiment) == ["model.stack.block.mixer.heads: 4 -> 8"]


def law_flops_are_the_hand_count(count: int, function: Any, *args: Any) -> None:
    assert traced.count_flops(function, *args) == count


def forward(layer: Any, *shape: int) -> tuple[Any, Any]:
    """(parameters, x) -> output and the shapes of both."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x, Context())
    return (lambda params, x: layer.apply(params, x, Context())), (params, x)


class Dense(nn.Module):
    """One matrix product."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return nn.Dense(self.width)(x)


def test_a_matrix_product_counts_two_for_each_multiplication_and_addition() -> None:
    function, args = forward(Dense(7), 5, 3)
    law_flops_are_the_hand_count(2 * 5 * 3 * 7, function, *args)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_counts_four_projections_and_two_products_with_the_scores(kv_heads: int) -> None:
    b, t, d, h, k = 2, 6, 16, 4, 4
    function, args = forward(Attention(h, kv_heads=kv_heads), b, t, d)
    projections = 2 * b * t * d * (d + 2 * kv_heads * k + d)
    law_flops_are_the_hand_count(projections + 2 * (2 * b * h * t * t * k), function, *args)


def test_a_feedforward_counts_two_products_and_its_gradient_counts_twice_as_many_again() -> None:
    function, args = forward(MLP(3.0), 2, 6, 16)
    count = 2 * (2 * 2 * 6 * 16 * 48)
    law_flops_are_the_hand_count(count, function, *args)
    law_flops_are_the_hand_count(
        3 * count, jax.value_and_grad(lambda params, x: function(params, x).sum(), argnums=(0, 1)), *args
    )


def test_loops_count_by_their_trips_and_of_branches_the_dearest_counts() -> None:
    square = jnp.ones((4, 4))
    law_flops_are_the_hand_count(
        5 * 2 * 4**3, lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, None, length=5)[0], square
    )
    branches = [lambda x: x, lambda x: x @ x @ x]
    law_flops_are_the_hand_count(2 * 2 * 4**3, lambda x: jax.lax.cond(x.sum() > 0, *branches, x), square)


def test_products_of_groups_count_each_row_once_and_loops_of_unknown_length_give_way_to_other_branches() -> None:
    rows, kernel, groups = ((9, 4), jnp.float32), ((3, 4, 5), jnp.float32), ((3,), jnp.int32)
    given = [jax.ShapeDtypeStruct(*each) for each in (rows, kernel, groups)]
    count = 2 * 9 * 4 * 5
    law_flops_are_the_hand_count(count, multiply_ragged, *given)
    law_flops_are_the_hand_count(
        3 * count, jax.value_and_grad(lambda *args: multiply_ragged(*args).sum(), (0, 1)), *given
    )

    def unknown(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ x @ x @ x, x)

    law_flops_are_the_hand_count(
        2 * 4**3, lambda x: jax.lax.cond(x.sum() > 0, unknown, lambda x: x @ x, x), jnp.ones((4, 4))
    )


@pytest.mark.parametrize("scan", [False, True])
def test_a_stack_counts_its_block_as_often_as_it_repeats_it(scan: bool) -> None:
    block, x = Block(Attention(4), MLP(2.0)), (1, 5, 16)
    one, one_args = forward(Stack(block, 1, RMSNorm()), *x)
    three, three_args = forward(Stack(block, 3, RMSNorm(), scan=scan), *x)
    law_flops_are_the_hand_count(3 * traced.count_flops(one, *one_args), three, *three_args)


def test_parameters_are_counted_by_hand() -> None:
    width, vocab, depth = 16, 11, 1
    attention, feedforward, norms = 4 * (width * width + width), 2 * width * 24 + 24 + width, 4 * width
    embed = vocab * width + 2 * width + 12 * width + 2 * width
    assert traced.count_parameters(shapes(BERT)) == embed + depth * (attention + feedforward + norms)


def careless(value: Any, path: str, new: Any) -> Any:
    """Broken replace: forgets to give the outer parts anew."""
    owner, _, name = path.rpartition(".")
    inner = part(value, owner) if owner else value
    return inner if isinstance(inner, tuple) else dataclasses.replace(inner, **{name: new})


BROKEN = [
    (law_replacing_a_part_by_itself_changes_nothing, (MODEL, careless)),
    (law_replace_then_part_gives_what_was_put, (lambda value, path, new: value,)),
    (law_flops_are_the_hand_count, (2 * 5 * 3 * 7, lambda x, y: (x @ y) @ y.T, jnp.ones((5, 3)), jnp.ones((3, 7)))),
]


@pytest.mark.parametrize(("law", "given"), BROKEN)
def test_broken_components_fail(law: Any, given: Any) -> None:
    with pytest.raises(AssertionError):
        law(*given)
