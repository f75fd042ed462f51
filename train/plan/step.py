"""What a training step, or one step of decoding, will need on a TPU: compiled for it by its own compiler, run by
nobody.
"""

import dataclasses
import functools
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from models.backend.platform import compile_for
from models.decoding.decodable import require_decodable
from models.decoding.sampling import Sampler, advance, prefill
from train.cost.chips import CHIPS, chip
from train.cost.compiled import collectives, kernels, moved, operations
from train.cost.hlo import Program
from train.cost.traced import flops, parameters
from train.cost.traced import kernels as kernel_flops
from train.engine.prepared import prepare
from train.engine.requirements import settle
from train.errors import InputError
from train.experiment import Experiment
from train.parallel import Jit
from train.plan.topology import topology
from train.precision import cast

EXCEEDED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) (hbm|HBM)")
TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiler says of one program on one topology; bytes, operations and seconds are those of one device.

    `flops` counts every product that runs, recomputation and kernels among them (`kernel_flops`), but none of the
    kernels that are `uncounted`: that the compiled program has and the traced one has not; `model_flops` three times
    those of the forward pass, once for decoding, with causal attention counted where it sees: the work that the model
    itself asks for.  `host` is what is kept in the host's memory (remat "offload"); the time of its way there is not
    known. `seconds` is the longest of: operations over the chip's rate, bytes over its memory's, communication over its
    links' (the roofline), and the compiler's estimate of cycles over the clock, kernels added at the chip's full rate.
    `ceiling` is the part of the chip's operations a second that the model's own work can reach at most in that time
    (MFU, arXiv:2204.02311).
    """

    name: str
    topology: str
    devices: int
    parameters: int
    rows: int
    tokens: int
    model_flops: float
    peak: float
    available: float
    compile_seconds: float
    fits: bool = True
    flops: float = 0.0
    kernel_flops: float = 0.0
    arguments: float = 0.0
    temporaries: float = 0.0
    host: float = 0.0
    moved: float = 0.0
    collectives: Mapping[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
    kernels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    cycles: int = 0
    roofline: float = 0.0
    bound: str = ""
    seconds: float = 0.0
    ceiling: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of all devices together; of rows where what is read has no tokens."""
        return (self.tokens or self.rows) / self.seconds if self.seconds else 0.0


def planned(experiment: Experiment, name: str, where: str, decode: bool = False) -> Plan:
    """The plan of an experiment's step on a topology such as `v5e:1x1`.  Raises what `prepared` does."""
    return prepared(experiment, name, where, decode)()


def prepared(experiment: Experiment, name: str, where: str, decode: bool = False) -> Callable[[], Plan]:
    """What compiles an experiment's step and gives its plan, traced and checked.

    Shapes are those of the first training batch; parameters stay abstract.  A step that does not fit has no more than
    its parameters, its model's work and the memory that it asks for.  Raises InputError where the experiment cannot be
    compiled there.
    """
    devices = topology(where)
    if decode and experiment.parallel != Jit():
        raise InputError(
            f"--decode plans one device, and parallel is {type(experiment.parallel).__name__}; add parallel=Jit()."
        )
    with compile_for(devices):
        data = experiment.data.open(only="train")
        experiment, _ = settle(experiment, data)
        ready = prepare(experiment, data)
        used, shapes, example = experiment.parallel.size(), ready.shapes, ready.batch
        program: Any
        if decode:
            program, given = _decoding(experiment, shapes, example)
            work = flops(program, *given)
        else:
            program, given = ready.step, experiment.parallel.abstract(ready.state, example)
            work = ready.model_work
        tokens = example["tokens"].shape if "tokens" in example else (0, 0)
        plan = Plan(
            name=name,
            topology=where,
            devices=used,
            parameters=parameters(shapes),
            rows=next(iter(example.values())).shape[0],
            tokens=tokens[0] if decode else tokens[0] * tokens[1],
            model_flops=work / used,
            peak=0.0,
            available=0.0,
            compile_seconds=0.0,
        )

    def compiled() -> Plan:
        with compile_for(devices):
            return measured(plan, program, given, devices[0])

    return compiled


