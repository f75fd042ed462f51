"""Laws of what acts on single vectors: norms, positions, activations, dropout."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    Context,
    Dropout,
    LayerNorm,
    LearnedPosition,
    RMSNorm,
    RoPE,
    SinusoidalPosition,
    gelu,
    gelu_tanh,
    relu,
    silu,
    squared_relu,
)
from models.contracts import Norm, Position
from models.laws.vector import (
    draw_vectors,
    law_length_is_kept,
    law_norm_acts_on_each_vector_alone,
    law_norm_forgets_the_scale,
    law_norm_starts_with_mean_square_one,
    law_one_row_of_positions_serves_all,
    law_position_follows_the_token,
    law_products_depend_on_differences,
)
from models.norm import DynamicErf, DynamicTanh, HeadNorm, L2Norm, ScaleNorm
from tests.laws.components import WIDTH, forms, normal, parameters


@pytest.mark.parametrize("norm", forms(Norm))
def test_a_norm_acts_on_each_vector_alone_and_forgets_its_scale(norm: Any) -> None:
    law_norm_acts_on_each_vector_alone(norm)
    if not getattr(norm, "keeps_scale", False):
        law_norm_forgets_the_scale(norm)
    if getattr(norm, "starts_at", 1.0) is not None:
        law_norm_starts_with_mean_square_one(norm)


@pytest.mark.parametrize("norm", [LayerNorm(), LayerNorm(1e-2, bias=False)])
def test_layer_norm_is_the_closed_form_and_starts_with_mean_zero(norm: LayerNorm) -> None:
    x, params = draw_vectors(), parameters(norm)
    wide = np.asarray(x, np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    expected = params["scale"] * centred / np.sqrt(wide.var(-1, keepdims=True) + norm.epsilon) + params.get("bias", 0.0)
    np.testing.assert_allclose(np.asarray(norm.apply({"params": params}, x)), np.asarray(expected), atol=1e-5)
    start = np.asarray(norm.apply(norm.init(jax.random.key(0), x), x))
    np.testing.assert_allclose(start.mean(-1), 0.0, atol=1e-6)


def test_rms_norm_is_the_closed_form() -> None:
    norm, x = RMSNorm(1e-2), draw_vectors()
    wide = np.asarray(x, np.float64)
    expected = np.asarray(parameters(norm)["scale"]) * wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-2)
    np.testing.assert_allclose(np.asarray(norm.apply({"params": parameters(norm)}, x)), expected, atol=1e-5)


def law_norm_is_its_formula(norm: Any, formula: Any) -> None:
    params = {name: np.asarray(leaf, np.float64) for name, leaf in parameters(norm).items()}
    found = norm.apply({"params": parameters(norm)}, draw_vectors())
    np.testing.assert_allclose(np.asarray(found), formula(np.asarray(draw_vectors(), np.float64), params), atol=1e-5)


def length(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(x).sum(-1, keepdims=True))


ERF = np.vectorize(math.erf)
NORMS = [
    (HeadNorm(), lambda x, params: params["scale"] * x * math.sqrt(WIDTH) / length(x)),
    (L2Norm(), lambda x, params: x / length(x)),
    (ScaleNorm(), lambda x, params: params["scale"] * x / length(x)),
    (DynamicTanh(), lambda x, params: params["scale"] * np.tanh(params["slope"] * x) + params["bias"]),
    (
        DynamicErf(),
        lambda x, params: params["scale"] * ERF(params["slope"] * x + params["shift"]) + params["bias"],
    ),
]


@pytest.mark.parametrize(("norm", "formula"), NORMS)
def test_a_norm_is_its_closed_form(norm: Any, formula: Any) -> None:
    law_norm_is_its_formula(norm, formula)


@pytest.mark.parametrize(
    ("norm", "name", "start"),
    [
        (ScaleNorm(), "scale", 4.0),
        (DynamicTanh(), "slope", 0.5),
        (DynamicTanh(2.0), "slope", 2.0),
        (DynamicErf(1.0), "slope", 1.0),
    ],
)
def test_the_one_number_of_a_norm_starts_as_it_says(norm: Any, name: str, start: float) -> None:
    np.testing.assert_allclose(norm.init(jax.random.key(0), draw_vectors())["params"][name], start, rtol=1e-6)


@pytest.mark.parametrize("position", forms(Position))
def test_a_position_belongs_to_its_token_wherever_that_stands(position: Any) -> None:
    law_position_follows_the_token(position)
    law_one_row_of_positions_serves_all(position)


def test_rotary_products_depend_on_differences_only_and_lengths_are_kept() -> None:
    law_products_depend_on_differences(RoPE())
    law_length_is_kept(RoPE())


def test_rotary_positions_turn_pairs_of_halves_by_the_closed_form() -> None:
    x, places = normal(1, 6, WIDTH), np.array([0, 1, 2, 9, 30, 100])
    angles = places[:, None] * 500.0 ** (-np.arange(0, WIDTH, 2) / WIDTH)
    turned = (np.asarray(x)[:, : WIDTH // 2] + 1j * np.asarray(x)[:, WIDTH // 2 :]) * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], -1)
    np.testing.assert_allclose(np.asarray(RoPE(500.0).apply({}, x, jnp.asarray(places))), expected, atol=1e-4)


def test_sinusoidal_positions_add_the_closed_form() -> None:
    places = np.array([0, 1, 2, 9, 30])
    angles = places[:, None] * 10_000.0 ** (-np.arange(0, WIDTH, 2) / WIDTH)
    added = SinusoidalPosition().apply({}, jnp.ones((5, WIDTH)), jnp.asarray(places))
    np.testing.assert_allclose(np.asarray(added), 1 + np.concatenate([np.sin(angles), np.cos(angles)], -1), atol=1e-5)


def test_learned_positions_add_their_row_of_the_table_and_refuse_what_is_longer() -> None:
    position, x, places = LearnedPosition(300), normal(1, 4, WIDTH), np.array([5, 0, 299, 5])
    table = np.asarray(normal(2, 300, WIDTH))
    np.testing.assert_allclose(
        np.asarray(position.apply({"params": {"table": table}}, x, jnp.asarray(places))), np.asarray(x) + table[places]
    )
    with pytest.raises(ValueError, match="301 tokens and LearnedPosition holds 300"):
        position.init(jax.random.key(0), jnp.zeros((301, WIDTH)), jnp.arange(301))


@pytest.mark.parametrize("position", [RoPE(), SinusoidalPosition()])
def test_positions_in_pairs_refuse_an_odd_width(position: Any) -> None:
    with pytest.raises(ValueError, match="even width; this one is 3"):
        position.apply({}, jnp.zeros((2, 3)), jnp.arange(2))


ACTIVATIONS = [
    (relu, lambda x: max(x, 0.0)),
    (gelu, lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
    (gelu_tanh, lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    (silu, lambda x: x / (1 + math.exp(-x))),
    (squared_relu, lambda x: max(x, 0.0) ** 2),
]


def law_activation_is_its_formula(activation: Any, formula: Any) -> None:
    points = np.linspace(-6, 6, 49)
    values = np.asarray(activation(jnp.asarray(points, jnp.float32)))
    np.testing.assert_allclose(values, [formula(point) for point in points], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("activation", "formula"), ACTIVATIONS)
def test_an_activation_is_its_formula_in_float64(activation: Any, formula: Any) -> None:
    law_activation_is_its_formula(activation, formula)


def law_dropout_keeps_the_mean_at_the_asked_rate(dropout: Any) -> None:
    ones = jnp.ones((1000, 402))  # 402 is no multiple of the four elements that share a draw
    dropped = np.asarray(dropout.apply({}, ones, Context(train=True), rngs={"dropout": jax.random.key(0)}))
    count, rate = ones.size, float((dropped == 0).mean())
    spread = 5 * math.sqrt(max(dropout.rate * (1 - dropout.rate), 1e-9) / count)
    assert abs(rate - dropout.rate) < spread + 1 / 512
    assert abs(dropped.mean() - 1) < spread / (1 - dropout.rate) + 1e-6
    assert len(np.unique(dropped)) <= 2
    columns = (dropped == 0).mean(0)
    assert np.abs(columns - dropout.rate).max() < 6 * math.sqrt(0.25 / 1000)
    shared = np.corrcoef((dropped == 0)[:, 0], (dropped == 0)[:, 101])[0, 1] if rate else 0.0
    assert abs(shared) < 0.15


def law_dropout_is_off_in_evaluation(dropout: Any) -> None:
    x = normal(1, 4, WIDTH)
    np.testing.assert_array_equal(dropout.apply({}, x, Context(), rngs={"dropout": jax.random.key(0)}), x)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_drops_at_its_rate_and_is_off_in_evaluation(rate: float) -> None:
    law_dropout_keeps_the_mean_at_the_asked_rate(Dropout(rate))
    law_dropout_is_off_in_evaluation(Dropout(rate))


def test_dropout_near_one_still_keeps_the_mean() -> None:
    ones = jnp.ones((1000, 400))
    dropped = np.asarray(Dropout(0.999).apply({}, ones, Context(train=True), rngs={"dropout": jax.random.key(0)}))
    assert abs(dropped.mean() - 1) < 5 * math.sqrt(256 / ones.size)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan])
def test_dropout_refuses_a_rate_outside_zero_to_one(rate: float) -> None:
    with pytest.raises(ValueError, match="Dropout rate is"):
        Dropout(rate)


class Identity(nn.Module):
    """Broken as a norm and as a position: it leaves everything as it is."""

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array | None = None) -> jax.Array:
        return x


class BatchNorm(nn.Module):
    """Broken as a norm: statistics over all vectors."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x / jnp.sqrt(jnp.square(x).mean())


