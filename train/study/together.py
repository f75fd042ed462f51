"""Seeds of one structure as one program: the step vmapped over training states, each with the batches of its seed.

The map over seeds runs on one device, or is split over several, each with an equal number of seeds.  Devices exchange
nothing, and losses are those of separate runs up to rounding.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from models.backend.platform import local_devices
from models.contracts import Batch, Tree
from train.contracts import Arrays
from train.engine.prepared import Prepared
from train.engine.step import TrainState, make_evaluation
from train.parallel import Jit
from train.study.costs import measure_memory
from train.study.trial import Part, compute_metrics, pick_batches

AXIS = "seed"  # of the mesh, and the first of every array of the state


@dataclasses.dataclass(frozen=True)
class Way:
    """Seeds of one program, and devices that they are split over; one seed on one device is one run after the other."""

    devices: int = 1
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.seeds % self.devices:
            raise ValueError(f"{self.seeds} seeds cannot be split over {self.devices} devices.")

    def __str__(self) -> str:
        if self.seeds == 1:
            return "one after the other"
        each = self.seeds // self.devices
        if self.devices == 1:
            return f"{each} in one program"
        return f"{each} a device on {self.devices} devices" if each > 1 else f"one a device on {self.devices} devices"


class Together:
    """A structure that is trained from `count` seeds at once, on the first `devices` of this process.

    `count` seeds are filled up to a multiple of the devices by repeats of the last one, which are not measured.  Raises
    ValueError for an experiment whose own parallelism takes several devices.
    """

    def __init__(self, prepared: Prepared, count: int, devices: int = 1) -> None:
        experiment = prepared.experiment
        if not isinstance(experiment.parallel, Jit):
            raise ValueError(f"parallel is {experiment.parallel}, which splits one seed over devices")
        self.prepared, self.count, self.devices = prepared, count, devices
        self.padding = -count % devices
        used = local_devices()[:devices]
        self.split: Sharding = SingleDeviceSharding(used[0])
        self.copied = self.split
        evaluate = make_evaluation(experiment.model, experiment.objective, experiment.precision)
        pure_step = prepared.pure_step
        map_step = jax.vmap(lambda state, batch: pure_step(state, batch))
        map_evaluation = jax.vmap(lambda params, batch: evaluate(params, batch), in_axes=(0, None))
        if devices > 1:
            mesh = jax.make_mesh((devices,), (AXIS,), axis_types=(AxisType.Auto,), devices=used)
            seeds, all_of_it = PartitionSpec(AXIS), PartitionSpec()
            self.split, self.copied = NamedSharding(mesh, seeds), NamedSharding(mesh, all_of_it)
            map_step = _split(map_step, mesh, (seeds, seeds))
            map_evaluation = _split(map_evaluation, mesh, (seeds, all_of_it))
        self.compiled_step = jax.jit(map_step, donate_argnums=0)
        self.compiled_evaluation = jax.jit(map_evaluation)

    def begin(self, seeded: Sequence[Prepared]) -> TrainState:
        """Makes the states before the first step, one after the other, stacked along a new first axis."""
        states = [jax.device_get(each.begin().state) for each in seeded]
        states += states[-1:] * self.padding
        return jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves), self.split), *states)

    def step(self, state: TrainState, batches: Sequence[Arrays]) -> TrainState:
        """Takes a step of every seed, which consumes the states.

        Raises ValueError if batches of the seeds have different shapes.
        """
        return self.compiled_step(state, self._stack(batches))[0]

    def _stack(self, batches: Sequence[Arrays]) -> Batch:
        batches = [*batches, *[batches[-1]] * self.padding]
        stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
        return jax.device_put(stacked, self.split)

    def measure(self, state: TrainState, part: Part, most: int | None = None) -> list[dict[str, float]]:
        """Measures metrics of every seed on a part of the held-out data."""
        results = [
            jax.device_get(self.compiled_evaluation(state.params, jax.device_put(batch, self.copied)))
            for batch in pick_batches(self.prepared, part, most)
        ]
        return [
            compute_metrics([jax.tree.map(lambda leaf, seed=seed: leaf[seed], result) for result in results])
            for seed in range(self.count)
        ]

    def measure_memory(self, state: TrainState, batches: Sequence[Arrays]) -> int | None:
        """Measures the bytes of the compiled step, on all devices, for seeds that are not filled up alone."""
        memory = measure_memory(self.compiled_step, state, self._stack(batches))
        return None if memory is None else memory * self.devices * self.count // (self.count + self.padding)


def _split(
    compute: Callable[..., Tree], mesh: jax.sharding.Mesh, specs: tuple[PartitionSpec, PartitionSpec]
) -> Callable[..., Tree]:
    """Computes each device's share of the seeds on that device alone."""
    return jax.shard_map(compute, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)
