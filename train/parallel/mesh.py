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
from train.parallel.jit import placed

SMALL = 4096  # numbers of a parameter that every device may keep: less memory would cost a gathering more
# Path pattern -> mesh axis of each of the last dimensions; the first pattern that is found in a path decides.
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
    """A mesh of `data` x `fsdp` devices: batches are split over both, parameters and their optimizer state over fsdp by
    `rules`.

    data = 0 takes all devices that fsdp leaves.  What no rule names, and what a rule would split along a dimension that
    fsdp does not divide, is split along the longer of its last two dimensions that it divides, or an earlier one; less
    than `SMALL` numbers, vectors and what a rule gives no axis to stay whole.  Repeats of a scanned stack are never
    split.
    """

    data: int = 0
    fsdp: int = 1
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = RULES

    def mesh(self) -> jax.sharding.Mesh:
        """The device mesh.  Raises ValueError where the machine has too few devices."""
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
        """Rows of a batch come in multiples of this."""
        return self.mesh().size

    def shardings(self, tree: Tree) -> Tree:
        """The sharding of every leaf of a state, by the rules."""
        mesh = self.mesh()
        # of one pattern given twice the first
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
                last = sorted(range(len(shape) - 2, len(shape)), key=lambda place: -shape[place])
                earlier = range(len(shape) - 3, first - 1, -1)
                divided = (place for place in (*last, *earlier) if shape[place] % self.fsdp == 0)
                fitting = [
                    "fsdp" if place == found else None for found in (next(divided, -1),) for place in range(len(shape))
                ]
            return NamedSharding(mesh, PartitionSpec(*fitting))

        return map_paths(shard, tree)

    def start(self, make: Callable[[], Tree]) -> Tree:
        """The result of `make`, born sharded."""
        return jax.jit(make, out_shardings=self.shardings(jax.eval_shape(make)))()

    def compile_step(self, step: Callable[..., Tree]) -> Callable[..., Tree]:
        """(state, batch) -> (state, sums) on the mesh; the state keeps its sharding."""

        def pinned(state: Tree, batch: Tree) -> Tree:
            state, sums = self._within(step)(state, batch)
            return jax.lax.with_sharding_constraint(state, self.shardings(state)), self._replicated(sums)

        return jax.jit(pinned, donate_argnums=0)

    def compile_evaluation(self, evaluate: Callable[..., Tree]) -> Callable[..., Tree]:
        """(params, batch) -> result on the mesh."""
        return jax.jit(lambda params, batch: self._replicated(self._within(evaluate)(params, batch)))

    def compile_outputs(self, outputs: Callable[..., Tree]) -> Callable[..., Tree]:
        """(params, batch) -> outputs, a row for each of the batch."""
        return self.compile_evaluation(outputs)

    def _within(self, compute: Callable[..., Tree]) -> Callable[..., Tree]:
        """The function, traced in the context of the mesh: kernels, which are not split by the compiler, split
        themselves by it.
        """

        def traced(*args: Tree) -> Tree:
            with jax.sharding.use_abstract_mesh(self.mesh().abstract_mesh):
                return compute(*args)

        return traced

    def _replicated(self, tree: Tree) -> Tree:
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
        return self.logical(state), placed(batch, NamedSharding(self.mesh(), PartitionSpec(("data", "fsdp"))))
