"""Laws of layers along some axes of a grid."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Along, Attention, AxialRoPE, Context, Decoding, RoPE, ValueResidual
from models.mixers.noncausal import TokenMLP
from tests.laws.components import WIDTH, normal, parameters

GRID = (2, 3, 2)


def law_each_row_of_cells_is_mixed_alone(layer: Any, grid: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """Token by token: the cells that agree on the other axes, in their order, are given to the mixer as a batch of one
    example.
    """
    x = np.asarray(normal(1, 2, 12, WIDTH))
    cells = list(itertools.product(*map(range, grid)))
    params: Any = {"mixer": parameters(layer.mixer)}
    alone, expected = (
        jax.jit(lambda row: layer.mixer.apply({"params": params["mixer"]}, row, Context())),
        np.full_like(x, np.nan),
    )
    for first in cells:
        row = [
            place
            for place, cell in enumerate(cells)
            if all(cell[a] == first[a] for a in range(len(grid)) if a not in axes)
        ]
        for example in range(2):
            y = alone(x[example, row][None])
            expected[example, row] = (y[0] if isinstance(y, tuple) else y)[0]
    found = layer.apply(
        {"params": params}, x, Context(positions=jnp.arange(12)[None] + 5, shared={"values": jnp.ones(3)})
    )
    np.testing.assert_allclose(np.asarray(found), expected, atol=2e-5)


CASES = [
    Along(GRID, (0,), Attention(4, position=RoPE())),
    Along(GRID, (1,), Attention(4, causal=True, window=2)),
    Along(GRID, (2,), ValueResidual(4)),
    Along(GRID, (1, 2), Attention(4, position=AxialRoPE((3, 2)))),
    Along(GRID, (0, 2), TokenMLP(8)),
    Along(GRID, (0, 1, 2), Attention(4)),
]


@pytest.mark.parametrize("layer", CASES, ids=lambda layer: str(layer.axes))
def test_each_row_of_cells_is_mixed_as_an_example_of_its_own(layer: Any) -> None:
    law_each_row_of_cells_is_mixed_alone(layer, GRID, layer.axes)


def test_the_first_axis_may_be_as_long_as_the_tokens_make_it() -> None:
    law_each_row_of_cells_is_mixed_alone(Along((-1, 2), (0,), Attention(4)), (6, 2), (0,))


def test_padding_stays_padding() -> None:
    mixer, x = Attention(4), normal(1, 1, 6, WIDTH)
    layer = Along((3, 2), (0,), mixer)
    params, ctx = {"mixer": parameters(mixer)}, Context(segments=jnp.array([[1, 1, 1, 1, 0, 0]]))
    apply = jax.jit(lambda x: layer.apply({"params": params}, x, ctx))
    np.testing.assert_array_equal(np.asarray(apply(x))[0, :4], np.asarray(apply(x.at[0, 4:].add(1.0)))[0, :4])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Along((0, 2)), "above 0, or -1 for the first"),
        (lambda: Along((2, -1)), "above 0, or -1 for the first"),
        (lambda: Along(()), "above 0"),
        (lambda: Along((2, 2), (2,)), r"axes is \(2,\) and the grid has 2"),
        (lambda: Along((2, 2), (1, 0)), "in their order"),
        (lambda: Along((2, 2), ()), "give some"),
        (
            lambda: Along((2, 2)).init(jax.random.key(0), jnp.zeros((1, 6, WIDTH)), Context()),
            "6 tokens, which do not fill",
        ),
        (
            lambda: Along((-1, 4)).init(jax.random.key(0), jnp.zeros((1, 6, WIDTH)), Context()),
            "6 tokens, which do not fill",
        ),
        (
            lambda: Along((3, 2)).init(jax.random.key(0), jnp.zeros((1, 6, WIDTH)), Context(decoding=Decoding(0, 6))),
            "sees later tokens",
        ),
    ],
)
def test_a_grid_that_means_nothing_is_refused(wrong: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong()


class Folded(nn.Module):
    """Broken: takes neighbours in the row of tokens for those along the axis."""

    mixer: Any = Attention(4)

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return self.mixer(x.reshape(-1, 2, x.shape[-1]), Context()).reshape(x.shape)


def test_broken_components_fail() -> None:
    with pytest.raises(AssertionError):
        law_each_row_of_cells_is_mixed_alone(Folded(), GRID, (0,))
    law_each_row_of_cells_is_mixed_alone(Folded(), GRID, (2,))  # which the last axis' neighbours are
