"""What a compiled program costs, by its text: operations, bytes, communication, kernels, the compiler's estimate of
cycles.
"""

import functools
import math
import re
from collections import Counter

import numpy as np

from train.cost.hlo import Instruction, Program
from train.cost.traced import Call, pairs

LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")
CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
KERNEL = 'custom_call_target="tpu_custom_call"'
LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
MESHED = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\S*\))? \{([^}]*)\}")
CHAIN = re.compile(r"\bchain_id=\"(\d+)\"")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
# What moves nothing itself; asynchronous copies count where they end, communication by itself.
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


def operations(program: Program) -> int:
    """Multiplications and additions of all matrix products and convolutions; those of kernels are not in the text."""

    @functools.cache
    def inside(name: str) -> int:
        named = program.named[name]
        return sum(_products(one, named) if one.called is None else inside(one.called) for one in named.values())

    return sum(
        times * (_products(one, program.named[where]) if one.called is None else inside(one.called))
        for one, where, times in program.executed
        if one.op in ("convolution", "dot") or one.called is not None
    )


def _products(one: Instruction, named: dict[str, Instruction]) -> int:
    if one.op not in ("convolution", "dot"):
        return 0
    left, right = (named[name].shapes[0].dims for name in one.operands[:2])
    out = one.shapes[0].dims
    if one.op == "dot":
        contracted = CONTRACTED.search(one.text)
        sizes = [left[int(axis)] for axis in contracted[1].split(",") if axis] if contracted else []
        return 2 * int(np.prod(out) * np.prod(sizes))
    labels, window = LABELS.search(one.text), WINDOW.search(one.text)
    assert labels is not None
    axes = sorted(filter(str.isdigit, labels[1]))
    settings = dict(setting.split("=") for setting in window[1].split()) if window else {}
    total = 2 * out[labels[3].index("b")] * out[labels[3].index("f")] * right[labels[2].index("i")]
    for axis in axes:
        own = {name: value.split("x")[int(axis)] for name, value in settings.items()}
        total *= pairs(
            left[labels[1].index(axis)],
            right[labels[2].index(axis)],
            out[labels[3].index(axis)],
            stride=int(own.get("stride", 1)),
            before=int(own.get("pad", "0_0").split("_")[0]),
            spread=int(own.get("lhs_dilate", 1)),
            apart=int(own.get("rhs_dilate", 1)),
        )
    return total


def collectives(program: Program) -> dict[str, tuple[int, float]]:
    """How often each kind of communication runs and how many bytes a device sends for it in all, those inside fusions
    among them.

    Of n devices in a ring each sends (n - 1) / n of the whole array, twice that to reduce it for all (Patarasuk and
    Yuan, Journal of Parallel and Distributed Computing 69(2), 2009).  A chain, which fusions share between them, is one
    communication.
    """

    def found(one: Instruction, where: str) -> list[tuple[str, Instruction, str]]:
        kind = one.op.removesuffix("-start")
        if kind in COLLECTIVES:
            # as the TPU's compiler has it
            return [("reduce-scatter" if where.startswith("all-reduce-scatter") else kind, one, where)]
        return (
            []
            if one.called is None
            else [pair for inner in program.computations[one.called] for pair in found(inner, one.called)]
        )

    kinds: dict[str, tuple[int, float]] = {}
    seen: set[tuple[str, str]] = set()
    for one, where, times in program.executed:
        for kind, inner, own in found(one, where):
            if chain := CHAIN.search(inner.text):
                if (where, chain[1]) in seen:
                    continue
                seen.add((where, chain[1]))
            count, total = kinds.get(kind, (0, 0.0))
            kinds[kind] = (count + times, total + times * _sent(kind, inner, program.named[own], program.devices))
    return kinds


