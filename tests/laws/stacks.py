"""Branches and inputs of stacks."""

import dataclasses
from collections.abc import Callable
from typing import Any

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


def law_starts_as(residual: Any, other: Any, tolerance: float = 1e-4) -> None:
    """Four branches of fixed functions, residual parameters as they start."""

    def run(residual: Any) -> np.ndarray:
        ctx = Context(depth=2, branches=2)
        state = residual.expand(X, ctx) if hasattr(residual, "expand") else X
        for layer in range(2):
            for index in range(2):
                ctx = dataclasses.replace(ctx, layer=layer, branch=index)
                branch = jnp.sin if index else jnp.cos
                variables = residual.init(jax.random.key(0), state, branch, ctx)
                state = residual.apply(variables, state, branch, ctx)
        return np.asarray(residual.reduce(state, ctx) if hasattr(residual, "reduce") else state)

    expected = np.asarray(X) if other is None else run(other)
    np.testing.assert_allclose(run(residual), expected, atol=tolerance)


class Doubled(nn.Module):
    """Broken residual: counts the state twice."""

    norm: Norm = LayerNorm()

    @nn.compact
    def __call__(self, state: jax.Array, branch: Branch, ctx: Context) -> jax.Array:
        return 2 * state + branch(self.norm(state))
