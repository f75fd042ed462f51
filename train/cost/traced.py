"""What a computation costs, counted from its traced program rather than from formulas about the model."""

import math
import re
import resource
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# scopes, the outermost first: what runs in each phase, and the phase
RUNNING = re.compile(r"runs:([\w=.,+-]+).*_(fwd|dq|dkv)(?:_|\b)")


def flops(function: Callable[..., Any], *args: Any, seen: bool = False) -> int:
    """Multiplications and additions of the matrix products and convolutions of a function, loops counted by their
    trips.

    `args` may be arrays or shapes.  A product (m, k) x (k, n) counts 2 m k n, also where each row has one of several
    right sides; a `while` of unknown length counts once; of branches the dearest counts, of those without such a
    `while` if there are any.  A kernel counts every block of its grid, without those that it leaves out for a mask
    which is known before it runs (`runs:` in its name). With `seen`, products of queries, keys and values of causal
    attention count by half, as half of the pairs are hidden.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr, seen=seen)[0]


# the dimensions of all arrays that a kernel takes and gives: names may change in compilation
Call = tuple[tuple[int, ...], ...]


def kernels(function: Callable[..., Any], *args: Any) -> dict[Call, float]:
    """The operations of one call of each kernel (a Pallas call) of a function, by the shapes of what it takes and
    gives.

    As `flops` counts them, so with blocks that only segments hide.  Where several kernels have the same shapes, it is
    the mean of all their calls.
    """
    found: dict[Call, tuple[int, int]] = {}
    _count(jax.make_jaxpr(function)(*args).jaxpr, found)
    return {call: total / times for call, (times, total) in found.items()}


def _count(
    jaxpr: Any, inside: dict[Call, tuple[int, int]] | None = None, seen: bool = False, times: int = 1, names: str = ""
) -> tuple[int, bool]:
    """Operations, and whether all lengths are known; how often each kernel is called and its operations in all are
    added to `inside`.

    The program itself runs so many times, within the scopes of these names.
    """
    total, known = 0, True
    for equation in jaxpr.eqns:
        name, params, own = equation.primitive.name, equation.params, f"{names}/{equation.source_info.name_stack}"
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            count = 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
            total += count // 2 if seen and "causal" in own.split("/") else count
        elif name.startswith("ragged_dot"):
            numbers = params["ragged_dot_dimension_numbers"]
            (_, contracted), (_, together) = numbers.dot_dimension_numbers
            left, right = (variable.aval.shape for variable in equation.invars[:2])
            used = {*contracted, *together, *numbers.rhs_group_dimensions}
            total += 2 * math.prod(left) * math.prod(size for axis, size in enumerate(right) if axis not in used)
        elif name == "conv_general_dilated":
            total += 2 * _convolved(equation)
        elif name == "cond":
            branches = (_count(branch.jaxpr, inside, seen, times, own) for branch in params["branches"])
            known_first, count = max((sure, count) for count, sure in branches)
            total, known = total + count, known and known_first
        elif name == "pallas_call":
            blocks = math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
            count = round(_count(params["jaxpr"])[0] * blocks * _running(own))
            total += count
            if inside is not None:
                call = tuple(variable.aval.shape for variable in (*equation.invars, *equation.outvars))
                before, more = inside.get(call, (0, 0))
                inside[call] = before + times, more + times * count
        else:
            inner = [getattr(value, "jaxpr", value) for value in params.values()]
            trips = params.get("length", 1) if name == "scan" else 1
            counts = [_count(jaxpr, inside, seen, times * trips, own) for jaxpr in inner if hasattr(jaxpr, "eqns")]
            total += sum(count for count, _ in counts) * trips
            known = known and name != "while" and all(sure for _, sure in counts)
    return total, known


def _running(names: str) -> float:
    """The part of a kernel's blocks that run, where its names tell it of the kernel's phase."""
    told = RUNNING.search(names)
    return float(dict(pair.split("=") for pair in told[1].split(",")).get(told[2], 1.0)) if told else 1.0


def _convolved(equation: Any) -> int:
    """Products of a convolution, those with padding and with the zeros between spread inputs left out."""
    params, (left, right) = equation.params, (variable.aval.shape for variable in equation.invars[:2])
    out, numbers = equation.outvars[0].aval.shape, params["dimension_numbers"]
    rows, features, *places = numbers.out_spec
    # of the own group, whether features or rows are grouped
    total = out[rows] * out[features] * right[numbers.rhs_spec[1]]
    for axis, place in enumerate(places):
        total *= pairs(
            left[numbers.lhs_spec[2 + axis]],
            right[numbers.rhs_spec[2 + axis]],
            out[place],
            stride=params["window_strides"][axis],
            before=params["padding"][axis][0],
            spread=params["lhs_dilation"][axis],
            apart=params["rhs_dilation"][axis],
        )
    return total


def pairs(size: int, kernel: int, out: int, *, stride: int, before: int, spread: int, apart: int) -> int:
    """How many pairs of an output and a place of the kernel meet an input, along one axis of a convolution.

    `before` places of padding come first, `spread` is from one input to the next and `apart` from one place of the
    kernel to the next.
    """
    places = np.arange(out)[:, None] * stride + np.arange(kernel) * apart - before
    return int(((places >= 0) & (places <= (size - 1) * spread) & (places % spread == 0)).sum())


def parameters(tree: Any) -> int:
    """Number of scalars in a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def peak_memory() -> int:
    """The most bytes used so far: of the first accelerator where it tells, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
