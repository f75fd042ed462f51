"""All local devices, by pmap."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from models.backend.platform import local_devices
from models.contracts import Tree
from train.parallel.jit import place

AXIS = "devices"


@dataclasses.dataclass(frozen=True)
class Pmap:
    """Every local device runs the step on its share of the batch, parameters replicated, gradients summed."""

    def size(self) -> int:
        """The multiple that rows of a batch come in."""
        return len(local_devices())

    def start(self, make: Callable[[], Tree]) -> Tree:
        """The result of `make`, on every device."""
        return self.spread(jax.jit(make)())

    def compile_step(self, step: Callable[..., Tree]) -> Callable[..., Tree]:
        """(state, batch) -> (state, sums) on every device; the sums are over all devices and returned once."""
        return jax.pmap(
            lambda state, batch: step(state, batch, AXIS),
            AXIS,
            out_axes=(0, None),
            donate_argnums=0,
            devices=local_devices(),
        )

    def compile_evaluation(self, evaluate: Callable[..., Tree]) -> Callable[..., Tree]:
        """(params, batch) -> result over the devices of the step."""
        return jax.pmap(
            lambda params, batch: evaluate(params, batch, AXIS), AXIS, out_axes=None, devices=local_devices()
        )

    def compile_outputs(self, outputs: Callable[..., Tree]) -> Callable[..., Tree]:
        """(params, batch) -> outputs, a row for each row of the batch."""
        compiled = jax.pmap(lambda params, batch: outputs(params, batch), AXIS, devices=local_devices())
        return lambda params, batch: jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), compiled(params, batch)
        )

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A host batch, split over the devices along its rows."""
        count = self.size()
        sharding = NamedSharding(_make_mesh(), PartitionSpec(AXIS))
        return {
            name: jax.device_put(value.reshape(count, -1, *value.shape[1:]), sharding) for name, value in batch.items()
        }

    def whole(self, tree: Tree) -> Tree:
        """The copy of one device, on that device alone."""
        return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data.reshape(leaf.shape[1:]), tree)

    def spread(self, tree: Tree, consume: bool = False) -> Tree:
        """A copy on every device, along a new first axis.  With `consume` each array is deleted once it is copied."""
        sharding = NamedSharding(_make_mesh(), PartitionSpec(AXIS))
        count = self.size()

        def copy(leaf: jax.Array | np.ndarray) -> jax.Array:
            copies = jax.device_put(np.broadcast_to(np.asarray(leaf), (count, *leaf.shape)), sharding)
            if consume and isinstance(leaf, jax.Array):
                leaf.delete()
            return copies

        return jax.tree.map(copy, tree)

    def logical(self, tree: Tree) -> Tree:
        """The shapes of one logical copy on the first device."""
        return place(tree, SingleDeviceSharding(local_devices()[0]))

    def abstract(self, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        """The shapes of a state and a batch, placed."""
        count, sharding = self.size(), NamedSharding(_make_mesh(), PartitionSpec(AXIS))
        copies = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), state)
        shares = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, leaf.shape[0] // count, *leaf.shape[1:]), leaf.dtype), batch
        )
        return place((copies, shares), sharding)


def _make_mesh() -> jax.sharding.Mesh:
    devices = local_devices()
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
