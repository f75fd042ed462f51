"""Norms of the gradients of single examples without those gradients, which would take the memory of all parameters.

A kernel that one product y = x W alone reads has the gradient sum_t x_t g_t^T, g the gradient of y, whose squared norm
is sum_ts (x_t . x_s) (g_t . g_s): "ghost norms", arXiv:2009.03106, for sequences arXiv:2110.05679.  Of the rows of a
table that are looked up it is the sum of g_t . g_s over equal rows.  A program is read operation by operation, so that
this holds for any structure; the gradients of other parameters are computed.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from models.contracts import Batch, Tree
from models.products import get_dtype, get_shape, open_program
from train.contracts import Params

CALLS = ("jit", "pjit", "closed_call", "remat", "remat2", "checkpoint")  # primitives that run a program once
VIEWS = ("copy", "copy_p", "convert_element_type")  # whose output may be the parameter itself
Loss = Callable[..., tuple[jax.Array, Tree]]
Owners = Sequence[int | None]  # the parameter that each value is, by its number


@dataclasses.dataclass(frozen=True, eq=False)
class Ghosts:
    """A loss of one row, traced, and how the norm of its gradient is computed.

    `numbers` are the parameters whose norm needs no gradient, `direct` those whose gradient is computed; the others are
    frozen, and count as zero.
    """

    program: ClosedJaxpr
    outputs: Tree
    numbers: frozenset[int]
    direct: frozenset[int]

    def compute_norm(self, params: Params, row: Batch, rng: jax.Array) -> tuple[tuple[jax.Array, Tree], jax.Array]:
        """(params, row, rng) -> the loss with what comes with it, and the squared norm of the gradient."""
        leaves, rest = jax.tree.leaves(params), jax.tree.leaves((row, rng))

        def run(direct: Mapping[int, jax.Array], taps: Mapping[int, jax.Array]) -> tuple[jax.Array, Tree]:
            inputs = [direct.get(number, leaf) for number, leaf in enumerate(leaves)]
            owners: Owners = [*range(len(leaves)), *[None] * len(rest)]
            flat, _ = _run(self.program.jaxpr, self.program.consts, [*inputs, *rest], owners, taps)
            outputs = jax.tree.unflatten(jax.tree.structure(self.outputs), flat)
            return outputs[0], outputs

        inputs = {number: leaves[number] for number in self.direct}, dict.fromkeys(self.numbers, jnp.zeros(()))
        (grads, squares), outputs = jax.grad(run, (0, 1), has_aux=True)(*inputs)
        whole = sum((jnp.square(grad).sum() for grad in grads.values()), jnp.zeros(()))
        return outputs, whole + sum(squares.values(), jnp.zeros(()))

    def count_direct(self, params: Params) -> int:
        """Counts the numbers in a gradient that is computed for each row."""
        return sum(leaf.size for number, leaf in enumerate(jax.tree.leaves(params)) if number in self.direct)


def find_ghosts(loss: Loss, params: Params, row: Batch, rng: jax.Array, frozen: Sequence[bool] | None = None) -> Ghosts:
    """Traces a loss of one row and finds the parameters that one product, or one look-up, alone reads, in float32.

    `frozen` tells for each parameter if its gradient counts as zero.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, row, rng))
    program, outputs = jax.make_jaxpr(loss, return_shape=True)(*shapes)
    count, uses = len(jax.tree.leaves(params)), collections.Counter[int]()
    owners: Owners = [*range(count), *[None] * (len(program.jaxpr.invars) - count)]
    for number in _count_uses(program.jaxpr, owners, uses):
        if number is not None:
            uses[number] += 2
    free = frozenset(number for number in range(count) if frozen is None or not frozen[number])
    ghosts = frozenset(number for number in free if uses[number] == 1)
    return Ghosts(program, outputs, ghosts, free - ghosts)


