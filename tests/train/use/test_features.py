"""Sparse autoencoders: planted directions come back, codes are the equation, and examples are those of the largest."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.inspect.autoencoder import SparseAutoencoder
from models.inspect.intermediates import capture, patch
from models.laws.inputs import random_like
from tests.models.inspect.small import BATCH, MODEL, OTHER, PARAMS
from train.errors import InputError
from train.sums import compute_means
from train.use.features import ReconstructionError, capture_vectors, find_top_examples, train_autoencoder

SMALL = SparseAutoencoder(features=12, active=3)


def plant(rows: int, features: int = 32, width: int = 16, active: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Sums of a few random directions of norm 1 with weights from 1 to 2, beside a constant; and the directions."""
    draw = np.random.default_rng(0)
    directions = draw.standard_normal((features, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weights = np.zeros((rows, features))
    members = draw.permuted(np.tile(np.arange(features), (rows, 1)), axis=1)[:, :active]
    np.put_along_axis(weights, members, draw.uniform(1, 2, (rows, active)), 1)
    return (weights @ directions + 5).astype(np.float32), directions


def random_weights() -> Any:
    return random_like(jax.eval_shape(lambda: SMALL.init(jax.random.key(0), {"values": jnp.zeros((2, 8))}))["params"])


def test_codes_and_values_are_their_equations() -> None:
    def run(weights: Any, x: jax.Array) -> Any:
        outputs = SMALL.apply({"params": weights}, {"values": x})
        return outputs, ReconstructionError(2.0)(outputs, {"values": x})

    weights, x = random_weights(), np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    outputs, measured = jax.jit(run)(weights, x)
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    drive = (x - w["mean"]) @ w["encoder"] + w["bias"]
    codes = np.where(drive >= np.sort(drive, 1)[:, -3:-2], np.maximum(drive, 0), 0)
    unit = w["directions"] / np.linalg.norm(w["directions"], axis=1, keepdims=True)
    np.testing.assert_allclose(outputs.codes, codes, atol=1e-5)
    np.testing.assert_allclose(outputs.values, codes @ unit + w["mean"], atol=1e-5)
    rest = np.where((codes > 0).any(0), -np.inf, drive)
    rest = np.where(rest >= np.sort(rest, 1)[:, -4:-3], np.maximum(rest, 0), 0)
    np.testing.assert_allclose(outputs.error, rest @ unit, atol=1e-5)
    sums = compute_means(measured)
    error = x - outputs.values
    squared, revival = (np.square(each).sum(1).mean() / 2 for each in (error, error - outputs.error))
    np.testing.assert_allclose([sums["loss"], sums["unexplained"]], [squared + revival / 32, squared], rtol=1e-5)
    first = jax.tree.map(lambda leaf: np.asarray(leaf)[0], outputs)
    assert list(ReconstructionError().answer(first, ())["features"]) == [
        str(index) for index in np.argsort(-codes[0]) if codes[0, index] > 0
    ]


@pytest.mark.slow
def test_planted_directions_come_back() -> None:
    vectors, directions = plant(20_000)
    weights, history = train_autoencoder(SparseAutoencoder(48, 3), vectors, 1500, 512)
    learnt = np.asarray(weights["directions"])
    cosines = directions @ (learnt / np.linalg.norm(learnt, axis=1, keepdims=True)).T
    assert (cosines.max(1) > 0.9).mean() > 0.9
    assert history["unexplained"][-20:].mean() < 0.1 < 0.5 < history["unexplained"][0]


@pytest.mark.slow
def test_top_examples_are_the_largest_codes_of_all_batches() -> None:
    weights = random_weights()
    batches = [BATCH | {"segments": jnp.ones((3, 6), int).at[1, 3:].set(0)}, OTHER]
    top = find_top_examples(SMALL, weights, MODEL, PARAMS, batches, "stack.0", 4)
    every = []
    for number, batch in enumerate(batches):
        values = capture(MODEL, PARAMS, batch, "stack.0")["stack.0"]
        codes = np.asarray(SMALL.encode(weights, values))
        every += [
            (codes[row, token], (number, row, token))
            for row in range(3)
            for token in range(6)
            if not (number == 0 and row == 1 and token > 2)
        ]
    for feature in range(SMALL.features):
        first = sorted(every, key=lambda pair: -pair[0][feature])[:4]
        np.testing.assert_allclose(top.codes[feature], [codes[feature] for codes, _ in first], atol=1e-5)
        for (codes, place), token in zip(first, top.tokens[feature].tolist(), strict=True):
            assert codes[feature] == 0 or place == tuple(token)


@pytest.mark.slow
def test_values_of_a_model_are_captured_and_replaced() -> None:
    batches = [BATCH | {"segments": jnp.ones((3, 6), int).at[1, 3:].set(0)}, OTHER]
    vectors = np.concatenate(list(capture_vectors(MODEL, PARAMS, batches, "stack.0")))
    assert vectors.shape == (2 * 18 - 3, 8)
    full = SparseAutoencoder(32, 8)
    weights, history = train_autoencoder(full, vectors, 300, 64)
    assert history["unexplained"][-1] < 0.1
    outputs = patch(MODEL, PARAMS, OTHER, {"stack.0": lambda x: full.reconstruct(weights, x)})
    whole, nothing = MODEL.apply({"params": PARAMS}, OTHER), patch(MODEL, PARAMS, OTHER, {"stack.0": jnp.zeros_like})
    assert np.square(outputs - whole).mean() < 0.2 * np.square(nothing - whole).mean()
    with pytest.raises(InputError, match=r"'stack.\*' names stack.0, stack.1, stack.norm; give a path of one array"):
        list(capture_vectors(MODEL, PARAMS, batches, "stack.*"))
    with pytest.raises(InputError, match="1 vectors have a variance of 0.0; give two"):
        train_autoencoder(full, vectors[:1], 1)
    with pytest.raises(ValueError, match="has 4 features, of which 5 are active"):
        SparseAutoencoder(4, 5)
