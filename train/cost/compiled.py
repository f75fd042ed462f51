"""Costs of a compiled program, read from its HLO text: operations, HBM traffic, collectives, kernels."""

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from train.cost.hlo import Instruction, Program
from train.cost.traced import Call, count_pairs

LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")
CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
KERNEL = 'custom_call_target="tpu_custom_call"'
LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
MESHED = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\S*\))? \{([^}]*)\}")
CHAIN = re.compile(r"\bchain_id=\"(\d+)\"")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
# Operations without HBM traffic; an asynchronous copy counts at its `-done`, collectives are counted apart.
STILL = {
    "",
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
}
SLICES = {"dynamic-slice", "slice", "gather"}


def count_operations(program: Program) -> int:
    """Counts multiplications and additions of all matmuls and convolutions; those in kernels are not in the text."""

    @functools.cache
    def count_inside(name: str) -> int:
        named = program.named[name]
        return sum(
            _count_products(instruction, named) if instruction.called is None else count_inside(instruction.called)
            for instruction in named.values()
        )

    return sum(
        times
        * (
            _count_products(instruction, program.named[where])
            if instruction.called is None
            else count_inside(instruction.called)
        )
        for instruction, where, times in program.executed
        if instruction.op in ("convolution", "dot") or instruction.called is not None
    )


def _count_products(instruction: Instruction, named: Mapping[str, Instruction]) -> int:
    if instruction.op not in ("convolution", "dot"):
        return 0
    left, right = (named[name].shapes[0].dims for name in instruction.operands[:2])
    out = instruction.shapes[0].dims
    if instruction.op == "dot":
        contracted = CONTRACTED.search(instruction.text)
        sizes = [left[int(axis)] for axis in contracted[1].split(",") if axis] if contracted else []
        return 2 * int(np.prod(out) * np.prod(sizes))
    labels, window = LABELS.search(instruction.text), WINDOW.search(instruction.text)
    assert labels is not None
    axes = sorted(filter(str.isdigit, labels[1]))
    settings = dict(setting.split("=") for setting in window[1].split()) if window else {}
    total = 2 * out[labels[3].index("b")] * out[labels[3].index("f")] * right[labels[2].index("i")]
    for axis in axes:
        along = {name: value.split("x")[int(axis)] for name, value in settings.items()}
        total *= count_pairs(
            left[labels[1].index(axis)],
            right[labels[2].index(axis)],
            out[labels[3].index(axis)],
            stride=int(along.get("stride", 1)),
            before=int(along.get("pad", "0_0").split("_")[0]),
            spread=int(along.get("lhs_dilate", 1)),
            apart=int(along.get("rhs_dilate", 1)),
        )
    return total


def count_collectives(program: Program) -> dict[str, tuple[int, float]]:
    """Counts the runs of each kind of collective and the bytes that a device sends for them, also inside fusions.

    Of n devices in a ring each sends (n - 1) / n of the whole array, twice that to reduce it for all (Patarasuk and
    Yuan, Journal of Parallel and Distributed Computing 69(2), 2009).  A chain that several fusions share is one
    collective.
    """

    def list_collectives(instruction: Instruction, where: str) -> list[tuple[str, Instruction, str]]:
        kind = instruction.op.removesuffix("-start")
        if kind in COLLECTIVES:
            # the TPU's compiler writes a reduce-scatter as a fusion of this name around an all-reduce
            return [("reduce-scatter" if where.startswith("all-reduce-scatter") else kind, instruction, where)]
        called = instruction.called
        if called is None:
            return []
        return [row for inner in program.computations[called] for row in list_collectives(inner, called)]

    kinds: dict[str, tuple[int, float]] = {}
    seen: set[tuple[str, str]] = set()
    for instruction, where, times in program.executed:
        for kind, collective, computation in list_collectives(instruction, where):
            if chain := CHAIN.search(collective.text):
                if (where, chain[1]) in seen:
                    continue
                seen.add((where, chain[1]))
            count, total = kinds.get(kind, (0, 0.0))
            sent = _count_sent_bytes(kind, collective, program.named[computation], program.devices)
            kinds[kind] = (count + times, total + times * sent)
    return kinds


