"""Laws of rotary positions that are stretched, partial or on a grid: closed forms in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.laws.vector import law_length_is_kept, law_products_depend_on_differences
from models.position import AxialRoPE, InterpolatedRoPE, NTKRoPE, PartialRoPE, RoPE, YaRN
from tests.laws.components import WIDTH, normal

PLACES = np.array([0, 1, 2, 9, 30, 100, 301])
ROTARY = [PartialRoPE(0.5), InterpolatedRoPE(0.5), NTKRoPE(), YaRN()]


def rates(width: int, base: float = 10_000.0) -> np.ndarray:
    return base ** (-np.arange(0, width, 2) / width)


def yarn_rates(yarn: YaRN) -> np.ndarray:
    found = []
    for rate in rates(WIDTH, yarn.base):
        ramp = (yarn.length * rate / (2 * np.pi) - yarn.slow) / (yarn.fast - yarn.slow)
        kept = min(max(ramp, 0.0), 1.0)
        found.append((1 - kept) * rate / yarn.factor + kept * rate)
    # kept, on the ramp, interpolated
    assert len({round(one / plain, 3) for one, plain in zip(found, rates(WIDTH), strict=True)}) > 2
    return np.array(found)


def turned(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    left, right = np.split(x, 2, -1)
    pairs = (left + 1j * right) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag], -1)


def partial(x: np.ndarray) -> np.ndarray:
    return np.concatenate([turned(x[:, :8], PLACES[:, None] * rates(8)), x[:, 8:]], -1)


def axial(x: np.ndarray) -> np.ndarray:
    parts, angles = np.split(x, [6, 12], -1), np.unravel_index(PLACES, (31, 2, 5))
    widths = (6, 6, 4)
    return np.concatenate([turned(*pair) for pair in zip(parts, map(axis, angles, widths), strict=True)], -1)


def axis(places: np.ndarray, width: int) -> np.ndarray:
    return places[:, None] * rates(width, 100.0)


def law_rotation_is_its_formula(position: Any, formula: Any) -> None:
    x = normal(1, len(PLACES), WIDTH)
    y = position.apply({}, x, jnp.asarray(PLACES))
    np.testing.assert_allclose(np.asarray(y), formula(np.asarray(x, np.float64)), atol=1e-4)


FORMULAS = [
    (PartialRoPE(0.5), partial),
    (InterpolatedRoPE(8.0), lambda x: turned(x, PLACES[:, None] / 8 * rates(WIDTH))),
    (NTKRoPE(8.0), lambda x: turned(x, PLACES[:, None] * rates(WIDTH, 10_000 * 8 ** (16 / 14)))),
    (YaRN(8.0), lambda x: turned(x, PLACES[:, None] * yarn_rates(YaRN(8.0))) * (0.1 * np.log(8) + 1)),
    (AxialRoPE((31, 2, 5)), axial),
]


@pytest.mark.parametrize(("position", "formula"), FORMULAS)
def test_a_rotary_position_is_its_closed_form(position: Any, formula: Any) -> None:
    law_rotation_is_its_formula(position, formula)


@pytest.mark.parametrize("position", ROTARY)
def test_rotary_products_depend_on_differences_only(position: Any) -> None:
    law_products_depend_on_differences(position)


@pytest.mark.parametrize("position", [PartialRoPE(), InterpolatedRoPE(), NTKRoPE(), AxialRoPE(), YaRN(1.0)])
def test_rotation_keeps_lengths(position: Any) -> None:
    law_length_is_kept(position)


def test_products_on_a_grid_depend_on_the_differences_along_each_axis() -> None:
    position, vectors = AxialRoPE((9, 7)), normal(1, 2, 1, 8)

    def product(row: int, column: int) -> float:
        places = (row * 7 + column, (row + 2) * 7 + column + 3)
        left, right = (
            np.asarray(position.apply({}, x, jnp.array([place]))) for x, place in zip(vectors, places, strict=True)
        )
        return float((left * right).sum())

    np.testing.assert_allclose([product(5, 1), product(3, 3)], product(0, 0), atol=1e-5)


def test_a_stretched_position_of_factor_one_is_plain() -> None:
    x = normal(1, len(PLACES), WIDTH)
    for position in (
        InterpolatedRoPE(1.0),
        NTKRoPE(1.0),
        YaRN(1.0),
        PartialRoPE(1.0),
        AxialRoPE((400,), base=10_000.0),
    ):
        y = position.apply({}, x, jnp.asarray(PLACES))
        np.testing.assert_allclose(np.asarray(y), np.asarray(RoPE().apply({}, x, jnp.asarray(PLACES))), atol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PartialRoPE(1.5), "part of the width"),
        (lambda: YaRN(slow=4.0, fast=2.0), "slow must be below fast"),
        (lambda: AxialRoPE(()), "number of places"),
        (lambda: AxialRoPE((2, 3)).init(jax.random.key(0), jnp.zeros((6, 2)), jnp.arange(6)), "at least 4"),
    ],
)
def test_a_rotary_position_refuses_what_it_cannot_turn(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("index", range(len(FORMULAS)))
def test_broken_components_fail(index: int) -> None:
    with pytest.raises(AssertionError):
        law_rotation_is_its_formula(RoPE(), FORMULAS[index][1])
