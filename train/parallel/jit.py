"""One device, by jit."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from models.backend.platform import devices
from models.contracts import Tree


@dataclasses.dataclass(frozen=True)
class Jit:
    """One device."""

    def size(self) -> int:
        """Rows of a batch come in multiples of this."""
        return 1

    def start(self, make: Callable[[], Tree]) -> Tree:
        """The result of `make`, placed."""
        return jax.jit(make)()

    def compile_step(self, step: Callable[..., Tree]) -> Callable[..., Tree]:
        """(state, batch) -> (state, sums); the old state's memory is given to the new one."""
        return jax.jit(lambda state, batch: step(state, batch), donate_argnums=0)

    def compile_evaluation(self, evaluate: Callable[..., Tree]) -> Callable[..., Tree]:
        """(params, batch) -> result."""
        return jax.jit(lambda params, batch: evaluate(params, batch))

    def compile_outputs(self, outputs: Callable[..., Tree]) -> Callable[..., Tree]:
        """(params, batch) -> outputs, a row for each of the batch."""
        return self.compile_evaluation(outputs)

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A host batch on the devices."""
        return {name: jax.device_put(value) for name, value in batch.items()}

    def whole(self, tree: Tree) -> Tree:
        """A placed tree as one logical copy, to save."""
        return tree

    def spread(self, tree: Tree, consume: bool = False) -> Tree:
        """One logical copy, placed; the inverse of `whole`.  `consume` lets it delete the arrays that it is given."""
        return tree

    def logical(self, tree: Tree) -> Tree:
        """The shapes of one logical copy, placed where a checkpoint is read into, for `spread` to take on."""
        return placed(tree, SingleDeviceSharding(devices()[0]))

    def abstract(self, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        """The shapes of a state and a batch, placed: what the compiled step takes."""
        return placed((state, batch), SingleDeviceSharding(devices()[0]))


def placed(tree: Tree, sharding: Sharding) -> Tree:
    """The shapes and types of a tree's leaves, with a sharding."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
