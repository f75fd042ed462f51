"""Kernels stored by their outputs, for the products of a single token on a CPU."""

import jax

from models.backend.platform import platform
from models.contracts import Tree

BYTES = range(2**18, 2**21)  # of a kernel: smaller ones are quick, and larger ones wait for memory, either way
FEWEST = 32  # tokens from which the copy pays


def pays(rows: int, steps: int) -> bool:
    """Tells if kernels stored by their outputs pay for this many rows and tokens: where products have one row."""
    return platform() == "cpu" and rows == 1 and steps >= FEWEST


def transpose_kernels(params: Tree) -> Tree:
    """Transposes the kernels (n, m) of a size in `BYTES`; applied twice, it changes nothing.

    A kernel that is stored as (m, n) and transposed back where one row meets it is read along its rows, in one loop
    with what makes its input, which XLA divides among the cores.
    """

    def transpose(path: jax.tree_util.KeyPath, leaf: jax.Array) -> jax.Array:
        name = path[-1].key if path and isinstance(path[-1], jax.tree_util.DictKey) else None
        return leaf.T if name == "kernel" and leaf.ndim == 2 and leaf.nbytes in BYTES else leaf

    return jax.tree.map_with_path(transpose, params)
