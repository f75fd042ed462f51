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
        """The multiple that rows of a batch come in."""
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
        """(params, batch) -> outputs, a row for each row of the batch."""
        return self.compile_evaluation(outputs)

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A host batch on the devices."""
        return {name: jax.device_put(value) for name, value in batch.items()}

    def whole(self, tree: Tree) -> Tree:
        """A placed tree as one logical copy, to save."""
        return tree

    def spread(self, tree: Tree, consume: bool = False) -> Tree:
        """Places one logical copy; the inverse of `whole`.  `consume` lets it delete its input arrays."""
        return tree

    def logical(self, tree: Tree) -> Tree:
        """The shapes of one logical copy, with the placement that a checkpoint is read into before `spread`."""
        return place(tree, SingleDeviceSharding(devices()[0]))

    def abstract(self, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        """The shapes of a state and a batch, placed as the arguments of the compiled step."""
        return place((state, batch), SingleDeviceSharding(devices()[0]))


def place(tree: Tree, sharding: Sharding) -> Tree:
    """Places the shapes and dtypes of a tree's leaves with a sharding."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