def _count_sent_bytes(kind: str, instruction: Instruction, named: Mapping[str, Instruction], devices: int) -> float:
    """Counts the bytes that a device sends for one collective."""
    results = instruction.shapes
    # an asynchronous start returns its operands, its results, and scalars of its own
    if instruction.op.endswith("-start") and not instruction.op.startswith("all-reduce"):
        arrays = tuple(shape for shape in results if shape.dims)
        results = arrays[len(arrays) // 2 :]
    operands = [shape for name in instruction.operands if name in named for shape in named[name].shapes]
    whole = max(sum(shape.bytes for shape in results), sum(shape.bytes for shape in operands))
    together = _count_participants(instruction.text) or devices
    return whole * {"collective-permute": 1.0, "all-reduce": 2 * (1 - 1 / together)}.get(kind, 1 - 1 / together)


def _count_participants(text: str) -> int | None:
    """Counts the devices that take part in a collective; None if the text names no groups, so that all do."""
    if listed := LISTED.search(text):
        return len(listed[1].split(","))
    if counted := COUNTED.search(text):
        return int(counted[1])
    if meshed := MESHED.search(text):  # a whole axis, or 'axis':(before)part of it
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed[1]))
        return math.prod(int(part or sizes[name]) for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", meshed[2]))
    return None


def count_kernels(program: Program) -> Counter[tuple[str, Call]]:
    """Counts the runs of each kernel (a custom call of the TPU), by its name and the shapes of operands and results.

    Names are without the sizes of blocks, which older versions of jax put there.
    """
    counts: Counter[tuple[str, Call]] = Counter()
    for instruction, where, times in program.executed:
        if instruction.op == "custom-call" and KERNEL in instruction.text:
            operands = (shape for name in instruction.operands for shape in program.named[where][name].shapes)
            kernel = re.sub(r"_block_(?:q|kv)_.*|\.\d+$", "", instruction.name)
            counts[kernel, tuple(shape.dims for shape in (*operands, *instruction.shapes))] += times
    return counts


def count_hbm_bytes(program: Program) -> float:
    """Counts HBM traffic in bytes: the reads and writes of every executed instruction.

    A fusion that slices an operand reads the slices alone; one that updates a slice writes that slice alone.
    """
    return sum(
        times * _count_moved_bytes(program, instruction, program.named[where])
        for instruction, where, times in program.executed
    )


def _count_moved_bytes(program: Program, instruction: Instruction, named: Mapping[str, Instruction]) -> float:
    if instruction.op in STILL or instruction.op.endswith("-start"):
        return 0.0
    if instruction.op.endswith("-done"):  # of a copy: once for each of source and target that is in HBM
        start = named.get(instruction.operands[0]) if instruction.operands else None
        source = named.get(start.operands[0]) if start is not None and start.operands else None
        sides = [
            instruction.shapes[0].large if instruction.shapes else False,
            source is not None and bool(source.shapes) and source.shapes[0].large,
        ]
        return sum(sides) * (instruction.shapes[0].bytes if instruction.shapes else 0.0)
    inner = program.computations.get(instruction.called or "", [])
    read = sum(
        min(shape.bytes, _count_read_bytes(inner, index))
        for index, name in enumerate(instruction.operands)
        if name in named
        for shape in named[name].shapes
        if shape.large
    )
    written = sum(shape.bytes for shape in instruction.shapes if shape.large)
    updates = [update for update in (*inner, instruction) if update.op == "dynamic-update-slice"]
    for update in updates:
        siblings = named if update is instruction else {sibling.name: sibling for sibling in inner}
        slice_name = update.operands[1]
        part = sum(shape.bytes for shape in siblings[slice_name].shapes) if slice_name in siblings else 0.0
        whole = update.shapes[0].bytes
        written -= whole - part if written >= whole else 0.0
        read -= whole if update is instruction and read >= whole else 0.0
    return read + written


def _count_read_bytes(inner: list[Instruction], index: int) -> float:
    """Counts the bytes that a fusion reads of operand `index`: all, or the slices that it takes; infinite if all."""
    matches = (
        instruction
        for instruction in inner
        if instruction.op == "parameter" and re.search(rf"\bparameter\({index}\)", instruction.text)
    )
    parameter = next(matches, None)
    users = [user for user in inner if parameter is not None and parameter.name in user.operands]
    if not users or parameter is None:
        return float("inf")
    total = 0.0
    for user in users:
        if user.op in SLICES and user.operands[0] == parameter.name:
            total += sum(shape.bytes for shape in user.shapes)
        elif user.op != "dynamic-update-slice" or user.operands[0] != parameter.name:
            return float("inf")
    return total
