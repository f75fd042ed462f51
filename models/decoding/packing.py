"""Kernels stored by their outputs, for the products of a single token on a CPU."""

import functools
from collections.abc import Callable, Sequence

import jax

from models.backend.platform import platform
from models.contracts import Tree

# bytes of a kernel: smaller ones are quick, and larger ones wait for memory either way, which jax 0.12 reads faster
BYTES = range(2**18, 2**23 if jax.__version_info__ >= (0, 12) else 2**21)
FEWEST = 32  # tokens from which the copy pays
ANY_ORDER: dict[str, bool | str] = {  # sums are added in any order; the rest of fast math stays off
    "xla_cpu_enable_fast_math": True,
    "xla_cpu_fast_math_honor_nans": True,
    "xla_cpu_fast_math_honor_infs": True,
    "xla_cpu_fast_math_honor_division": True,
    "xla_cpu_fast_math_honor_functions": True,
}


def pays(rows: int, steps: int) -> bool:
    """Tells if kernels stored by their outputs pay for this many rows and tokens: where products have one row."""
    return platform() == "cpu" and rows == 1 and steps >= FEWEST


def transpose_kernels(params: Tree) -> Tree:
    """Transposes the kernels (n, m) of a size in `BYTES`; applied twice, it changes nothing.

    A kernel that is stored as (m, n) and transposed back where one row meets it is read along its rows, in one loop
    with what makes its input, which XLA divides among the cores.  The loop adds several products at once only where it
    may add them in any order, which jax 0.12 does not take for granted: see `compile_both`.
    """

    def transpose(path: jax.tree_util.KeyPath, leaf: jax.Array) -> jax.Array:
        name = path[-1].key if path and isinstance(path[-1], jax.tree_util.DictKey) else None
        return leaf.T if name == "kernel" and leaf.ndim == 2 and leaf.nbytes in BYTES else leaf

    return jax.tree.map_with_path(transpose, params)


def compile_both(
    function: Callable[..., object], static: Sequence[int], donated: int
) -> dict[bool, jax.stages.Wrapped]:
    """Compiles a function for usual kernels, and for kernels stored by their outputs.

    The function is told which by its first argument; `static` and `donated` count the others.
    """

    def compile_one(packed: bool) -> jax.stages.Wrapped:
        options = ANY_ORDER if packed else None
        told = functools.partial(function, packed)
        return jax.jit(told, static_argnums=static, donate_argnums=donated, compiler_options=options)

    return {packed: compile_one(packed) for packed in (False, True)}
