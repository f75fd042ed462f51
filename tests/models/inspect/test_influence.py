"""Influence of examples on a score, beside the gradients of every example alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import MLP, Attention, Block, ClassHead, MeanPool, Stack, TokenEmbed, Transformer
from models.contracts import Tree
from models.inspect.influence import measure_influence

TOKENS = jnp.arange(24).reshape(4, 6) % 7
LABELS = jnp.array([0, 1, 2, 1])
MODEL = Transformer(TokenEmbed(7, 8), Stack(Block(Attention(2), MLP()), 2), ClassHead(3, MeanPool()))


def apply(params: Tree, tokens: jax.Array) -> jax.Array:
    outputs = MODEL.apply({"params": params}, {"tokens": tokens, "segments": jnp.ones_like(tokens)})
    assert isinstance(outputs, jax.Array)
    return jax.nn.log_softmax(outputs)


def score(params: Tree) -> jax.Array:
    return apply(params, TOKENS[:1])[0, 2]


def losses(params: Tree) -> jax.Array:
    return -jnp.take_along_axis(apply(params, TOKENS), LABELS[:, None], 1)


def test_influence_is_the_product_of_both_gradients_of_each_example() -> None:
    params = MODEL.init(jax.random.key(0), {"tokens": TOKENS, "segments": jnp.ones_like(TOKENS)})["params"]
    found = jax.jit(lambda params: measure_influence(score, losses, params))(params)
    own = jax.grad(score)(params)
    for row in range(4):
        each = jax.grad(lambda params, row=row: losses(params)[row, 0])(params)
        pairs = zip(jax.tree.leaves(own), jax.tree.leaves(each), strict=True)
        expected = -sum(float(jnp.vdot(left, right)) for left, right in pairs)
        assert float(found[row, 0]) == pytest.approx(expected, rel=1e-4)
    assert found.shape == (4, 1)


def test_influence_foretells_what_a_small_step_on_the_example_does() -> None:
    params = MODEL.init(jax.random.key(1), {"tokens": TOKENS, "segments": jnp.ones_like(TOKENS)})["params"]
    found = np.asarray(measure_influence(score, losses, params))[:, 0]
    before, rate = float(score(params)), 1e-4
    for row in range(4):
        grads = jax.grad(lambda params, row=row: losses(params)[row, 0])(params)
        after = jax.tree.map(lambda leaf, grad: leaf - rate * grad, params, grads)
        assert (float(score(after)) - before) / rate == pytest.approx(found[row], rel=0.02, abs=5e-3)
