"""Grouped matmuls: every token times the matrices of its own experts."""

import functools
from collections.abc import Callable
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.contracts import Activation

Carry = TypeVar("Carry")
KERNEL = nn.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=(0,))
Kernels = tuple[jax.Array, jax.Array, jax.Array]  # gate and up (e, d, f) and down (e, f, d) of all experts
Buffers = tuple[jax.Array, ...]
Kept = tuple[jax.Array, jax.Array, Kernels, jax.Array, jax.Array, jax.Array]  # what the backward pass reads


def glu_kernels(module: nn.Module, experts: int, d: int, hidden: int) -> Kernels:
    """The parameters gate and up (e, d, f) and down (e, f, d) of `experts` gated units, in a module."""
    gate, up = (module.param(name, KERNEL, (experts, d, hidden)) for name in ("gate", "up"))
    return gate, up, module.param("down", KERNEL, (experts, hidden, d))


def apply_experts(
    tokens: jax.Array,
    weights: jax.Array,
    chosen: jax.Array,
    kernels: Kernels,
    activation: Activation,
    sizes: tuple[int, ...] | None,
) -> jax.Array:
    """sum_k weights_nk GLU_{chosen_nk}(tokens_n): (n, d), (n, k), (n, k) -> (n, d).

    `sizes`: rows a block may have; None for ragged.
    """
    k, numbers = chosen.shape[1], chosen.reshape(-1)
    order, counts = jnp.argsort(numbers), jnp.bincount(numbers, length=len(kernels[0]))
    if sizes is not None:
        return apply_in_blocks(activation, sizes, tokens, weights, kernels, order, counts)
    gate, up, down = (kernel.astype(tokens.dtype) for kernel in kernels)
    rows = tokens[order // k]
    inner = activation(multiply_ragged(rows, gate, counts)) * multiply_ragged(rows, up, counts)
    return sum_choices(multiply_ragged(inner, down, counts), invert(order), weights)


@jax.custom_vjp
def multiply_ragged(rows: jax.Array, kernel: jax.Array, counts: jax.Array) -> jax.Array:
    """Rows sorted by expert, `counts` of each, times their expert's kernel: `jax.lax.ragged_dot`."""
    return jax.lax.ragged_dot(rows, kernel, counts)


@jax.custom_batching.sequential_vmap
def _ragged_back(rows: jax.Array, kernel: jax.Array, counts: jax.Array, outer: jax.Array) -> tuple[jax.Array, ...]:
    """The derivative of `multiply_ragged`, sequential under vmap: jax has no batching rule for it."""
    of_rows = jax.linear_transpose(lambda rows: jax.lax.ragged_dot(rows, kernel, counts), rows)
    of_kernel = jax.linear_transpose(lambda kernel: jax.lax.ragged_dot(rows, kernel, counts), kernel)
    return *of_rows(outer), *of_kernel(outer)


multiply_ragged.defvjp(
    lambda *inputs: (multiply_ragged(*inputs), inputs), lambda inputs, outer: (*_ragged_back(*inputs, outer), None)
)


def sum_choices(rows: jax.Array, places: jax.Array, weights: jax.Array) -> jax.Array:
    """sum_k weights_nk rows[places_nk]: (m, d), (n * k,) and (n, k) -> (n, d)."""
    return (rows[places].reshape(*weights.shape, -1) * weights[..., None]).sum(1).astype(rows.dtype)


def invert(order: jax.Array) -> jax.Array:
    """The inverse permutation: (m,) -> (m,)."""
    return jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=order.dtype), unique_indices=True)


def take_rows(rows: jax.Array, places: jax.Array) -> jax.Array:
    """Rows at these indices, zeros for indices out of range."""
    return rows.at[places].get(mode="fill", fill_value=0)


def slice_rows(rows: jax.Array, begin: jax.Array, size: int) -> jax.Array:
    """`size` rows from `begin` on."""
    return jax.lax.dynamic_slice_in_dim(rows, begin, size)


def join(gate: jax.Array, up: jax.Array) -> jax.Array:
    """The kernels of gate and up side by side, for one product: (d, f) twice -> (d, 2 f)."""
    return jnp.concatenate([gate, up], -1)


def apply_gate(activation: Activation, entered: jax.Array) -> jax.Array:
    """activation(gates) * ups, of both side by side: (..., 2 f) -> (..., f)."""
    gates, ups = jnp.split(entered, 2, -1)
    return activation(gates) * ups


