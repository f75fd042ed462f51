"""Laws of convolutions over time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Context
from models.mixers.convolution import LongConvolution, ShortConvolution, causal_convolution, sum_lags
from tests.laws.components import WIDTH, normal, parameters

SEGMENTS = np.array([[0, 0, *[1] * 9, 2, *[3] * 40, *[4] * 18], [*[1] * 50, *[2] * 20]])


def convolved(x: np.ndarray, kernel: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """The definition, token by token, in float64."""
    y = np.zeros(x.shape)
    for row, token in np.ndindex(*x.shape[:2]):
        for lag in range(min(token + 1, len(kernel))):
            y[row, token] += (segments[row, token] == segments[row, token - lag]) * kernel[lag] * x[row, token - lag]
    return y


def law_long_convolution_is_the_sum(convolve: Any, packed: bool) -> None:
    x, kernel = normal(1, *SEGMENTS.shape, 3), normal(2, SEGMENTS.shape[1], 3)
    segments = SEGMENTS if packed else np.ones_like(SEGMENTS)
    y = jax.jit(convolve)(x, kernel, jnp.asarray(segments) if packed else None)
    np.testing.assert_allclose(
        np.asarray(y), convolved(np.asarray(x, np.float64), np.asarray(kernel, np.float64), segments), atol=2e-5
    )


@pytest.mark.parametrize("packed", [False, True])
def test_a_long_convolution_is_the_sum_over_the_tokens_own_segment(packed: bool) -> None:
    law_long_convolution_is_the_sum(causal_convolution, packed)


def law_short_convolution_is_the_sum(layer: Any) -> None:
    x, params = normal(1, *SEGMENTS.shape, WIDTH), parameters(ShortConvolution(3, None, bias=True))
    y = layer.apply({"params": params}, x, Context(segments=jnp.asarray(SEGMENTS)))
    expected = convolved(np.asarray(x, np.float64), np.asarray(params["kernel"], np.float64), SEGMENTS) + np.asarray(
        params["bias"]
    )
    np.testing.assert_allclose(np.asarray(y), expected, atol=1e-5)


def test_a_short_convolution_is_the_sum_over_the_tokens_own_segment() -> None:
    law_short_convolution_is_the_sum(ShortConvolution(3, None, bias=True))


@pytest.mark.parametrize(("length", "packed"), [(70, True), (70, False), (3, False), (130, False), (64, True)])
def test_the_gradient_of_lags_in_blocks_is_that_of_the_shifted_sum(length: int, packed: bool) -> None:
    x, kernel, dy = normal(1, 2, length, 5), normal(2, 4, 5), normal(3, 2, length, 5)
    segments = jnp.asarray(SEGMENTS[:, :length]) if packed else None

    def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
        same = jnp.ones((2, length), jnp.int32) if segments is None else segments
        ids = jnp.pad(same, ((0, 0), (3, 0)), constant_values=-1)
        past = jnp.pad(x, ((0, 0), (3, 0), (0, 0)))
        terms = [
            jnp.where((ids[:, 3 - lag :][:, :length] == same)[..., None], past[:, 3 - lag :][:, :length], 0)
            for lag in range(4)
        ]
        return sum((kernel[lag] * term for lag, term in enumerate(terms)), jnp.zeros_like(x))

    def blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return sum_lags(x, kernel, segments)

    for ours, theirs in zip(
        (blocks(x, kernel), *jax.vjp(blocks, x, kernel)[1](dy)),
        (shifted(x, kernel), *jax.vjp(shifted, x, kernel)[1](dy)),
        strict=True,
    ):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=3e-5)

    def turn(convolve: Any) -> jax.Array:  # a product with the Hessian, which takes forward mode over the gradient
        slope = jax.grad(lambda x: jnp.sum(jnp.sin(convolve(x, kernel)) * dy))
        return jax.jvp(slope, (x,), (dy,))[1]

    np.testing.assert_allclose(np.asarray(turn(blocks)), np.asarray(turn(shifted)), atol=1e-4)


def law_keeps_variance(layer: Any) -> None:
    x = normal(1, 2, 300, 32)
    y = layer.apply(layer.init(jax.random.key(0), x, Context()), x, Context())
    assert 0.5 < float(jnp.square(y).mean()) < 2


def test_a_short_convolution_starts_with_the_variance_of_its_input() -> None:
    law_keeps_variance(ShortConvolution(4, None))


def wide(params: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def kernel_of(params: Any, layer: LongConvolution, t: int, d: int) -> np.ndarray:
    """The filter of the paper, position by position, in float64."""
    kernel, rates = np.zeros((t, d)), np.log(100) / np.linspace(0.3, 1.5, d)
    for index in range(t):
        place = index / layer.length
        turns = 2 * np.pi * place * np.arange(1, layer.bands + 1)
        hidden = np.concatenate([[place], np.sin(turns), np.cos(turns)])
        for name in ("filter_0", "filter_1"):
            hidden = np.sin(layer.frequency * (hidden @ params[name]["kernel"] + params[name]["bias"]))
        kernel[index] = (
            (hidden @ params["filter_out"]["kernel"]) * np.exp(-rates * place) * np.sqrt(2 * rates / layer.length)
        )
    return kernel


def law_long_convolution_is_the_paper(layer: Any) -> None:
    x, t, like = normal(1, *SEGMENTS.shape, WIDTH), SEGMENTS.shape[1], LongConvolution(length=40, hidden=8, bands=2)
    params = wide(parameters(like))
    gates = convolved(np.asarray(x, np.float64) @ params["in"]["kernel"], params["convolution"]["kernel"], SEGMENTS)
    enter, leave, z = np.split(gates, 3, -1)
    mixed = convolved(enter * z, kernel_of(params, like, t, WIDTH), SEGMENTS) + params["skip"] * enter * z
    y = jax.jit(layer.apply)({"params": parameters(like)}, x, Context(segments=jnp.asarray(SEGMENTS)))
    np.testing.assert_allclose(np.asarray(y), (leave * mixed) @ params["out"]["kernel"], atol=1e-4)


def test_a_long_convolution_is_the_papers_token_by_token() -> None:
    law_long_convolution_is_the_paper(LongConvolution(length=40, hidden=8, bands=2))


@pytest.mark.slow
def test_a_filter_of_a_long_convolution_starts_with_the_energy_of_one_token() -> None:
    layer = LongConvolution(length=256)
    params = wide(layer.init(jax.random.key(0), normal(1, 1, 8, 32), Context())["params"])
    energy = np.square(kernel_of(params, layer, 512, 32)).sum(0)
    assert 0.1 < energy.min() <= energy.max() < 3


def unpacked(x: jax.Array, kernel: jax.Array, segments: jax.Array | None) -> jax.Array:
    """Broken: mixes segments."""
    return causal_convolution(x, kernel, None)


def circular(x: jax.Array, kernel: jax.Array, segments: jax.Array | None) -> jax.Array:
    """Broken: the end of the row comes back to its start."""
    return jnp.fft.irfft(jnp.fft.rfft(x, axis=1) * jnp.fft.rfft(kernel, axis=0), x.shape[1], axis=1)


BROKEN = [
    (law_long_convolution_is_the_sum, (unpacked, True)),
    (law_long_convolution_is_the_sum, (circular, False)),
    (law_short_convolution_is_the_sum, (ShortConvolution(3, bias=True),)),
    (law_long_convolution_is_the_paper, (LongConvolution(length=41, hidden=8, bands=2),)),
    (law_keeps_variance, (ShortConvolution(4),)),
]


@pytest.mark.parametrize(("law", "given"), BROKEN)
def test_broken_components_fail(law: Any, given: Any) -> None:
    with pytest.raises(AssertionError):
        law(*given)
