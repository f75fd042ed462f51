"""Time and memory of a training step, or of one step of decoding, on a TPU: compiled for it and never run."""

import dataclasses
import functools
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from models.backend.platform import Device, compile_for
from models.contracts import Batch, Tree
from models.decoding.decodable import require_decodable
from models.decoding.sampling import Sampler, advance, prefill
from train.contracts import Params
from train.cost.chips import CHIPS, find_chip
from train.cost.compiled import count_collectives, count_hbm_bytes, count_kernels, count_operations
from train.cost.hlo import Program
from train.cost.traced import count_flops, count_kernel_flops, count_parameters
from train.engine.prepared import prepare
from train.engine.requirements import settle
from train.errors import InputError
from train.experiment import Experiment
from train.parallel import Jit
from train.plan.topology import find_devices
from train.precision import cast

EXCEEDED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) (hbm|HBM)")
TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Lowered(Protocol):
    """A program in the language of a compiler."""

    def compile(self) -> jax.stages.Compiled: ...


@runtime_checkable
class Jitted(Protocol):
    """A function that `jax.jit` made, which is lowered for a compiler by the shapes of its arguments."""

    def __call__(self, *args: Tree) -> Tree: ...

    def lower(self, *args: Tree) -> Lowered: ...


@dataclasses.dataclass(frozen=True)
class Plan:
    """The compiler's figures of one program on one topology; bytes, operations and seconds are those of one device.

    `flops` counts every product that runs, also recomputation and kernels (`kernel_flops`), but none of the kernels
    that are `uncounted`, which the compiled program has and the traced one has not.  `model_flops`, the work that the
    model itself asks for, is three times that of the forward pass, once for decoding, without the hidden half of causal
    attention.  `host` is bytes in host memory (remat "offload"); the time of their transfer is not known.  `seconds` is
    the longest of: operations over the chip's rate, bytes over that of its memory, communication over that of its links
    (the roofline), and the compiler's estimate of cycles over the clock, with kernels added at the chip's full rate.
    `ceiling` is the largest share of the chip's operations a second that the model's own work can reach in that time
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
        """Tokens a second of all devices together; rows a second if the batch has no tokens."""
        return (self.tokens or self.rows) / self.seconds if self.seconds else 0.0


def plan_step(experiment: Experiment, name: str, where: str, decode: bool = False) -> Plan:
    """Plans an experiment's step on a topology such as `v5e:1x1`.  Raises InputError as `prepare_plan` does."""
    return prepare_plan(experiment, name, where, decode)()


def prepare_plan(experiment: Experiment, name: str, where: str, decode: bool = False) -> Callable[[], Plan]:
    """Traces and checks an experiment's step; returns a function that compiles it and returns its plan.

    Shapes are those of the first training batch; parameters stay abstract.  The plan of a step that does not fit has
    only its parameters, its model's work and the memory that it asks for.  Raises InputError if the experiment cannot
    be compiled there.
    """
    devices = find_devices(where)
    if decode and experiment.parallel != Jit():
        raise InputError(
            f"--decode plans one device, and parallel is {type(experiment.parallel).__name__}; add parallel=Jit()."
        )
    with compile_for(devices):
        data = experiment.data.open(only="train")
        experiment, _ = settle(experiment, data)
        ready = prepare(experiment, data)
        used, example = experiment.parallel.size(), ready.batch
        if decode:
            program, arguments = _prepare_decoding(experiment, ready.shapes, example)
            work = count_flops(program, *arguments)
        else:
            program, arguments = ready.step, experiment.parallel.abstract(ready.state, example)
            work = ready.model_work
        if not isinstance(program, Jitted):
            raise InputError(
                f"{type(experiment.parallel).__name__}.compile_step returns a function that cannot be lowered; return"
                " that of jax.jit."
            )
        tokens = example["tokens"].shape if "tokens" in example else (0, 0)
        plan = Plan(
            name=name,
            topology=where,
            devices=used,
            parameters=count_parameters(ready.shapes),
            rows=next(iter(example.values())).shape[0],
            tokens=tokens[0] if decode else tokens[0] * tokens[1],
            model_flops=work / used,
            peak=0.0,
            available=0.0,
            compile_seconds=0.0,
        )

    def compile_plan() -> Plan:
        with compile_for(devices):
            return measure_plan(plan, program, arguments, devices[0])

    return compile_plan


