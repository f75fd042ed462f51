"""Precision of a computation: the type that floating-point leaves are cast to."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

Precision = Literal["float32", "bfloat16"]


def cast(tree: Any, precision: Precision) -> Any:
    """Casts floating-point leaves to the compute type; leaves the rest as it is."""
    kind = jnp.dtype(precision)
    return jax.tree.map(lambda leaf: leaf.astype(kind) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)
