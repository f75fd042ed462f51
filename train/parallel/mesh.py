"""A mesh of data and fsdp axes, by jit with shardings."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from models.backend.platform import devices
from models.contracts import Tree
from models.paths import count_stacked, map_paths, select
from train.parallel.jit import place

SMALL = 4096  # parameters of fewer scalars are replicated: a split saves little memory and costs an all-gather
# Path pattern -> mesh axis of each of the last dimensions; the first pattern that matches a path decides.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(up|gate|query|key|value)/kernel$", ("fsdp", None)),
    (r"(down|out)/kernel$", (None, "fsdp")),
    (r"(gate|up)$", ("fsdp", None)),  # of experts, whose first dimension is scanned or grouped
    (r"down$", (None, "fsdp")),
    (r"(token|table)$", ("fsdp", None)),
    (r"kernel$", ("fsdp", None)),
)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """A mesh of `data` x `fsdp` devices: batches are split over both, parameters and optimizer state over fsdp.

    data = 0 takes all devices that fsdp leaves.  `rules` name the dimension to split.  A parameter that no rule names,
    or whose dimension fsdp does not divide, is split along the longer of its last two dimensions that fsdp divides,
    or an earlier one.  Parameters of less than `SMALL` scalars, vectors, and those that a rule gives no axis are
    replicated.  Repeats of a scanned stack are never split.
    """

    data: int = 0
    fsdp: int = 1
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = RULES

    def mesh(self) -> jax.sharding.Mesh:
        """The device mesh.  Raises ValueError if the machine has too few devices."""
        have = len(devices())
        data = self.data or have // max(self.fsdp, 1)
        if data < 1 or self.fsdp < 1 or data * self.fsdp > have:
            raise ValueError(
                f"Mesh(data={self.data}, fsdp={self.fsdp}) does not fit on {have} devices; lower parallel.data or"
                " parallel.fsdp."
            )
        used = devices()[: data * self.fsdp]
        return jax.make_mesh((data, self.fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=used)

    def size(self) -> int:
        """The multiple that rows of a batch come in."""
        return self.mesh().size

    def shardings(self, tree: Tree) -> Tree:
        """The sharding of every leaf of a state, by the rules."""
        mesh = self.mesh()
        # if a pattern comes twice, its first rule holds
        rules: dict[str | None, tuple[str | None, ...]] = dict(reversed(self.rules))
        ruled = select(tuple(pattern for pattern, _ in self.rules))

        def shard(path: str, leaf: Tree) -> NamedSharding:
            first, shape = count_stacked(path), leaf.shape
            named = rules.get(ruled(path))
            axes = () if named is None else named[max(len(named) - len(shape[first:]), 0) :]
            fitting: list[str | None] = [None] * (len(shape) - len(axes))
            fitting += [
                axis if axis and size % mesh.shape[axis] == 0 else None
                for axis, size in zip(axes, shape[len(fitting) :], strict=True)
            ]
            silent = named is not None and not any(named)
            if not silent and not any(fitting) and len(shape) - first > 1 and math.prod(shape[first:]) >= SMALL:
                last = sorted(range(len(shape) - 2, len(shape)), key=lambda axis: -shape[axis])
                earlier = range(len(shape) - 3, first - 1, -1)
                divided = next((axis for axis in (*last, *earlier) if shape[axis] % self.fsdp == 0), None)
                fitting = ["fsdp" if axis == divided else None for axis in range(len(shape))]
            return NamedSharding(mesh, PartitionSpec(*fitting))

        return map_paths(shard, tree)

    def start(self, make: Callable[[], Tree]) -> Tree:
        """The result of `make`, sharded from the start."""
        return jax.jit(make, out_shardings=self.shardings(jax.eval_shape(make)))()

    def compile_step(self, step: Callable[..., Tree]) -> Callable[..., Tree]:
        """(state, batch) -> (state, sums) on the mesh; the state keeps its sharding."""

        def constrained_step(state: Tree, batch: Tree) -> Tree:
            state, sums = self._trace_within(step)(state, batch)
            return jax.lax.with_sharding_constraint(state, self.shardings(state)), self._replicate(sums)

        return jax.jit(constrained_step, donate_argnums=0)

    def compile_evaluation(self, evaluate: Callable[..., Tree]) -> Callable[..., Tree]:
        """(params, batch) -> result on the mesh."""
        return jax.jit(lambda params, batch: self._replicate(self._trace_within(evaluate)(params, batch)))

    def compile_outputs(self, outputs: Callable[..., Tree]) -> Callable[..., Tree]:
        """(params, batch) -> outputs, a row for each row of the batch."""
        return self.compile_evaluation(outputs)

    def _trace_within(self, compute: Callable[..., Tree]) -> Callable[..., Tree]:
        """Traces a function in the context of the mesh, by which kernels split themselves as the compiler cannot."""

        def compute_within(*args: Tree) -> Tree:
            with jax.sharding.use_abstract_mesh(self.mesh().abstract_mesh):
                return compute(*args)

        return compute_within

    def _replicate(self, tree: Tree) -> Tree:
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh(), PartitionSpec()))

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A host batch, split over all devices along its rows."""
        sharding = NamedSharding(self.mesh(), PartitionSpec(("data", "fsdp")))
        return {name: jax.device_put(value, sharding) for name, value in batch.items()}

    def whole(self, tree: Tree) -> Tree:
        """The sharded tree itself: one logical copy."""
        return tree

    def spread(self, tree: Tree, consume: bool = False) -> Tree:
        """One logical copy, placed by the rules."""
        return jax.device_put(tree, self.shardings(tree))

    def logical(self, tree: Tree) -> Tree:
        """The shapes of a tree, placed by the rules."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            self.shardings(tree),
        )

    def abstract(self, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        """The shapes of a state and a batch, placed by the rules and by rows."""
        return self.logical(state), place(batch, NamedSharding(self.mesh(), PartitionSpec(("data", "fsdp"))))