def _prepare_decoding(experiment: Experiment, shapes: Params, example: Tree) -> tuple[jax.stages.Wrapped, Tree]:
    """Prepares the program that adds a token to every row, and its arguments, placed."""
    if "tokens" not in example:
        raise InputError(
            "--decode plans the next token of a language model or a translation, and this experiment's data has no"
            " tokens."
        )
    length = example["tokens"].shape[1]
    params = jax.eval_shape(lambda tree: cast(tree, experiment.precision), shapes)
    first = {name: shape for name, shape in example.items() if name.startswith(("source", "image"))} | {
        name: jax.ShapeDtypeStruct((example[name].shape[0], 1), jnp.int32)
        for name in ("tokens", "segments", "positions")
        if name in example
    }
    try:
        require_decodable(experiment.model, first, length)
        _, cache = jax.eval_shape(lambda params, batch: prefill(experiment.model, params, batch, length), params, first)
    except (ValueError, TypeError) as error:
        raise InputError(f"This model cannot decode: {str(error).splitlines()[0]}") from None

    def step(params: Params, cache: Tree, batch: Batch, index: jax.Array) -> tuple[jax.Array, Tree]:
        logits, cache = advance(experiment.model, params, cache, batch, index, length)
        return Sampler()(logits, jax.random.key(0)), cache

    arguments, _ = experiment.parallel.abstract((params, cache, first, jax.ShapeDtypeStruct((), jnp.int32)), {})
    return jax.jit(step, donate_argnums=1), arguments


def measure_plan(plan: Plan, program: Jitted, arguments: Tree, device: Device) -> Plan:
    """Adds to a plan the compiler's figures of a jitted program on a device, or several of its kind.

    Raises InputError if it refuses the program for anything else than too little memory (HBM).
    """
    chip = find_chip(device.device_kind)
    if chip is None:
        raise InputError(
            f"{device.device_kind!r} is no chip whose speed is known here; plan for one of {', '.join(CHIPS)}."
        )
    began = time.perf_counter()
    try:
        compiled = program.lower(*arguments).compile()
    except Exception as error:  # jax raises a private type
        if (exceeded := _parse_exceeded(error)) is None:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
            raise InputError(
                f"{plan.name} cannot be compiled for {plan.topology}: {said}; change what it names, or the chip."
            ) from None
        used, have, temporaries = exceeded
        if temporaries:
            used += sum(
                math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
                for leaf in jax.tree.leaves(arguments)
            )
        return dataclasses.replace(
            plan, fits=False, peak=used, available=have, compile_seconds=time.perf_counter() - began
        )
    compile_seconds = time.perf_counter() - began
    memory, words = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None  # as all compilers for TPUs give both
    assert words is not None
    text = Program(words)
    kernels = count_kernels(text)
    calls = count_kernel_flops(program, *arguments)  # as it is compiled: on a mesh, of a device's share
    inside = sum(times * calls.get(call, 0.0) for (_, call), times in kernels.items())
    runs = {name: sum(times for (kernel, _), times in kernels.items() if kernel == name) for name, _ in kernels}
    total = count_operations(text) + inside
    moved = count_hbm_bytes(text)
    sent = count_collectives(text)
    bounds = {
        "products": total / chip.flops,
        "memory": moved / chip.bandwidth,
        "links": sum(size for _, size in sent.values()) / chip.interconnect,
    }
    bound = max(bounds, key=lambda name: bounds[name])
    seconds = max(bounds[bound], text.sum_cycles() / chip.hertz + inside / chip.flops)
    return dataclasses.replace(
        plan,
        peak=float(memory.peak_memory_in_bytes),
        available=measure_usable_memory(device),
        compile_seconds=compile_seconds,
        flops=total,
        kernel_flops=inside,
        arguments=float(memory.argument_size_in_bytes),
        temporaries=float(memory.temp_size_in_bytes),
        host=float(memory.host_argument_size_in_bytes + memory.host_temp_size_in_bytes),
        moved=moved,
        collectives=sent,
        kernels=runs,
        uncounted=tuple(dict.fromkeys(name for name, call in kernels if call not in calls)),
        cycles=text.sum_cycles(),
        roofline=bounds[bound],
        bound=bound,
        seconds=seconds,
        ceiling=plan.model_flops / (chip.flops * seconds),
    )


def _parse_exceeded(error: Exception) -> tuple[float, float, bool] | None:
    """Parses an error that HBM is exceeded: bytes needed and available, and if these are temporaries alone; or None."""
    match = EXCEEDED.search(str(error)) or TEMPORARIES.search(str(error))
    if match is None:
        return None
    used, have = (float(match[group]) * UNITS[match[group + 1]] for group in (1, 3))
    return used, have, match.re is TEMPORARIES


@functools.cache
def measure_usable_memory(device: Device) -> float:
    """Measures the bytes of HBM that programs may use, less than the chip's.

    The compiler names the limit when it refuses a program that asks for more.
    """
    chip = find_chip(device.device_kind)
    assert chip is not None
    more = jax.ShapeDtypeStruct((int(chip.memory) // 2**22, 2**20), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x + 1).lower(more).compile()
    except Exception as error:  # jax raises a private type
        if (exceeded := _parse_exceeded(error)) is not None:
            return exceeded[1]
    return chip.memory
