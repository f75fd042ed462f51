"""Decoding by its definition: everything is computed again for each token."""

from typing import Any

import jax
import jax.numpy as jnp

from tests.laws.components import parameters


def sharpened(model: Any) -> Any:
    """Random parameters, large enough that the likeliest tokens differ from place to place."""
    return jax.tree.map(lambda leaf: 3 * leaf, parameters(model))


def recomputed(model: Any, params: Any, prompt: list[int], steps: int, **source: jax.Array) -> list[int]:
    """The likeliest continuation, everything computed anew for each token."""
    ids = list(prompt)
    apply = jax.jit(lambda tokens: model.apply({"params": params}, {"tokens": tokens, **source}))
    for _ in range(steps):
        row = jnp.asarray([ids + [0] * (len(prompt) + steps - len(ids))])
        ids.append(int(apply(row)[0, len(ids) - 1].argmax()))
    return ids[len(prompt) :]
