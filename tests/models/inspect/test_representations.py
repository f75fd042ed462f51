"""Similarity of representations and linear probes, against numpy and scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from models.inspect.representations import classify, compute_cka, probe

DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((60, 5)).astype(np.float32)


def test_similarity_is_that_of_gram_matrices() -> None:
    y = np.tanh(X @ DRAW.standard_normal((5, 7))).astype(np.float32)
    centre = np.eye(60) - 1 / 60

    def hsic(a: np.ndarray, b: np.ndarray) -> float:  # equation 3 of the paper
        return np.trace(a @ a.T @ centre @ b @ b.T @ centre) / 59**2

    np.testing.assert_allclose(compute_cka(X, y), hsic(X, y) / np.sqrt(hsic(X, X) * hsic(y, y)), rtol=1e-4)
    turn, _ = np.linalg.qr(DRAW.standard_normal((5, 5)))
    np.testing.assert_allclose(compute_cka(X, 3 * X @ turn.astype(np.float32) + 1), 1, rtol=1e-4)
    assert compute_cka(X, DRAW.standard_normal((60, 5)).astype(np.float32)) < 0.4


def test_the_probe_is_the_ridge_classifier() -> None:
    labels = np.argmax(X[:, :3] + 0.8 * DRAW.standard_normal((60, 3)), 1)
    x = X * np.array([3, 1, 1, 0.3, 0.1], np.float32)
    references = [
        np.asarray(RidgeClassifier(alpha=alpha).fit(x[:40], labels[:40]).predict(x[40:])) for alpha in (0.5, 200.0)
    ]
    assert not np.array_equal(references[0], references[1])
    for penalty, reference in zip((0.5, 200.0), references, strict=True):
        np.testing.assert_array_equal(classify(x[:40], labels[:40], x[40:], 3, penalty), reference)


@pytest.mark.slow
def test_a_probe_of_what_is_linear_is_selective_and_one_that_can_memorise_is_not() -> None:
    kinds = DRAW.integers(0, 20, 600)
    table = DRAW.standard_normal((20, 6)).astype(np.float32)
    features = table[kinds] + 0.1 * DRAW.standard_normal((600, 6)).astype(np.float32)
    labels = (table[kinds, 0] > 0).astype(int)
    narrow = probe(features, labels, kinds, 2, jax.random.key(0))
    assert narrow.accuracy > 0.9
    assert narrow.selectivity == narrow.accuracy - narrow.control > 0.1
    wide = probe(np.eye(20, dtype=np.float32)[kinds], labels, kinds, 2, jax.random.key(0))
    assert wide.accuracy == wide.control == 1
    with pytest.raises(ValueError, match="held_out is 1.0 of 600 rows"):
        probe(features, labels, kinds, 2, jax.random.key(0), held_out=1.0)
