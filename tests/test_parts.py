"""What is minimised on a batch is the sum of that on its parts: balance losses and losses of several tokens ahead too."""

import jax
import jax.numpy as jnp
import numpy as np

from models import Block, Experts, Stack, TokenEmbed, Transformer
from models.head import MultiTokenHead
from train.objective import NextTokens
from train.step import make_loss

MODEL = Transformer(TokenEmbed(16, 8), Stack(Block(Experts(4, 2, 1.0, dispatch="ragged"), None), 1), MultiTokenHead(2))


def test_parts_of_ragged_rows_add_up_to_the_whole() -> None:
    draw = np.random.default_rng(0)
    places, cuts = np.arange(8), draw.integers(0, 9, (8, 2))
    segments = np.where(places < cuts.min(1, keepdims=True), 1, np.where(places < cuts.max(1, keepdims=True), 2, 0))
    batch = {"tokens": jnp.asarray(draw.integers(0, 16, (8, 8)), jnp.int32), "segments": jnp.asarray(segments, jnp.int32)}
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), batch))["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    loss = jax.jit(make_loss(MODEL, NextTokens()))
    total, sums = loss(params, batch, jax.random.key(0))
    halves = [loss(params, jax.tree.map(lambda leaf, own=own: leaf[own], batch), jax.random.key(0)) for own in np.split(np.arange(8), 2)]
    assert halves[0][1]["loss"].weight != halves[1][1]["loss"].weight
    np.testing.assert_allclose(sum(float(half[0]) for half in halves), total, rtol=1e-5)
    assert sums["auxiliary_loss"].value > 1e-3 * total
    np.testing.assert_allclose(sum(float(half[1]["auxiliary_loss"].value) for half in halves), sums["auxiliary_loss"].value, rtol=1e-5)