def write_rows(
    buffers: tuple[jax.Array, ...], begin: jax.Array, values: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """Writes values into the rows of the buffers from `begin` on."""
    return tuple(jax.lax.dynamic_update_slice_in_dim(*pair, begin, 0) for pair in zip(buffers, values, strict=True))


def block_sizes(mean: float) -> tuple[int, ...]:
    """Candidate block sizes for experts of `mean` rows each: fractions of min(mean, 512), 1/4 to 3/2, ascending."""
    return tuple(
        sorted({max(1, round(min(mean, 512) * part)) for part in (1 / 4, 1 / 2, 3 / 4, 7 / 8, 1, 9 / 8, 5 / 4, 3 / 2)})
    )


def run_in_blocks(block: Callable[..., Carry], sizes: tuple[int, ...], count: jax.Array, state: Carry) -> Carry:
    """Runs state = block(state, first row, size) over blocks that cover `count` rows.

    All blocks have the size that leaves the fewest rows empty.
    """
    trips = jnp.stack([-(-count // size) for size in sizes])
    choice = len(sizes) - 1 - (trips * jnp.array(sizes))[::-1].argmin()  # the largest on a tie
    for index, size in enumerate(sizes):  # a loop of no trips costs nothing; a branch would copy the state
        state = jax.lax.fori_loop(
            0,
            jnp.where(choice == index, trips[index], 0),
            lambda trip, state, size=size: block(state, trip * size, size),
            state,
        )
    return state


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def apply_in_blocks(
    activation: Activation,
    sizes: tuple[int, ...],
    tokens: jax.Array,
    weights: jax.Array,
    kernels: Kernels,
    order: jax.Array,
    counts: jax.Array,
) -> jax.Array:
    """`apply_experts` one expert at a time, each over its sorted choices in blocks, mostly one: short matmuls are slow.

    order (n * k,): the choices n * k + i, sorted by expert.  counts (e,): choices of each expert.  An expert's last
    block may extend into the rows of the next experts, which overwrite it later.
    """
    return _apply_in_blocks(activation, sizes, tokens, weights, kernels, order, counts)[0]


def _apply_in_blocks(
    activation: Activation,
    sizes: tuple[int, ...],
    tokens: jax.Array,
    weights: jax.Array,
    kernels: Kernels,
    order: jax.Array,
    counts: jax.Array,
) -> tuple[jax.Array, Kept]:
    (n, k), d, f = weights.shape, tokens.shape[-1], kernels[0].shape[-1]
    sources = jnp.pad(order, (0, sizes[-1]), constant_values=n * k)

    def expert(
        buffers: tuple[jax.Array, ...], inputs: tuple[Kernels, jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, ...], None]:
        (gate, up, down), begin, count = inputs
        enter, down = join(gate, up).astype(tokens.dtype), down.astype(tokens.dtype)

        def block(buffers: tuple[jax.Array, ...], first: jax.Array, size: int) -> tuple[jax.Array, ...]:
            entered = take_rows(tokens, slice_rows(sources, begin + first, size) // k) @ enter
            return write_rows(buffers, begin + first, (entered, apply_gate(activation, entered) @ down))

        return run_in_blocks(block, sizes, count, buffers), None

    buffers = tuple(jnp.zeros((n * k + sizes[-1], width), tokens.dtype) for width in (2 * f, d))
    (entered, rows), _ = jax.lax.scan(expert, buffers, (kernels, jnp.cumsum(counts) - counts, counts))
    y = sum_choices(rows, invert(order), weights)
    return y, (tokens, weights, kernels, order, counts, entered)


def _backward_in_blocks(
    activation: Activation, sizes: tuple[int, ...], kept: Kept, outer: jax.Array
) -> tuple[jax.Array | Kernels | None, ...]:
    tokens, weights, kernels, order, counts, entered = kept
    (n, k), flat = weights.shape, weights.reshape(-1)
    sources = jnp.pad(order, (0, sizes[-1]), constant_values=n * k)

    def expert(
        buffers: tuple[jax.Array, ...], inputs: tuple[Kernels, jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, ...], Kernels]:
        (gate, up, down), begin, count = inputs
        both = (join(gate, up), down)
        enter, leave = (kernel.astype(tokens.dtype) for kernel in both)

        def block(state: tuple[Buffers, Buffers], first: jax.Array, size: int) -> tuple[Buffers, Buffers]:
            buffers, totals = state
            source = jnp.where(first + jnp.arange(size) < count, slice_rows(sources, begin + first, size), n * k)
            rows, outers, weight = (
                take_rows(tokens, source // k),
                take_rows(outer, source // k),
                take_rows(flat, source)[:, None],
            )
            hidden, pull = jax.vjp(functools.partial(apply_gate, activation), slice_rows(entered, begin + first, size))
            back = outers @ leave.T
            (of_entered,) = pull((back * weight).astype(hidden.dtype))
            pairs = ((rows, of_entered), ((hidden * weight).astype(hidden.dtype), outers))
            totals = tuple(
                total + jnp.matmul(left.T, right, preferred_element_type=total.dtype)
                for total, (left, right) in zip(totals, pairs, strict=True)
            )
            of_weights = (back * hidden).sum(-1, dtype=weights.dtype)
            return write_rows(buffers, begin + first, (of_entered @ enter.T, of_weights)), totals

        buffers, (of_enter, of_down) = run_in_blocks(block, sizes, count, (buffers, jax.tree.map(jnp.zeros_like, both)))
        of_gate, of_up = jnp.split(of_enter, 2, -1)
        return buffers, (of_gate, of_up, of_down)

    buffers = (
        jnp.zeros((n * k + sizes[-1], tokens.shape[-1]), tokens.dtype),
        jnp.zeros(n * k + sizes[-1], weights.dtype),
    )
    (of_rows, of_weights), totals = jax.lax.scan(expert, buffers, (kernels, jnp.cumsum(counts) - counts, counts))
    indices = invert(order)
    of_tokens = sum_choices(of_rows, indices, jnp.ones_like(weights))
    return of_tokens, of_weights[indices].reshape(weights.shape), totals, None, None


apply_in_blocks.defvjp(_apply_in_blocks, _backward_in_blocks)
