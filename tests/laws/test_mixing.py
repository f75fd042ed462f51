"""Laws of layers that mix the tokens of an example by a fixed matrix or by neighbourhood."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Context, Decoding
from models.activation import relu
from models.head.decoder import LastTokenDecoder
from models.mixers.noncausal import Fourier, Pooling, TokenMLP
from tests.laws.components import WIDTH, normal, parameters

SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 2, 3, 3]])
PLACES = np.array([[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 0, 0, 1]])
MIXER = TokenMLP(12, 0.5, relu)
DECODER = LastTokenDecoder(relu)


def tokens_mixed(x: np.ndarray) -> np.ndarray:
    params = {name: np.asarray(leaf, np.float64) for name, leaf in parameters(MIXER).items()}
    n = len(x)
    hidden = np.maximum(params["up"][:n].T @ x + params["hidden_bias"][:, None], 0)
    return params["down"][:n] @ hidden + params["bias"][:n, None]


def transformed(x: np.ndarray) -> np.ndarray:
    return np.fft.fft2(x).real / np.sqrt(x.size)


def pooled(x: np.ndarray) -> np.ndarray:
    return np.stack([x[max(index - 1, 0) : index + 2].sum(0) / 3 - x[index] for index in range(len(x))])


def decoded(x: np.ndarray) -> np.ndarray:
    """Two layers and norms over the last vector and the positions."""
    params = parameters(DECODER)

    def normalize(y: np.ndarray, name: str) -> np.ndarray:
        return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(params[name]["scale"], np.float64)

    n, width = x.shape
    angles = np.arange(n)[:, None] * 10_000.0 ** (-2 * np.arange(width // 2) / width)
    y = x[-1] + np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    for index in range(2):
        kernel, bias = (np.asarray(params[f"dense_{index}"][name], np.float64) for name in ("kernel", "bias"))
        y = np.maximum(normalize(y, f"norm_{index}") @ kernel + bias, 0)
    return normalize(y, "norm_out")


def law_each_example_is_mixed_alone(layer: Any, formula: Any, params: Any) -> None:
    x = normal(1, 2, 8, WIDTH)
    ctx = Context(
        positions=jnp.asarray(PLACES), segments=jnp.asarray(SEGMENTS), starts=jnp.array([[0, 3, 0], [0, 5, 6]])
    )
    packed = jax.jit(layer.apply)({"params": params}, x, ctx)
    for row in range(2):
        for segment in np.unique(SEGMENTS[row]):
            own = SEGMENTS[row] == segment
            np.testing.assert_allclose(
                np.asarray(packed)[row, own], formula(np.asarray(x, np.float64)[row, own]), atol=1e-5
            )
    whole = layer.apply({"params": params}, x, Context())
    np.testing.assert_allclose(np.asarray(whole)[0], formula(np.asarray(x, np.float64)[0]), atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "formula"),
    [(MIXER, tokens_mixed), (Fourier(), transformed), (Pooling(), pooled), (DECODER, decoded)],
)
def test_each_packed_example_is_mixed_by_the_closed_form_of_its_own_length(layer: Any, formula: Any) -> None:
    law_each_example_is_mixed_alone(layer, formula, parameters(layer))


def test_a_token_mlp_refuses_more_tokens_than_it_has_places_for() -> None:
    with pytest.raises(ValueError, match="9 tokens and TokenMLP mixes 8"):
        TokenMLP(8).init(jax.random.key(0), jnp.zeros((1, 9, WIDTH)), Context())


@pytest.mark.parametrize("layer", [MIXER, Fourier(), Pooling()])
def test_what_sees_later_tokens_refuses_to_decode(layer: Any) -> None:
    with pytest.raises(ValueError, match="sees later tokens"):
        layer.init(jax.random.key(0), normal(1, 1, 8, WIDTH), Context(decoding=Decoding(0, 8)))


class WholeRow(nn.Module):
    """Broken: transforms the row, whatever examples it holds."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return Fourier()(x, Context())


@pytest.mark.parametrize(("layer", "formula"), [(WholeRow(), transformed), (Pooling(3), pooled), (Fourier(), pooled)])
def test_broken_components_fail(layer: Any, formula: Any) -> None:
    with pytest.raises(AssertionError):
        law_each_example_is_mixed_alone(layer, formula, {})
