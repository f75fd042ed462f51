"""Active parameters are those that a token is multiplied with."""

import jax
import jax.numpy as jnp
import pytest

from models.contracts import Tree
from train.cost.active import count_active

TOKENS, CHOICES, EXPERTS = 8, 2, 6
SHAPES = {"table": (10, 4), "matrix": (4, 4), "experts": (EXPERTS, 4, 5), "stacked": (3, 4, 4), "scale": (4,)}
PARAMS = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}


def run(params: Tree, ids: jax.Array, loop: bool = False) -> jax.Array:
    x = params["table"][ids] @ params["matrix"] * params["scale"]
    if loop:
        x, _ = jax.lax.scan(lambda x, matrix: (x @ matrix, None), x, params["stacked"])
    counts = jnp.full(EXPERTS, TOKENS * CHOICES // EXPERTS)
    return jax.lax.ragged_dot(jnp.repeat(x, CHOICES, 0), params["experts"], counts)


@pytest.mark.parametrize("loop", [False, True])
def test_a_row_of_a_table_and_the_chosen_experts_are_active_and_matrices_as_a_whole(loop: bool) -> None:
    counted = count_active(lambda params, ids: run(params, ids, loop), PARAMS, TOKENS, jnp.zeros(TOKENS, int))
    expected = {"table": 4, "matrix": 16, "experts": CHOICES * 4 * 5, "scale": 4, "stacked": 3 * 16 if loop else 0}
    assert counted == expected


def test_of_branches_that_with_known_lengths_counts() -> None:
    def chosen(params: Tree, ids: jax.Array) -> jax.Array:
        def unknown() -> jax.Array:
            return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ params["experts"][0, :, :4], x)

        x = params["table"][ids]
        return jax.lax.cond(x.sum() > 0, unknown, lambda: x @ params["matrix"])

    counted = count_active(chosen, PARAMS, TOKENS, jnp.zeros(TOKENS, int))
    assert (counted["experts"], counted["matrix"], counted["table"]) == (0, 16, 4)
