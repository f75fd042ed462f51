"""Programs with their loops written out, with and without their products, for XLA's own count of operations."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from models.contracts import Tree
from models.laws.inputs import Component, arguments, shapes
from models.products import split_scan
from train.cost.traced import Shaped

CALLS = ("jit", "closed_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call")
PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot_general")
PICKED = jax.lax.GatherDimensionNumbers(offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,))


def count_products(function: Callable[..., Tree], *args: Tree) -> float:
    """Operations that XLA counts (`cost_analysis`) in a function's products: all, less those of it without products.

    Loops are written out, as XLA counts the body of a loop once.  Their first states are hidden from simplification
    and their last ones are results, since the first trip of a recurrence would otherwise be simpler than the others,
    as the state is zero, and so would the last one, whose state nobody reads.
    """
    program = jax.make_jaxpr(function)(*args)
    whole, bare = (_count(program, jax.tree.leaves(args), drop) for drop in (False, True))
    return whole - bare


def _count(program: ClosedJaxpr, leaves: Sequence[Tree], drop: bool) -> float:
    def run(*values: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        ends: list[jax.Array] = []
        return _run(program, values, drop, ends), ends

    given = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    counted = jax.jit(run).lower(*given).cost_analysis()
    assert counted is not None
    return float(counted.get("flops", 0.0))


def _run(program: ClosedJaxpr | Jaxpr, values: Sequence[jax.Array], drop: bool, ends: list[jax.Array]) -> list:
    jaxpr, consts = (program.jaxpr, program.consts) if isinstance(program, ClosedJaxpr) else (program, ())
    known: dict[Var, jax.Array] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))

    def read(variable: Var | Literal) -> jax.Array:
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        known.update(zip(equation.outvars, _step(equation, inputs, drop, ends), strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _step(equation: JaxprEqn, inputs: list[jax.Array], drop: bool, ends: list[jax.Array]) -> list[jax.Array]:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _unroll(equation, inputs, drop, ends)
    if name == "cond":
        branches = [functools.partial(_branch, branch, drop) for branch in params["branches"]]
        return jax.lax.switch(inputs[0], branches, *inputs[1:])
    if drop and name in PRODUCTS:
        return [_pick(inputs[:2], equation)]
    if name in CALLS:
        inner = next(value for value in params.values() if isinstance(value, ClosedJaxpr | Jaxpr))
        return _run(inner, inputs, drop, ends)
    outputs = equation.primitive.bind(*inputs, **params)
    return outputs if equation.primitive.multiple_results else [outputs]


def _branch(program: ClosedJaxpr, drop: bool, *values: jax.Array) -> list[jax.Array]:
    return _run(program, values, drop, [])


def _unroll(equation: JaxprEqn, inputs: list[jax.Array], drop: bool, ends: list[jax.Array]) -> list[jax.Array]:
    params, (consts, carried) = equation.params, split_scan(equation)
    length = params["length"]
    rows = inputs[consts + carried :]
    state = [jax.lax.optimization_barrier(value) for value in inputs[consts : consts + carried]]
    outputs: dict[int, list[jax.Array]] = {}
    for trip in range(length)[:: -1 if params["reverse"] else 1]:
        row = [jax.lax.index_in_dim(value, trip, keepdims=False) for value in rows]
        done = _run(params["jaxpr"], [*inputs[:consts], *state, *row], drop, ends)
        state, outputs[trip] = done[:carried], done[carried:]
    ends += state
    return [*state, *(jnp.stack(column) for column in zip(*(outputs[trip] for trip in range(length)), strict=True))]


def _pick(factors: list[jax.Array], equation: JaxprEqn) -> jax.Array:
    """Numbers of both factors, in the shape of their product, by an operation that XLA counts as none."""
    product: object = equation.outvars[0].aval
    assert isinstance(product, Shaped)
    shape, kind = product.shape, equation.params.get("preferred_element_type") or factors[0].dtype
    flat = jnp.concatenate([jnp.ravel(factor).astype(kind) for factor in factors])
    places = np.random.default_rng(0).integers(0, flat.size, (math.prod(shape), 1)).astype(np.int32)
    return jax.lax.gather(flat, places, PICKED, (1,), mode="promise_in_bounds").reshape(shape)


def passes_of(component: Component) -> dict[str, tuple[Callable[..., Tree], tuple[Tree, ...]]]:
    """The forward pass of a component, and with it the gradient by parameters and inputs, as (function, shapes)."""
    given, tree = jax.tree.flatten(arguments(component), is_leaf=callable)
    moved = [place for place, leaf in enumerate(given) if _is_real(leaf)]
    floats = [given[place] for place in moved]

    def forward(params: Tree, floats: Sequence[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        leaves = list(given)
        for place, leaf in zip(moved, floats, strict=True):
            leaves[place] = leaf
        outputs = jax.tree.leaves(component.apply({"params": params}, *tree.unflatten(leaves)))
        return [leaf for leaf in outputs if _is_real(leaf)], [leaf for leaf in outputs if not _is_real(leaf)]

    def both(params: Tree, floats: Sequence[jax.Array], outer: Sequence[jax.Array]) -> Tree:
        outputs, pull, others = jax.vjp(forward, params, floats, has_aux=True)
        return outputs, others, pull(outer)

    params = shapes(component)
    outer = jax.eval_shape(forward, params, floats)[0]
    return {"forward": (forward, (params, floats)), "with the gradient": (both, (params, floats, outer))}


def _is_real(leaf: object) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
