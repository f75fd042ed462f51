"""The logit lens, and logits divided among branches: their equations, and complete sums."""

from typing import Any

import jax
import numpy as np
import pytest

from models import HyperConnections, LayerNorm, LogitsHead, RMSNorm, ScaleNorm, replace
from models.inspect.intermediates import capture
from models.inspect.lens import attribute_logits, logit_lens
from tests.models.inspect.small import BATCH, MODEL, PARAMS, draw, score

BIASED = replace(replace(MODEL, "stack.norm", LayerNorm()), "head", LogitsHead(tied=False, bias=True, chunk=4))


def rms(x: Any) -> np.ndarray:
    return np.sqrt(np.square(np.asarray(x)).mean(-1, keepdims=True) + 1e-6)


@pytest.mark.slow
def test_the_lens_is_the_norm_and_the_head_of_each_state() -> None:
    lens, values = jax.jit(
        lambda params: (logit_lens(MODEL, params, BATCH), capture(MODEL, params, BATCH, "", "stack.*", "stack.0:input"))
    )(PARAMS)
    assert set(lens) == {"stack.0:input", "stack.0", "stack.1"}
    for path, logits in lens.items():
        x = np.asarray(PARAMS["stack"]["norm"]["scale"]) * values[path] / rms(values[path])
        np.testing.assert_allclose(logits, x @ np.asarray(PARAMS["embed"]["token"]).T, atol=1e-4)
    np.testing.assert_allclose(lens["stack.1"], values[""], atol=1e-5)


@pytest.mark.slow
def test_the_lens_reads_a_state_of_several_streams() -> None:
    model = replace(MODEL, "stack.block.residual", HyperConnections(2, norm=RMSNorm()))
    params = draw(model)
    lens = jax.jit(lambda params: logit_lens(model, params, BATCH))(params)
    np.testing.assert_allclose(lens["stack.1"], model.apply({"params": params}, BATCH), atol=1e-5)
    assert np.abs(lens["stack.0"] - lens["stack.1"]).max() > 1e-2


def test_logits_are_sums_over_branches() -> None:
    parts, values = jax.jit(
        lambda params: (
            attribute_logits(MODEL, params, BATCH, score),
            capture(MODEL, params, BATCH, "", "stack.*", "**.mixer"),
        )
    )(PARAMS)
    assert set(parts) == {"stack.0:input", "bias", "rest"} | {
        f"stack.{block}.{branch}" for block in (0, 1) for branch in ("mixer", "feedforward")
    }
    np.testing.assert_allclose(parts["rest"], 0, atol=1e-4)
    np.testing.assert_allclose(sum(parts.values()), score(values[""]), atol=1e-4)
    c = np.asarray(PARAMS["stack"]["norm"]["scale"]) * values["stack.0.mixer"] / rms(values["stack.1"])
    np.testing.assert_allclose(parts["stack.0.mixer"], score(c @ np.asarray(PARAMS["embed"]["token"]).T), atol=1e-4)


@pytest.mark.slow
def test_a_bias_has_its_part_and_a_curve_leaves_a_rest() -> None:
    params = draw(BIASED)
    parts = jax.jit(lambda params: attribute_logits(BIASED, params, BATCH, score))(params)
    np.testing.assert_allclose(parts["rest"], 0, atol=1e-4)
    bias = np.asarray(params["stack"]["norm"]["bias"]) @ np.asarray(params["head"]["table"]).T + params["head"]["bias"]
    np.testing.assert_allclose(parts["bias"], np.full(3, bias[3] - bias[5]), atol=1e-5)
    capped = replace(MODEL, "head", LogitsHead(cap=1.0))
    assert np.abs(attribute_logits(capped, PARAMS, BATCH, score)["rest"]).max() > 1e-2


@pytest.mark.slow
def test_what_has_no_such_sum_is_refused() -> None:
    scaled = replace(MODEL, "stack.norm", ScaleNorm())
    with pytest.raises(ValueError, match="stack.norm is ScaleNorm, which"):
        attribute_logits(scaled, draw(scaled), BATCH, score)
    streams = replace(MODEL, "stack.block.residual", HyperConnections(2))
    with pytest.raises(ValueError, match=r"'stack.0.feedforward_residual' has shape \(3, 6, 2, 8\); .* one stream, "):
        attribute_logits(streams, draw(streams), BATCH, score)
    with pytest.raises(LookupError, match="'decoder' matches no|'decoder.0:input' matches no"):
        logit_lens(MODEL, PARAMS, BATCH, "decoder")
