"""Precision of a computation: the dtype that floating-point leaves are cast to."""

from typing import Literal

import jax
import jax.numpy as jnp

from models.contracts import Tree

Precision = Literal["float32", "bfloat16"]


def cast(tree: Tree, precision: Precision) -> Tree:
    """Casts floating-point leaves of a tree to the compute dtype."""
    kind = jnp.dtype(precision)
    return jax.tree.map(lambda leaf: leaf.astype(kind) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)
