"""Attention weights from scores: softmax and its alternatives."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.structure import require_positive

HIDDEN = -1e30  # a score that softmax turns into an exact zero, yet finite: a row with nothing to see stays free of NaN


def hide(scores: jax.Array, visible: jax.Array | None) -> jax.Array:
    """Scores with those outside the mask at HIDDEN."""
    return scores if visible is None else jnp.where(visible, scores, HIDDEN)


class Softmax(nn.Module):
    """exp(z_j) / (sum_j exp(z_j) + exp(sink)) over the visible j, z = cap * tanh(scores / cap).

    (b, h, t, s) -> (b, h, t, s).  `cap` bounds the scores (Gemma 2, arXiv:2408.00118); `sink` is one learned score a
    head that takes weight and gives nothing (gpt-oss, arXiv:2508.10925), so that a head can attend to nothing.  If
    neither is set it is the softmax of arXiv:1706.03762.  If nothing is visible all weights are zero.
    """

    cap: float | None = None
    sink: bool = False

    def __post_init__(self) -> None:
        if self.cap is not None:
            require_positive(self, "cap")
        super().__post_init__()

    @nn.compact
    def __call__(self, scores: jax.Array, visible: jax.Array | None) -> jax.Array:
        if self.cap is not None:
            scores = self.cap * jnp.tanh(scores / self.cap)
        scores = hide(scores, visible)
        if not self.sink:
            weights = jax.nn.softmax(scores, axis=-1)
            return weights if visible is None else jnp.where(visible, weights, 0.0)
        h = scores.shape[1]
        sink = self.param("sink", nn.initializers.zeros, (h,)).astype(scores.dtype)[:, None, None]
        return jax.nn.softmax(jnp.concatenate([scores, jnp.broadcast_to(sink, (*scores.shape[:-1], 1))], -1), axis=-1)[
            ..., :-1
        ]


class Sigmoid(nn.Module):
    """sigmoid(score - log n), n the number of visible tokens: each weight by itself, no normalisation over tokens.

    arXiv:2409.04431.  The paper shifts by the log of the sequence's length; here by that of what the token sees, so
    that padding and packing change nothing.
    """

    @nn.compact
    def __call__(self, scores: jax.Array, visible: jax.Array | None) -> jax.Array:
        if visible is None:
            return jax.nn.sigmoid(scores - jnp.log(scores.shape[-1]))
        count = jnp.maximum(visible.sum(-1, keepdims=True), 1).astype(scores.dtype)
        return jnp.where(visible, jax.nn.sigmoid(scores - jnp.log(count)), 0.0)


class Softpick(nn.Module):
    """relu(exp(z_j) - 1) / sum_j |exp(z_j) - 1| over the visible j: a rectified softmax, whose weights may all be zero.

    (b, h, t, s) -> (b, h, t, s).  arXiv:2504.20966.  Both are multiplied by exp(-max(z, 0)), so that no exponential
    overflows, and 1e-6 is added below.
    """

    @nn.compact
    def __call__(self, scores: jax.Array, visible: jax.Array | None) -> jax.Array:
        hidden = jnp.zeros((), bool) if visible is None else ~visible
        largest = jax.lax.stop_gradient(jnp.maximum(jnp.where(hidden, 0.0, scores).max(-1, keepdims=True), 0.0))
        risen = jnp.where(hidden, 0.0, jnp.exp(jnp.where(hidden, 0.0, scores) - largest) - jnp.exp(-largest))
        return jax.nn.relu(risen) / (jnp.abs(risen).sum(-1, keepdims=True) + 1e-6)


class TalkingHeads(nn.Module):
    """sum_j softmax(sum_l scores_l before_lj) after_ji for head i: heads mix their scores, and then their weights.

    (b, h, t, s) -> (b, h, t, s).  arXiv:2003.02436, with as many heads of scores, weights and values.  A score that is
    hidden from one head alone is 0 for the others.  before and after, (h, h), start Glorot-uniform, as in
    official/nlp/modeling/layers/talking_heads_attention.py of tensorflow/models.
    """

    @nn.compact
    def __call__(self, scores: jax.Array, visible: jax.Array | None) -> jax.Array:
        h = scores.shape[1]

        def clear(x: jax.Array) -> jax.Array:
            return x if visible is None else jnp.where(visible, x, 0.0)

        def mix(name: str, x: jax.Array) -> jax.Array:
            kernel = self.param(name, nn.initializers.glorot_uniform(), (h, h)).astype(x.dtype)
            return jnp.einsum("bhts,hi->bits", clear(x), kernel)

        return clear(mix("after", jax.nn.softmax(hide(mix("before", scores), visible), axis=-1)))
