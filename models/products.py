"""The axes of parameters that products sum over, read off a traced program."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from models.contracts import Tree

LINEAR = (
    "convert_element_type",
    "neg",
    "copy",
    "copy_p",
    "reduce_precision",
    "name",
    "optimization_barrier",
    "sharding_constraint",
)
SLICES = ("slice", "dynamic_slice", "split", "pad", "rev", "cumsum")  # primitives that keep axes in place
OPAQUE = ("gather", "fft", "sort", "pallas_call", "scatter", "scatter-add", "custom_call")


@dataclasses.dataclass(frozen=True)
class Trace:
    """A parameter within a value: its number, and which of its axes (-1 the last) each axis of the value runs over."""

    number: int
    axes: tuple[frozenset[int], ...]


@dataclasses.dataclass(frozen=True)
class Value:
    """An abstract value: the parameters that it is made of, and if data has been multiplied in.  Neither: a constant.

    Data that is no product of a parameter has no traces.  `raw`: a parameter itself, perhaps turned or cut.
    """

    data: bool = False
    traces: tuple[Trace, ...] = ()
    raw: bool = False


Axes = tuple[Sequence[int], Sequence[int]]  # of the left and of the right factor of a product
DATA, CONSTANT = Value(True), Value()


def trace_sums(function: Callable[..., Tree], params: Tree, *args: Tree) -> tuple[Tree, Tree]:
    """Finds each parameter's axes (-1 is the last) that products sum over, and whether a use could not be read.

    `function(params, *args)` is traced on arrays or shapes.  A mean counts as no sum.
    """
    leaves, structure = jax.tree.flatten(params)
    summed: list[set[int]] = [set() for _ in leaves]
    lost: list[bool] = [False] * len(leaves)
    inputs = [
        Value(False, (Trace(i, tuple(frozenset({k}) for k in range(-len(leaf.shape), 0))),), True)
        for i, leaf in enumerate(leaves)
    ]
    closed = jax.make_jaxpr(function)(params, *args)
    _follow(closed.jaxpr, [*inputs, *[DATA] * (len(closed.jaxpr.invars) - len(inputs))], summed, lost)
    return structure.unflatten([frozenset(axes) for axes in summed]), structure.unflatten(lost)


def _follow(jaxpr: Jaxpr, inputs: list[Value], summed: list[set[int]], lost: list[bool]) -> list[Value]:
    """Evaluates a program abstractly: the values of its outputs from those of its inputs."""
    known: dict[Var, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
    divisors = _divisors(jaxpr)

    def of(variable: Var | Literal) -> Value:
        return CONSTANT if isinstance(variable, Literal) else known.get(variable, CONSTANT)

    for equation in jaxpr.eqns:
        values = [of(variable) for variable in equation.invars]
        outputs = _inner(equation, values, summed, lost)
        if outputs is None:
            outputs = [_step(equation, values, summed, lost, divisors.get(equation.outvars[0], 1.0))] * len(
                equation.outvars
            )
        known.update(zip(equation.outvars, outputs, strict=True))
    return [of(variable) for variable in jaxpr.outvars]


def _divisors(jaxpr: Jaxpr) -> dict[Var, float]:
    """The constant that each value is divided by in every use, perhaps after a reshape."""
    divisors: dict[Var, float] = {variable: 1.0 for variable in jaxpr.outvars if not isinstance(variable, Literal)}
    for equation in reversed(jaxpr.eqns):
        name = equation.primitive.name
        divisor = 1.0
        if name in ("broadcast_in_dim", "reshape", "squeeze", "convert_element_type"):
            divisor = divisors.get(equation.outvars[0], 1.0)
        elif (
            name in ("div", "mul")
            and isinstance(other := equation.invars[1], Literal)
            and np.ndim(other.val) == 0
            and other.val
        ):
            divisor = float(other.val) if name == "div" else 1 / float(other.val)
        for variable in equation.invars:
            if not isinstance(variable, Literal):
                divisors[variable] = divisor if divisors.get(variable, divisor) == divisor else 1.0
    return divisors


def open_program(program: ClosedJaxpr | Jaxpr) -> Jaxpr:
    """The program of a parameter of an equation, closed over constants or not, as versions of jax differ."""
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def split_scan(equation: JaxprEqn) -> tuple[int, int]:
    """The numbers of constants and of carried values among the inputs of a scan, before the rows that it runs over.

    Read off shapes, in which rows have an axis more than in the body: the parameters have other names from jax 0.12.
    """
    body = open_program(equation.params["jaxpr"])
    scanned = sum(
        len(get_shape(own)) > len(get_shape(inner)) for own, inner in zip(equation.invars, body.invars, strict=True)
    )
    carry = sum(
        len(get_shape(own)) == len(get_shape(inner)) for own, inner in zip(equation.outvars, body.outvars, strict=True)
    )
    return len(equation.invars) - scanned - carry, carry


def _inner(equation: JaxprEqn, values: list[Value], summed: list[set[int]], lost: list[bool]) -> list[Value] | None:
    """The outputs of an equation that runs other programs; None for one that runs none."""
    name, params = equation.primitive.name, equation.params
    outputs = [DATA] * len(equation.outvars)
    if name == "scan":
        body = open_program(params["jaxpr"])
        consts, carry = split_scan(equation)
        rows = [
            dataclasses.replace(value, traces=tuple(Trace(trace.number, trace.axes[1:]) for trace in value.traces))
            for value in values[consts + carry :]
        ]
        _follow(body, [*values[:consts], *[DATA] * carry, *rows], summed, lost)
        return outputs
    if name == "while":
        first, body = params["cond_nconsts"], params["body_jaxpr"].jaxpr
        consts = values[first : first + params["body_nconsts"]]
        _follow(body, [*consts, *[DATA] * (len(body.invars) - len(consts))], summed, lost)
        return outputs
    if name == "cond":
        for branch in params["branches"]:
            _follow(branch.jaxpr, values[1:], summed, lost)
        return outputs
    if name == "pallas_call":
        return None
    for value in params.values():
        program = getattr(value, "jaxpr", value)
        if hasattr(program, "eqns") and len(program.invars) == len(values):
            return _follow(program, values, summed, lost)
    return None


def _step(equation: JaxprEqn, values: list[Value], summed: list[set[int]], lost: list[bool], divisor: float) -> Value:
    """Evaluates one operation abstractly."""
    name, params = equation.primitive.name, equation.params
    shapes = [get_shape(variable) for variable in equation.invars]
    out = get_shape(equation.outvars[0])
    if not any(value.data or value.traces for value in values):
        return CONSTANT

    def add(value: Value, axes: Iterable[int]) -> None:
        for trace in value.traces:
            summed[trace.number] |= frozenset[int]().union(*(trace.axes[axis] for axis in axes))

    if name == "dot_general" or name.startswith("ragged_dot"):
        numbers = (
            params["dimension_numbers"]
            if name == "dot_general"
            else params["ragged_dot_dimension_numbers"].dot_dimension_numbers
        )
        alone = not any(value.data for value in values) and any(value.raw for value in values)
        for value, axes in zip(values, numbers[0], strict=False):
            # data times a vector meets a matrix that sums, and so does a stream that begins as a parameter
            if not value.data and (value.raw or not alone):
                add(value, axes)
        return (
            DATA if any(value.data for value in values) or name != "dot_general" else _multiply(values, shapes, numbers)
        )
    if name == "conv_general_dilated":
        if not values[1].data:
            add(values[1], [params["dimension_numbers"].rhs_spec[1]])
        return DATA
    first, whole = values[0], all(len(shape) in (0, len(out)) for shape in shapes)
    if name == "reduce_sum":
        several = len({trace.number for trace in first.traces}) > 1
        mean = math.isclose(divisor, math.prod(shapes[0][axis] for axis in params["axes"]), rel_tol=1e-3)
        if (first.data or several) and not mean:
            add(first, params["axes"])
        return _map(first, lambda axes: tuple(kept for axis, kept in enumerate(axes) if axis not in params["axes"]))
    if name == "transpose":
        return _map(first, lambda axes: tuple(axes[axis] for axis in params["permutation"]))
    if name == "squeeze":
        gone = [axis % len(shapes[0]) for axis in params["dimensions"]]
        return _map(first, lambda axes: tuple(kept for axis, kept in enumerate(axes) if axis not in gone))
    if name == "broadcast_in_dim":
        sources = dict(zip(params["broadcast_dimensions"], range(len(shapes[0])), strict=True))
        return _map(
            first,
            lambda axes: tuple(axes[sources[axis]] if axis in sources else frozenset() for axis in range(len(out))),
        )
    if name == "reshape":
        return _map(first, lambda axes: _reshape(axes, shapes[0], out))
    if name in SLICES:
        return first
    if name in ("mul", "div") and whole:
        if equation.invars[0] is equation.invars[1] and first.data:
            return DATA
        used = values if name == "mul" else values[:1]
        traces = tuple(
            trace for value, shape in zip(used, shapes, strict=False) if shape or not out for trace in value.traces
        )
        return Value(any(value.data for value in values) or (name == "div" and bool(values[1].traces)), traces)
    if name == "select_n" and whole:
        return Value(
            any(value.data for value in values), tuple(trace for value in values[1:] for trace in value.traces)
        )
    if name in ("add", "sub") and whole and not any(value.data for value in values):
        return Value(False, tuple(trace for value in values for trace in value.traces))
    if name == "concatenate" and not any(value.data for value in values):
        return Value(False, tuple(trace for value in values for trace in value.traces))
    if name in OPAQUE:
        for trace in (trace for value in values if not value.data for trace in value.traces):
            lost[trace.number] = True
        return DATA
    known = [(value, shape) for value, shape in zip(values, shapes, strict=True) if value.traces or value.data]
    if len(known) == 1 and known[0][1] == out and (name in LINEAR or not known[0][0].data):
        # a function of a parameter alone, by element
        return dataclasses.replace(known[0][0], raw=known[0][0].raw and name in LINEAR)
    return DATA


def _multiply(values: list[Value], shapes: list[tuple[int, ...]], numbers: tuple[Axes, Axes]) -> Value:
    """A product of parameters: kernels of low rank, which the stream meets as one."""
    contracted, together = numbers
    free = [[axis for axis in range(len(shapes[i])) if axis not in (*contracted[i], *together[i])] for i in (0, 1)]
    traces: list[Trace] = []
    for i in (0, 1):
        none = [frozenset[int]()] * len(free[1 - i])
        for trace in values[i].traces:
            alone, shared = [trace.axes[axis] for axis in free[i]], [trace.axes[axis] for axis in together[i]]
            traces.append(Trace(trace.number, (*shared, *alone, *none) if i == 0 else (*shared, *none, *alone)))
    return Value(False, tuple(traces), all(value.raw for value in values))


def get_shape(variable: Var | Literal) -> tuple[int, ...]:
    """The shape of a variable of a program."""
    return getattr(variable.aval, "shape", ())


def get_dtype(variable: Var | Literal) -> object:
    """The type of a variable of a program; None of what is no array."""
    return getattr(variable.aval, "dtype", None)


def _map(value: Value, change: Callable[[tuple[frozenset[int], ...]], tuple[frozenset[int], ...]]) -> Value:
    return dataclasses.replace(value, traces=tuple(Trace(trace.number, change(trace.axes)) for trace in value.traces))


def _reshape(
    axes: tuple[frozenset[int], ...], old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[frozenset[int], ...]:
    """The axes of a reshaped value: those of every group of axes that is split, joined or kept as a whole."""
    result: list[frozenset[int]] = [frozenset()] * len(new)
    i = j = 0 if math.prod(old) else len(new)
    while i < len(old) and j < len(new):
        begin, first = i, j
        i, j = i + 1, j + 1
        while math.prod(old[begin:i]) != math.prod(new[first:j]):
            if math.prod(old[begin:i]) < math.prod(new[first:j]):
                i += 1
            else:
                j += 1
        for index in range(first, j):
            if new[index] > 1:
                result[index] = frozenset().union(*axes[begin:i])
    return tuple(result)
