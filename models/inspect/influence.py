"""Influence of training examples on a score, by the gradients of both."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from models.contracts import Tree


def measure_influence(
    score: Callable[[Tree], jax.Array], losses: Callable[[Tree], jax.Array], params: Tree
) -> jax.Array:
    """Measures how a step of gradient descent on each example moves a score, over the rate: -grad s . grad l_i, (...).

    `score` maps parameters to a number s, `losses` to a loss l_i of each example (...).  Positive for an example that
    raises the score.  Summed over checkpoints with their rates it is TracIn (arXiv:2002.08484, equation 4).  No
    gradient of a single example is formed: d losses . v is the transpose of v -> d losses^T . v, so that all examples
    of a batch cost about three passes, and rules of reverse mode are enough.
    """
    direction = jax.grad(lambda params: score(params).astype(jnp.float32).sum())(params)
    values, pull = jax.vjp(losses, params)
    _, push = jax.vjp(lambda weights: pull(weights)[0], jnp.zeros_like(values))
    return -push(direction)[0]
