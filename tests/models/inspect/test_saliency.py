"""Attributions by gradients and occlusion: complete, and those of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import LogitsHead, TokenEmbed, Transformer, replace
from models.inspect.intermediates import capture, patch
from models.inspect.saliency import gradient_times_input, integrated_gradients, occlude, smooth_grad
from tests.models.inspect.small import BATCH, MODEL, OTHER, PARAMS, score


def scores_of(x: jax.Array) -> jax.Array:
    return score(patch(MODEL, PARAMS, BATCH, {"embed": x}))


SCORES = jax.jit(scores_of)
X = MODEL.apply({"params": PARAMS}, BATCH, method=lambda model, batch: model.embed.table[batch["tokens"]])


def test_integrated_gradients_are_complete() -> None:
    start = 0.1 * jax.random.normal(jax.random.key(0), X.shape)
    found = jax.jit(lambda params: integrated_gradients(MODEL, params, BATCH, score, baseline=start))(PARAMS)
    np.testing.assert_allclose(found.sum((1, 2)), SCORES(X) - SCORES(start), atol=1e-3)
    assert np.abs(SCORES(X) - SCORES(start)).max() > 0.1


@pytest.mark.slow
def test_gradients_are_slopes() -> None:
    found = gradient_times_input(MODEL, PARAMS, BATCH, score)
    step = jnp.zeros_like(X).at[1, 2, 4].set(1e-2)
    slope = (SCORES(X + step) - SCORES(X - step))[1] / 2e-2
    np.testing.assert_allclose(found[1, 2, 4], slope * X[1, 2, 4], rtol=1e-2)
    plain = smooth_grad(MODEL, PARAMS, BATCH, score, jax.random.key(0), noise=0.0, samples=2)
    np.testing.assert_allclose(plain * X, found, atol=1e-5)
    noisy = [smooth_grad(MODEL, PARAMS, BATCH, score, jax.random.key(seed), samples=400) for seed in (1, 2)]
    apart = np.abs(noisy[0] - noisy[1]).max()
    assert apart < 0.2 * np.abs(noisy[0] - plain).max()


@pytest.mark.slow
def test_attributions_of_a_linear_function_agree() -> None:
    model = Transformer(TokenEmbed(30, 8), replace(MODEL, "stack.norm", None).stack, LogitsHead())
    values = capture(model, {**PARAMS, "stack": {"blocks": PARAMS["stack"]["blocks"]}}, BATCH, "stack")["stack"]
    parts = (MODEL, PARAMS, BATCH, lambda logits: 2 * logits[:, -1, 3], "head:input")
    hidden = capture(MODEL, PARAMS, BATCH, "head:input")["head:input"]
    linear = np.asarray(hidden * 0).copy()
    linear[:, -1] = 2 * hidden[:, -1] * PARAMS["embed"]["token"][3]
    np.testing.assert_allclose(gradient_times_input(*parts), linear, atol=1e-5)
    np.testing.assert_allclose(integrated_gradients(*parts, steps=1), linear, atol=1e-5)
    np.testing.assert_allclose(occlude(*parts), linear.sum(-1), atol=1e-5)
    assert values.shape == hidden.shape


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 3])
def test_occlusion_is_a_mean_over_windows(width: int) -> None:
    found = occlude(MODEL, PARAMS, BATCH, score, baseline=0.5, width=width)
    drops = [SCORES(X) - SCORES(X.at[:, first : first + width].set(0.5)) for first in range(6 - width + 1)]
    for token in range(6):
        over = [drop for first, drop in enumerate(drops) if first <= token < first + width]
        np.testing.assert_allclose(found[:, token], np.mean(over, 0), atol=1e-5)
    with pytest.raises(ValueError, match="width is 7; a window holds from 1 to all 6 tokens"):
        occlude(MODEL, PARAMS, BATCH, score, width=7)


@pytest.mark.slow
def test_rows_are_attributed_by_themselves() -> None:
    other = {"tokens": BATCH["tokens"].at[1:].set(OTHER["tokens"][1:])}
    left, right = (integrated_gradients(MODEL, PARAMS, batch, score, steps=4) for batch in (BATCH, other))
    np.testing.assert_allclose(left[0], right[0], atol=1e-5)
    assert np.abs(left[1:] - right[1:]).max() > 1e-2
