"""Trees of parameters by path, and steps along gradients that depend on them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.paths import path_name


def draw(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def nest(flat: dict[str, Any]) -> Any:
    """A tree of dictionaries from paths."""
    tree: Any = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        functools.reduce(lambda node, name: node.setdefault(name, {}), parents, tree)[last] = leaf
    return tree


def flatten(tree: Any) -> dict[str, np.ndarray]:
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def gradient(params: Any, step: int) -> Any:
    """A gradient that depends on the parameters and the step."""
    return jax.tree.map(lambda leaf: jnp.sin(3 * leaf) + 0.1 * step, params)


def trained(transform: optax.GradientTransformation, params: Any, steps: int = 4, at: Any = None) -> Any:
    """Parameters and the state after some steps along the gradient at the parameters, or those that `at` gives."""

    @jax.jit
    def run(params: Any) -> Any:
        state = transform.init(params)
        for step in range(steps):
            slopes = gradient(params if at is None else at(params, state), step)
            updates, state = transform.update(slopes, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    return run(params)
