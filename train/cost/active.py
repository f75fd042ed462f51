"""Active parameters, read off a traced program: those that a token is multiplied with."""

import math
from collections.abc import Callable, Mapping

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from models.contracts import Tree
from models.products import open_program, split_scan
from train.cost.traced import count_program, find_inner, get_shape, trace

# operations whose result is a parameter again, in another form
PASSING = frozenset(
    (
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "copy",
        "copy_p",
        "name",
        "optimization_barrier",
        "reshape",
        "squeeze",
        "stop_gradient",
        "transpose",
    )
)
Owners = frozenset[int]  # numbers of the parameters that a value is made of


def count_active(function: Callable[..., Tree], params: Tree, tokens: int, *args: Tree) -> Tree:
    """Counts the active scalars of each parameter in `function(params, *args)` over `tokens` tokens.

    A parameter that is read by rows (a table that is looked up), or that a product takes as one matrix for each group
    of rows (experts), has as many as it has uses a token, at most all.  Every other parameter is active as a whole.
    """
    leaves, structure = jax.tree.flatten(params)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    uses: list[float] = [0.0] * len(leaves)
    program = trace(function, params, *args)
    owners = {variable: frozenset({index}) for index, variable in enumerate(program.invars[: len(leaves)])}
    _follow(program, owners, sizes, uses, 1)
    return structure.unflatten([round(min(size, use / tokens)) for size, use in zip(sizes, uses, strict=True)])


def _follow(
    program: Jaxpr, known: Mapping[Var, Owners], sizes: list[int], uses: list[float], times: int
) -> list[Owners]:
    """Adds the uses of parameters in a program that runs `times` times; returns the owners of its results."""
    owners = dict(known)

    def read(variable: Var | Literal) -> Owners:
        return Owners() if isinstance(variable, Literal) else owners.get(variable, Owners())

    for equation in program.eqns:
        inputs = [read(variable) for variable in equation.invars]
        if any(inputs):
            outputs = _step(equation, inputs, sizes, uses, times)
            owners.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in program.outvars]


def _step(equation: JaxprEqn, inputs: list[Owners], sizes: list[int], uses: list[float], times: int) -> list[Owners]:
    name, params = equation.primitive.name, equation.params
    nothing = [Owners()] * len(equation.outvars)
    everything = Owners().union(*inputs)
    if name in PASSING:
        return [everything] * len(equation.outvars)
    if name == "scan":
        fixed, carry = split_scan(equation)
        body, carried = open_program(params["jaxpr"]), fixed + carry
        _add_whole(Owners().union(*inputs[fixed:carried]), sizes, uses)
        inside = [*inputs[:fixed], *[Owners()] * (carried - fixed), *inputs[carried:]]
        done = _follow(body, _name(body, inside), sizes, uses, times * params["length"])
        _add_whole(Owners().union(*done), sizes, uses)
        return nothing
    if name == "cond":
        branch = max(params["branches"], key=_rank).jaxpr
        return _follow(branch, _name(branch, inputs[1:]), sizes, uses, times)
    inner = find_inner(equation)
    if len(inner) == 1 and len(inner[0].invars) == len(inputs) and name not in ("while", "pallas_call"):
        return _follow(inner[0], _name(inner[0], inputs), sizes, uses, times)
    if name == "gather" and not any(inputs[1:]):
        _add(inputs[0], times * math.prod(get_shape(equation.outvars[0])), sizes, uses)
    elif name.startswith("ragged_dot") and not inputs[0]:
        rows, width = get_shape(equation.invars[0]), get_shape(equation.outvars[0])[-1]
        _add(inputs[1], times * math.prod(rows) * width, sizes, uses)
    elif name == "dot_general" and not (inputs[0] and inputs[1]) and params["dimension_numbers"][1][0]:
        contracted = (get_shape(equation.invars[0])[axis] for axis in params["dimension_numbers"][0][0])
        _add(everything, times * math.prod(get_shape(equation.outvars[0])) * math.prod(contracted), sizes, uses)
    else:
        _add_whole(everything, sizes, uses)
    return nothing


def _name(program: Jaxpr, inputs: list[Owners]) -> dict[Var, Owners]:
    return dict(zip(program.invars, inputs, strict=True))


def _rank(branch: ClosedJaxpr) -> tuple[bool, int]:
    """Orders branches as `count_flops` does: first by whether all lengths are known, then by operations."""
    count, known = count_program(branch.jaxpr)
    return known, count


def _add(owners: Owners, count: float, sizes: list[int], uses: list[float]) -> None:
    """Adds uses, to each of several parameters that are joined by its share."""
    total = sum(sizes[index] for index in owners)
    for index in owners:
        uses[index] += count * sizes[index] / total


def _add_whole(owners: Owners, sizes: list[int], uses: list[float]) -> None:
    for index in owners:
        uses[index] = math.inf
