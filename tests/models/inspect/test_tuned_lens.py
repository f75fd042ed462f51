"""The tuned lens: its equation, the identity at the start, and translators that bring states nearer to the outputs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import BoxHead, HyperConnections, RMSNorm, replace
from models.inspect.intermediates import capture
from models.inspect.lens import logit_lens
from models.inspect.tuned_lens import make_translators, measure_divergence, tune_lens, tuned_lens
from models.laws.inputs import random_like
from tests.models.inspect.small import BATCH, MODEL, PARAMS, draw

PADDED = BATCH | {"segments": jnp.ones((3, 6), int).at[0, 4:].set(0)}


@pytest.mark.slow
def test_the_lens_begins_as_the_logit_lens_and_is_its_equation() -> None:
    @jax.jit
    def program(params: Any) -> Any:
        start = make_translators(MODEL, params, BATCH)
        tuned = random_like(jax.eval_shape(lambda: start))
        lenses = [tuned_lens(MODEL, params, each, BATCH) for each in (start, tuned)]
        return logit_lens(MODEL, params, BATCH), lenses, tuned, capture(MODEL, params, BATCH, "stack.0")

    plain, (start, changed), tuned, states = program(PARAMS)
    assert set(tuned) == {"stack.0:input", "stack.0"}
    for path, logits in plain.items():
        np.testing.assert_array_equal(start[path], logits)
    np.testing.assert_array_equal(changed["stack.1"], plain["stack.1"])
    x = states["stack.0"] @ (np.eye(8) + tuned["stack.0"]["kernel"]) + tuned["stack.0"]["bias"]
    x = PARAMS["stack"]["norm"]["scale"] * x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(changed["stack.0"], x @ PARAMS["embed"]["token"].T, atol=1e-3)


@pytest.mark.slow
def test_the_divergence_is_of_tokens_that_are_there() -> None:
    tuned = random_like(jax.eval_shape(lambda: make_translators(MODEL, PARAMS, PADDED)))
    divergence = measure_divergence(MODEL, PARAMS, tuned, PADDED)
    logits = tuned_lens(MODEL, PARAMS, tuned, PADDED)
    p = np.asarray(jax.nn.softmax(logits["stack.1"]), np.float64)
    for path, value in divergence.items():
        q = np.asarray(jax.nn.softmax(logits[path]), np.float64)
        tokens = (p * (np.log(p) - np.log(q))).sum(-1)
        np.testing.assert_allclose(value, tokens[np.asarray(PADDED["segments"]) > 0].mean(), rtol=1e-4)


@pytest.mark.slow
def test_tuning_lowers_the_divergence_on_other_tokens() -> None:
    tokens = np.random.default_rng(0).integers(0, 30, (60, 8, 6))
    batches = [{"tokens": jnp.asarray(each)} for each in tokens]
    tuned, history = tune_lens(MODEL, PARAMS, batches)
    assert {path: len(values) for path, values in history.items()} == dict.fromkeys(tuned, 60)
    before, after = (measure_divergence(MODEL, PARAMS, each, BATCH)
                     for each in (make_translators(MODEL, PARAMS, BATCH), tuned))  # fmt: skip
    for path in tuned:
        assert after[path] < 0.7 * before[path]


@pytest.mark.slow
def test_every_state_but_the_last_has_a_translator_in_the_order_of_depth() -> None:
    deep = replace(MODEL, "stack.repeats", 11)
    expected = ["stack.0:input", *(f"stack.{block}" for block in range(10))]
    assert list(make_translators(deep, draw(deep), BATCH)) == expected
    assert list(tune_lens(deep, draw(deep), [BATCH])[0]) == expected


@pytest.mark.slow
def test_states_of_several_streams_are_translated_and_other_outputs_refused() -> None:
    streams = replace(MODEL, "stack.block.residual", HyperConnections(2, norm=RMSNorm()))
    params = draw(streams)
    start = make_translators(streams, params, BATCH)
    np.testing.assert_array_equal(
        tuned_lens(streams, params, start, BATCH)["stack.0"], logit_lens(streams, params, BATCH)["stack.0"]
    )
    several = replace(MODEL, "head", BoxHead(2))
    params = draw(several)
    with pytest.raises(ValueError, match="the tuned lens is fitted to logits"):
        measure_divergence(several, params, make_translators(several, params, BATCH), BATCH)