def _decoding(experiment: Experiment, shapes: Any, example: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    """The program that adds a token to every row, and what it takes, placed."""
    if "tokens" not in example:
        raise InputError(
            "--decode plans the next token of a language model or a translation, and this experiment's data has no"
            " tokens."
        )
    length = example["tokens"].shape[1]
    params = jax.eval_shape(lambda tree: cast(tree, experiment.precision), shapes)
    own, read = (
        ("tokens", "segments", "positions"),
        {name: shape for name, shape in example.items() if name.startswith(("source", "image"))},
    )
    first = read | {
        name: jax.ShapeDtypeStruct((example[name].shape[0], 1), jnp.int32) for name in own if name in example
    }
    try:
        require_decodable(experiment.model, first, length)
        _, cache = jax.eval_shape(lambda params, batch: prefill(experiment.model, params, batch, length), params, first)
    except (ValueError, TypeError) as error:
        raise InputError(f"This model cannot decode: {str(error).splitlines()[0]}") from None

    def step(params: Any, cache: Any, batch: Any, index: jax.Array) -> tuple[jax.Array, Any]:
        logits, cache = advance(experiment.model, params, cache, batch, index, length)
        return Sampler()(logits, jax.random.key(0)), cache

    given, _ = experiment.parallel.abstract((params, cache, first, jax.ShapeDtypeStruct((), jnp.int32)), {})
    return jax.jit(step, donate_argnums=1), given


def measured(plan: Plan, program: Any, given: tuple[Any, ...], device: Any) -> Plan:
    """The plan with what the compiler says of a jitted program on a device, or several of its kind.

    Raises InputError where it refuses the program for anything else than too little memory (HBM).
    """
    own = chip(device.device_kind)
    if own is None:
        raise InputError(
            f"{device.device_kind!r} is no chip whose speed is known here; plan for one of {', '.join(CHIPS)}."
        )
    began = time.perf_counter()
    try:
        compiled = program.lower(*given).compile()
    except Exception as error:  # jax raises a private type
        if (exceeded := _exceeded(error)) is None:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
            raise InputError(
                f"{plan.name} cannot be compiled for {plan.topology}: {said}; change what it names, or the chip."
            ) from None
        used, have, temporaries = exceeded
        if temporaries:
            used += sum(
                math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
                for leaf in jax.tree.leaves(given)
            )
        return dataclasses.replace(
            plan, fits=False, peak=used, available=have, compile_seconds=time.perf_counter() - began
        )
    taken, memory = time.perf_counter() - began, compiled.memory_analysis()
    text = Program(compiled.as_text())
    run, calls = kernels(text), kernel_flops(program, *given)  # as it is compiled: on a mesh, of a device's share
    inside = sum(times * calls.get(call, 0.0) for (_, call), times in run.items())
    named = {name: sum(times for (own, _), times in run.items() if own == name) for name, _ in run}
    total, bytes_moved, sent = operations(text) + inside, moved(text), collectives(text)
    bounds = {
        "products": total / own.flops,
        "memory": bytes_moved / own.bandwidth,
        "links": sum(size for _, size in sent.values()) / own.interconnect,
    }
    bound = max(bounds, key=lambda name: bounds[name])
    seconds = max(bounds[bound], text.cycles() / own.hertz + inside / own.flops)
    return dataclasses.replace(
        plan,
        peak=float(memory.peak_memory_in_bytes),
        available=usable(device),
        compile_seconds=taken,
        flops=total,
        kernel_flops=inside,
        arguments=float(memory.argument_size_in_bytes),
        temporaries=float(memory.temp_size_in_bytes),
        host=float(memory.host_argument_size_in_bytes + memory.host_temp_size_in_bytes),
        moved=bytes_moved,
        collectives=sent,
        kernels=named,
        uncounted=tuple(dict.fromkeys(name for name, call in run if call not in calls)),
        cycles=text.cycles(),
        roofline=bounds[bound],
        bound=bound,
        seconds=seconds,
        ceiling=plan.model_flops / (own.flops * seconds),
    )


def _exceeded(error: Exception) -> tuple[float, float, bool] | None:
    """Of an error that memory is too small: the bytes needed and those there are, and whether what is needed is for
    temporaries alone.
    """
    found = EXCEEDED.search(str(error)) or TEMPORARIES.search(str(error))
    if found is None:
        return None
    used, have = (float(found[place]) * UNITS[found[place + 1]] for place in (1, 3))
    return used, have, found.re is TEMPORARIES


@functools.cache
def usable(device: Any) -> float:
    """The bytes of a device's memory that programs may have, less than the chip's: the compiler tells when one asks for
    more than all.
    """
    own = chip(device.device_kind)
    assert own is not None
    more = jax.ShapeDtypeStruct((int(own.memory) // 2**22, 2**20), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x + 1).lower(more).compile()
    except Exception as error:  # jax raises a private type
        if (exceeded := _exceeded(error)) is not None:
            return exceeded[1]
    return own.memory
