"""Laws of rows on several devices, one part after the other, and of widths."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from models.context import Context
from models.contracts import Tree
from models.laws.carrier import apply_to, parameters_of
from models.laws.inputs import WIDTH, Component, normal
from models.laws.layer import SHORT, several_examples
from models.laws.verdict import NotTestedError, require_equal_trees

DEVICES = 8


def sum_rows(layer: Component) -> Callable[[Tree, jax.Array, jax.Array], jax.Array]:
    """(params, x of some rows, weights) -> the sum over rows of a projection of the output."""
    rows = several_examples(SHORT)

    def total(params: Tree, x: jax.Array, weights: jax.Array) -> jax.Array:
        positions, segments = (jnp.broadcast_to(jnp.asarray(row), x.shape[:2]) for row in rows[:2])
        return jnp.vdot(weights, apply_to(layer, x, Context(positions=positions, segments=segments), params))

    return total


@functools.lru_cache(maxsize=8)
def whole_gradient(layer: Component) -> Tree:
    """The gradient over eight rows in one program."""
    return jax.jit(jax.grad(sum_rows(layer)))(parameters_of(layer), *inputs())


def inputs() -> tuple[jax.Array, jax.Array]:
    """Eight rows, and the weights of their outputs."""
    return normal(1, DEVICES, SHORT, WIDTH), normal(2, DEVICES, SHORT, WIDTH)


def law_gradients_of_parts_add_up(layer: Component) -> None:
    """The gradient over a batch is the sum of those over its parts, one after the other or each on a device (pmap)."""
    x, weights = inputs()
    expected, part = whole_gradient(layer), jax.jit(jax.grad(sum_rows(layer)))
    total = jax.tree.map(jnp.zeros_like, expected)
    for first in range(0, DEVICES, 2):
        total = jax.tree.map(
            jnp.add, total, part(parameters_of(layer), x[first : first + 2], weights[first : first + 2])
        )
    require_equal_trees(total, expected, 2e-4, "the sum over parts of two rows of the gradient of")


def law_gradients_on_a_mesh_are_those_on_one_device(layer: Component) -> None:
    """The gradient is the same with the rows spread over a mesh of eight devices."""
    if jax.device_count() < DEVICES:
        raise NotTestedError(
            f"this process has {jax.device_count()} devices; `morphax check` emulates {DEVICES} on a CPU"
        )
    devices = np.array(jax.devices()[:DEVICES])
    mesh = jax.sharding.Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(inputs(), NamedSharding(mesh, PartitionSpec("data")))
    params = jax.device_put(parameters_of(layer), NamedSharding(mesh, PartitionSpec()))
    gradients = jax.jit(jax.grad(sum_rows(layer)))(params, *spread)
    require_equal_trees(jax.device_get(gradients), whole_gradient(layer), 2e-4, "over eight devices, the gradient of")
