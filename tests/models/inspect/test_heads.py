"""Scores of heads: patterns that are there by construction, and a loop over pairs of tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.inspect.attention import roll_out_attention
from models.inspect.heads import score_duplicate_token, score_induction, score_previous_token

TOKENS = jnp.asarray([[3, 1, 4, 1, 5, 3, 1, 4], [2, 2, 7, 1, 8, 2, 8, 1]])
SEGMENTS = jnp.asarray([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 2, 2, 2, 2, 0]])


def test_scores_are_means_over_pairs_of_tokens() -> None:
    drawn = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)
    weights = jnp.asarray(drawn / drawn.sum(-1, keepdims=True))
    for segments in (None, SEGMENTS):
        before, after, same = [], [], []
        for row in range(2):
            for t in range(8):
                near = [j for j in range(t) if segments is None or 0 < segments[row, j] == segments[row, t]]
                if t - 1 in near:
                    before.append(weights[row, :, t, t - 1])
                if match := [j for j in near if TOKENS[row, j] == TOKENS[row, t]]:
                    after.append(weights[row][:, t, [j + 1 for j in match]].sum(-1))
                    same.append(weights[row][:, t, match].sum(-1))
        np.testing.assert_allclose(score_previous_token(weights, segments), np.mean(before, 0), rtol=1e-5)
        np.testing.assert_allclose(score_induction(weights, TOKENS, segments), np.mean(after, 0), rtol=1e-5)
        np.testing.assert_allclose(score_duplicate_token(weights, TOKENS, segments), np.mean(same, 0), rtol=1e-5)


def test_a_head_of_the_pattern_alone_has_one() -> None:
    tokens = jnp.asarray(np.tile(np.random.default_rng(1).permutation(8), 2)[None])
    eye = np.eye(16, dtype=np.float32)
    heads = jnp.stack([np.roll(eye, -1, 1), np.roll(eye, -8, 1), np.roll(eye, -7, 1)])[None]  # t - 1, t - 8, t - 7
    np.testing.assert_allclose(score_previous_token(heads), [1, 0, 0])
    np.testing.assert_allclose(score_duplicate_token(heads, tokens), [0, 1, 0])
    np.testing.assert_allclose(score_induction(heads, tokens), [0, 0, 1])


def test_weights_of_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"have shape \(4, 2, 3, 6\); heads are scored on \(b, h, t, t\)"):
        score_previous_token(jnp.zeros((4, 2, 3, 6)))


def test_rollout_is_the_product_of_the_layers_halved_with_the_identity() -> None:
    draw = np.random.default_rng(0)
    layers = [np.tril(draw.random((2, 3, 4, 4))) for _ in range(3)]
    layers = [layer / layer.sum(-1, keepdims=True) for layer in layers]
    rolled = np.asarray(roll_out_attention([jnp.asarray(layer, jnp.float32) for layer in layers]))
    first, second, third = ((layer.mean(1) + np.eye(4)) / 2 for layer in layers)
    np.testing.assert_allclose(rolled, third @ second @ first, atol=1e-6)
    np.testing.assert_allclose(rolled.sum(-1), 1, atol=1e-6)