class HeadsTogether(nn.Module):
    """Broken as a norm: statistics over the heads of a token."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x / jnp.sqrt(jnp.square(x).mean((-2, -1), keepdims=True))


class Halved(nn.Module):
    """Broken as a norm: half the size."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True)) / 2


class Counted(nn.Module):
    """Broken as a position: counts places itself."""

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        return x + jnp.arange(x.shape[-2])[:, None] + jnp.zeros((positions.shape[0], 1, 1))


class Swaying(nn.Module):
    """Broken as a position: one row of positions serves the first example alone."""

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        return x.at[: positions.shape[0]].add(positions[..., None])


class Lossy(nn.Module):
    """Broken as dropout: does not divide by what is kept, and drops in evaluation too."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return jnp.where(jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, x.shape), x, 0)


class OneDraw(nn.Module):
    """Broken as dropout: the four elements of a draw share its fate."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (*x.shape[:-1], -(-x.shape[-1] // 4)))
        return jnp.where(jnp.concatenate([kept] * 4, -1)[..., : x.shape[-1]], x / (1 - self.rate), 0)


BROKEN = [
    (law_norm_forgets_the_scale, (Identity(),)),
    (law_norm_forgets_the_scale, (DynamicTanh(),)),
    (law_norm_acts_on_each_vector_alone, (BatchNorm(),)),
    (law_norm_acts_on_each_vector_alone, (HeadsTogether(),)),
    (law_norm_starts_with_mean_square_one, (L2Norm(),)),
    (law_norm_is_its_formula, (HeadNorm(), NORMS[1][1])),
    (law_norm_starts_with_mean_square_one, (Halved(),)),
    (law_position_follows_the_token, (Counted(),)),
    (law_position_follows_the_token, (Identity(),)),
    (law_one_row_of_positions_serves_all, (Swaying(),)),
    (law_products_depend_on_differences, (SinusoidalPosition(),)),
    (law_products_depend_on_differences, (Identity(),)),
    (law_length_is_kept, (SinusoidalPosition(),)),
    (law_activation_is_its_formula, (gelu, dict(ACTIVATIONS)[gelu_tanh])),
    (law_dropout_keeps_the_mean_at_the_asked_rate, (Lossy(),)),
    (law_dropout_keeps_the_mean_at_the_asked_rate, (OneDraw(),)),
    (law_dropout_is_off_in_evaluation, (Lossy(),)),
]


@pytest.mark.parametrize(("law", "given"), BROKEN)
def test_broken_components_fail(law: Any, given: Any) -> None:
    with pytest.raises(AssertionError):
        law(*given)