def _sent(kind: str, one: Instruction, named: dict[str, Instruction], devices: int) -> float:
    """The bytes that a device sends for one communication."""
    given = one.shapes
    # gives its operands, its results, and numbers of its own
    if one.op.endswith("-start") and not one.op.startswith("all-reduce"):
        given = [shape for shape in given if shape.dims]
        given = given[len(given) // 2 :]
    taken = [shape for name in one.operands if name in named for shape in named[name].shapes]
    whole = max(sum(shape.bytes for shape in given), sum(shape.bytes for shape in taken))
    together = _together(one.text) or devices
    return whole * {"collective-permute": 1.0, "all-reduce": 2 * (1 - 1 / together)}.get(kind, 1 - 1 / together)


def _together(text: str) -> int | None:
    """How many devices take part in a communication; None where all do."""
    if listed := LISTED.search(text):
        return len(listed[1].split(","))
    if counted := COUNTED.search(text):
        return int(counted[1])
    if meshed := MESHED.search(text):  # of an axis all, or 'axis':(before)part of it
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed[1]))
        return math.prod(int(part or sizes[name]) for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", meshed[2]))
    return None


def kernels(program: Program) -> Counter[tuple[str, Call]]:
    """How often each kernel, a program of its own inside this one, runs, by its name and the shapes of what it takes
    and gives.

    Names are without the sizes of blocks, which older versions of jax put there.
    """
    counts: Counter[tuple[str, Call]] = Counter()
    for one, where, times in program.executed:
        if one.op == "custom-call" and KERNEL in one.text:
            taken = (shape for name in one.operands for shape in program.named[where][name].shapes)
            counts[
                re.sub(r"_block_(?:q|kv)_.*|\.\d+$", "", one.name), tuple(shape.dims for shape in (*taken, *one.shapes))
            ] += times
    return counts


def moved(program: Program) -> float:
    """Bytes that go between the chip's large memory and its core: what every instruction reads and writes there.

    A fusion that takes slices of an operand reads these, one that writes a slice writes that.
    """
    return sum(times * _moved(program, one, program.named[where]) for one, where, times in program.executed)


def _moved(program: Program, one: Instruction, named: dict[str, Instruction]) -> float:
    if one.op in STILL or one.op.endswith("-start"):
        return 0.0
    if one.op.endswith("-done"):  # of a copy: once on either side that is the large memory
        start = named.get(one.operands[0]) if one.operands else None
        source = named.get(start.operands[0]) if start is not None and start.operands else None
        sides = [
            one.shapes[0].large if one.shapes else False,
            source is not None and bool(source.shapes) and source.shapes[0].large,
        ]
        return sum(sides) * (one.shapes[0].bytes if one.shapes else 0.0)
    inner = program.computations.get(one.called or "", [])
    read = sum(
        min(shape.bytes, _read(inner, place))
        for place, name in enumerate(one.operands)
        if name in named
        for shape in named[name].shapes
        if shape.large
    )
    written = sum(shape.bytes for shape in one.shapes if shape.large)
    updates = [inner_one for inner_one in (*inner, one) if inner_one.op == "dynamic-update-slice"]
    for update in updates:
        own = named if update is one else {other.name: other for other in inner}
        part = sum(shape.bytes for shape in own[update.operands[1]].shapes) if update.operands[1] in own else 0.0
        whole = update.shapes[0].bytes
        written -= whole - part if written >= whole else 0.0
        read -= whole if update is one and read >= whole else 0.0
    return read + written


def _read(inner: list[Instruction], place: int) -> float:
    """The bytes that a fusion reads of an operand: all, or the slices that it takes of it."""
    parameter = next(
        (one for one in inner if one.op == "parameter" and re.search(rf"\bparameter\({place}\)", one.text)), None
    )
    users = [one for one in inner if parameter is not None and parameter.name in one.operands]
    if not users or parameter is None:
        return float("inf")
    total = 0.0
    for user in users:
        if user.op in SLICES and user.operands[0] == parameter.name:
            total += sum(shape.bytes for shape in user.shapes)
        elif user.op != "dynamic-update-slice" or user.operands[0] != parameter.name:
            return float("inf")
    return total
