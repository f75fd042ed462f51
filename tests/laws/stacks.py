"""Branches and inputs of stacks."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from models import Context, LayerNorm
from models.contracts import Norm, Tree
from models.laws.depth import (
    context,
    stream,
)

X, CONTEXT = stream(), context()
Branch = Callable[[jax.Array], jax.Array]


def normalised(params: Tree, x: ArrayLike) -> np.ndarray:
    return np.asarray(LayerNorm().apply({"params": params}, jnp.asarray(x)))


def assert_close(left: Tree, right: Tree, tolerance: float = 1e-4) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * (1 + float(np.abs(a).max())))


class Doubled(nn.Module):
    """Broken residual: counts the state twice."""

    norm: Norm = LayerNorm()

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        return 2 * state + branch(self.norm(state))
