"""Costs of a computation, counted from its traced program rather than from formulas about the model."""

import math
import re
import resource
import sys
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.interpreters.partial_eval import dce_jaxpr

from models.contracts import Tree

# scopes, the outermost first: the share of blocks that run in each phase, and the phase
RUNNING = re.compile(r"runs:([\w=.,+-]+).*_(fwd|dq|dkv)(?:_|\b)")


@runtime_checkable
class Shaped(Protocol):
    """An array, or the type of one, with its shape."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def count_flops(function: Callable[..., Tree], *args: Tree, seen: bool = False) -> int:
    """Counts multiplications and additions of a function's matmuls and convolutions, loops by their trips.

    `args` may be arrays or shapes.  A product (m, k) x (k, n) counts 2 m k n, also if each row has one of several
    right sides.  Products that no result depends on do not count, as compilers leave them out; operations element by
    element count nowhere.  A `while` of unknown length counts once.  Of branches the most expensive counts, among
    those without such a `while` if there are any.  A kernel counts every block of its grid except those that it skips
    for a mask known before it runs (`runs:` in its name).  With `seen`, products of queries, keys and values of causal
    attention count by half, as half of the pairs are hidden.
    """
    return count_program(trace(function, *args), seen=seen)[0]


# the dimensions of all operands and results of a kernel: its name may change in compilation
Call = tuple[tuple[int, ...], ...]


def count_kernel_flops(function: Callable[..., Tree], *args: Tree) -> dict[Call, float]:
    """Counts the operations of one call of each Pallas kernel of a function, by the shapes of operands and results.

    The counts are those of `count_flops`, so blocks that only segments hide are included.  If several kernels have the
    same shapes, the count is the mean over all their calls.
    """
    calls: dict[Call, tuple[int, int]] = {}
    count_program(trace(function, *args), calls)
    return {call: total / times for call, (times, total) in calls.items()}


def trace(function: Callable[..., Tree], *args: Tree) -> Jaxpr:
    """The program of a function, without what its results do not depend on."""
    whole = jax.make_jaxpr(function)(*args).jaxpr
    return dce_jaxpr(whole, [True] * len(whole.outvars), instantiate=True)[0]


def _count_attention(count: int, scopes: str, seen: bool) -> int:
    """The operations of a product of causal attention: with `seen` the half of them that is not hidden.

    A part of the queries that is computed with the keys up to it (`keys_E_of_T` in the scopes) counts as with all T.
    """
    if cut := re.search(r"keys_(\d+)_of_(\d+)", scopes):
        count = count * int(cut[2]) // int(cut[1])
    return count // 2 if seen else count


def count_program(
    jaxpr: Jaxpr, inside: dict[Call, tuple[int, int]] | None = None, seen: bool = False, times: int = 1, names: str = ""
) -> tuple[int, bool]:
    """Counts operations, and tells if all lengths are known; adds each kernel's calls and operations to `inside`.

    The program runs `times` times, within the scopes `names`.
    """
    total, known = 0, True
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        scopes = f"{names}/{equation.source_info.name_stack}"
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = get_shape(equation.invars[0])
            count = 2 * math.prod(get_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)
            total += _count_attention(count, scopes, seen) if "causal" in scopes.split("/") else count
        elif name.startswith("ragged_dot"):
            numbers = params["ragged_dot_dimension_numbers"]
            (_, contracted), (_, together) = numbers.dot_dimension_numbers
            left, right = map(get_shape, equation.invars[:2])
            used = {*contracted, *together, *numbers.rhs_group_dimensions}
            total += 2 * math.prod(left) * math.prod(size for axis, size in enumerate(right) if axis not in used)
        elif name == "conv_general_dilated":
            total += 2 * _count_convolution(equation)
        elif name == "cond":
            branches = (count_program(branch.jaxpr, inside, seen, times, scopes) for branch in params["branches"])
            known_first, count = max((sure, count) for count, sure in branches)
            total, known = total + count, known and known_first
        elif name == "pallas_call":
            blocks = math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
            count = round(count_program(params["jaxpr"])[0] * blocks * _read_running_share(scopes))
            total += count
            if inside is not None:
                call = tuple(map(get_shape, (*equation.invars, *equation.outvars)))
                before, more = inside.get(call, (0, 0))
                inside[call] = before + times, more + times * count
        else:
            trips = params.get("length", 1) if name == "scan" else 1
            counts = [count_program(jaxpr, inside, seen, times * trips, scopes) for jaxpr in find_inner(equation)]
            total += sum(count for count, _ in counts) * trips
            known = known and name != "while" and all(sure for _, sure in counts)
    return total, known


def _read_running_share(names: str) -> float:
    """Reads the share of a kernel's blocks that run in its phase from its scopes; 1 unless they tell it."""
    match = RUNNING.search(names)
    return float(dict(pair.split("=") for pair in match[1].split(",")).get(match[2], 1.0)) if match else 1.0


def find_inner(equation: JaxprEqn) -> list[Jaxpr]:
    """Finds the programs that an equation runs, those of branches left out."""
    inner = [value.jaxpr if isinstance(value, ClosedJaxpr) else value for value in equation.params.values()]
    return [value for value in inner if isinstance(value, Jaxpr)]


def get_shape(variable: Var | Literal) -> tuple[int, ...]:
    """The shape of a program's value; empty for one that is no array."""
    kind: object = variable.aval
    return kind.shape if isinstance(kind, Shaped) else ()


def _count_convolution(equation: JaxprEqn) -> int:
    """Counts the products of a convolution, except those with padding and with the zeros between dilated inputs."""
    params, (left, right) = equation.params, map(get_shape, equation.invars[:2])
    out, numbers = get_shape(equation.outvars[0]), params["dimension_numbers"]
    rows, features, *spatial = numbers.out_spec
    # the input features of one group, if features or rows are grouped
    total = out[rows] * out[features] * right[numbers.rhs_spec[1]]
    for axis, dimension in enumerate(spatial):
        total *= count_pairs(
            left[numbers.lhs_spec[2 + axis]],
            right[numbers.rhs_spec[2 + axis]],
            out[dimension],
            stride=params["window_strides"][axis],
            before=params["padding"][axis][0],
            spread=params["lhs_dilation"][axis],
            apart=params["rhs_dilation"][axis],
        )
    return total


def count_pairs(size: int, kernel: int, out: int, *, stride: int, before: int, spread: int, apart: int) -> int:
    """Counts pairs of an output and a kernel tap that meet an input, along one axis of a convolution.

    `before` is the padding before the first input, `spread` the dilation of inputs and `apart` that of kernel taps.
    """
    places = np.arange(out)[:, None] * stride + np.arange(kernel) * apart - before
    return int(((places >= 0) & (places <= (size - 1) * spread) & (places % spread == 0)).sum())


def count_parameters(tree: Tree) -> int:
    """Counts the scalars of a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count_bytes(tree: Tree) -> int:
    """Counts the bytes of a tree's arrays."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def measure_peak_memory() -> int:
    """Measures the most bytes used so far: on the first accelerator if it tells, otherwise by this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