def _count_uses(jaxpr: Jaxpr, owners: Owners, uses: "collections.Counter[int]") -> Owners:
    """Counts the uses of parameters, those that are neither a product nor a look-up twice; gives owners of outputs."""
    known = dict(zip(jaxpr.invars, owners, strict=True))
    for equation in jaxpr.eqns:
        mine = [None if isinstance(variable, Literal) else known.get(variable) for variable in equation.invars]
        numbers = [number for number in mine if number is not None]
        if not numbers:
            continue
        if equation.primitive.name in CALLS:
            known.update(zip(equation.outvars, _count_uses(_open(equation), mine, uses), strict=True))
        elif _is_view(equation):
            known[equation.outvars[0]] = numbers[0]
        else:
            simple = len(numbers) == 1 and (_is_product(equation) or _is_lookup(equation, mine))
            for number in numbers:
                uses[number] += 1 if simple else 2
    return [None if isinstance(variable, Literal) else known.get(variable) for variable in jaxpr.outvars]


def _open(equation: JaxprEqn) -> Jaxpr:
    return open_program(equation.params["jaxpr"])


def _is_view(equation: JaxprEqn) -> bool:
    return equation.primitive.name in VIEWS and get_dtype(equation.invars[0]) == get_dtype(equation.outvars[0])


def _is_product(equation: JaxprEqn) -> bool:
    """Tells if an operation is a product of two float32 arrays without common axes that stay."""
    return (
        equation.primitive.name == "dot_general"
        and not any(equation.params["dimension_numbers"][1])
        and all(get_dtype(variable) == jnp.float32 for variable in equation.invars)
    )


def _is_lookup(equation: JaxprEqn, owners: Owners) -> bool:
    """Tells if an operation looks whole rows up, along the first axis of a parameter in float32."""
    if equation.primitive.name != "gather" or owners[0] is None:
        return False
    numbers, shape = equation.params["dimension_numbers"], get_shape(equation.invars[0])
    ends = tuple(range(len(get_shape(equation.outvars[0]))))[1 - len(shape) :]
    return (
        (numbers.collapsed_slice_dims, numbers.start_index_map) == ((0,), (0,))
        and not numbers.operand_batching_dims
        and tuple(equation.params["slice_sizes"]) == (1, *shape[1:])
        and tuple(numbers.offset_dims) == ends
        and get_dtype(equation.invars[0]) == jnp.float32
    )


def _run(
    jaxpr: Jaxpr,
    constants: Sequence[jax.Array],
    inputs: Sequence[jax.Array],
    owners: Owners,
    taps: Mapping[int, jax.Array],
) -> tuple[list[jax.Array], Owners]:
    """Runs a program; the gradient of a tap is the squared norm of its parameter's.  Gives owners of outputs too."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))
    owned = {variable: number for variable, number in zip(jaxpr.invars, owners, strict=True) if number in taps}

    def read(variable: Var | Literal) -> jax.Array:
        return variable.val if isinstance(variable, Literal) else known[variable]

    def find_owner(variable: Var | Literal) -> int | None:
        return None if isinstance(variable, Literal) else owned.get(variable)

    for equation in jaxpr.eqns:
        values, mine = [read(variable) for variable in equation.invars], [*map(find_owner, equation.invars)]
        numbers: Owners = [None] * len(equation.outvars)
        apply = functools.partial(_apply, jaxpr, equation)
        place = next((index for index, number in enumerate(mine) if number is not None), None)
        if place is None or (number := mine[place]) is None:
            outputs = apply(*values)
        elif equation.primitive.name in CALLS:
            inner = equation.params["jaxpr"]
            closed = inner.consts if isinstance(inner, ClosedJaxpr) else ()
            outputs, numbers = _run(_open(equation), closed, values, mine, taps)
        elif _is_view(equation):
            outputs, numbers = apply(*values), [number]
        elif equation.primitive.name == "gather":
            outputs = [_look_up(apply, values[0], values[1], taps[number])]
        else:
            summed = equation.params["dimension_numbers"][0][1 - place]
            outputs = [_multiply(apply, values, place, summed, taps[number])]
        known |= zip(equation.outvars, outputs, strict=True)
        owned |= {
            variable: number for variable, number in zip(equation.outvars, numbers, strict=True) if number in taps
        }
    return [*map(read, jaxpr.outvars)], [*map(find_owner, jaxpr.outvars)]


def _apply(jaxpr: Jaxpr, equation: JaxprEqn, *values: jax.Array) -> list[jax.Array]:
    """Applies one operation of a program."""
    inputs = {
        variable: value
        for variable, value in zip(equation.invars, values, strict=True)
        if not isinstance(variable, Literal)
    }
    alone = jaxpr.replace(constvars=[], invars=[*inputs], outvars=[*equation.outvars], eqns=[equation])
    return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*inputs.values())


def _multiply(
    apply: Callable[..., list[jax.Array]],
    values: Sequence[jax.Array],
    place: int,
    summed: Sequence[int],
    tap: jax.Array,
) -> jax.Array:
    """A product with the kernel at `place`, which the tap follows; it sums over these axes of the other factor."""

    def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return apply(kernel, x)[0] if place == 0 else apply(x, kernel)[0]

    @jax.custom_vjp
    def product(x: jax.Array, kernel: jax.Array, tap: jax.Array) -> jax.Array:
        del tap
        return multiply(x, kernel)

    def forward(x: jax.Array, kernel: jax.Array, tap: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return product(x, kernel, tap), (x, kernel)

    def backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, kernel = saved
        n = math.prod(x.shape[axis] for axis in summed)
        rows = jnp.moveaxis(x, summed, range(x.ndim - len(summed), x.ndim)).reshape(-1, n)
        others = g.reshape(len(rows), -1) if place else g.reshape(-1, len(rows)).T
        (back,) = jax.vjp(lambda x: multiply(x, kernel), x)[1](g)
        return back, jnp.zeros_like(kernel), _sum_squares(rows, others)

    product.defvjp(forward, backward)
    return product(values[1 - place], values[place], tap)


def _sum_squares(x: jax.Array, g: jax.Array) -> jax.Array:
    """|x^T g|^2 of x (t, n) and g (t, m), by way of (t, t) or of (n, m), whichever takes fewer operations."""
    (t, n), m, exact = x.shape, g.shape[1], jax.lax.Precision.HIGHEST
    if t * (n + m) > n * m:
        return jnp.square(jnp.matmul(x.T, g, precision=exact)).sum()
    both = jnp.matmul(x, x.T, precision=exact) * jnp.matmul(g, g.T, precision=exact)
    return _round_up(both.sum(), jnp.linalg.norm(x, axis=1) * jnp.linalg.norm(g, axis=1))


def _round_up(square: jax.Array, lengths: jax.Array) -> jax.Array:
    """The square of the length of a sum of vectors of these lengths, which rounding leaves no smaller than it is."""
    return jnp.maximum(square, 0.0) + 4 * jnp.finfo(jnp.float32).eps * jnp.square(lengths.sum())


def _look_up(apply: Callable[..., list[jax.Array]], table: jax.Array, indices: jax.Array, tap: jax.Array) -> jax.Array:
    """Rows of a table, which the tap follows."""

    @jax.custom_vjp
    def look_up(table: jax.Array, tap: jax.Array) -> jax.Array:
        del tap
        return apply(table, indices)[0]

    def forward(table: jax.Array, tap: jax.Array) -> tuple[jax.Array, jax.Array]:
        return look_up(table, tap), table

    def backward(table: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = jnp.clip(indices.reshape(-1), 0, len(table) - 1)
        flat = g.reshape(len(rows), -1)
        products = jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)
        total = jnp.where(rows[:, None] == rows, products, 0.0).sum()
        return jnp.zeros_like(table), _round_up(total, jnp.linalg.norm(flat, axis=1))

    look_up.defvjp(forward, backward)
    return look_up(table, tap)
