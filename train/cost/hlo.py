"""A compiled program read from its text (`compiled.as_text()`): which instructions run, and how often."""

import functools
import math
import re
from typing import NamedTuple

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
START = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = ")
BRACES = re.compile(r"\{[^{}]*\}")
PARTS = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$", re.S)
SHAPE = re.compile(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\](?:\{([^{}]*)\})?")
BITS = re.compile(r"\d+")
CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
LOOP = re.compile(r"\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
BOUND = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
DEVICES = re.compile(r"\b(?:num_partitions|replica_count)=(\d+)")
CHOICE = re.compile(
    r"\b(?:branch_computations=\{([^}]*)\}|true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+))"
)


class Shape(NamedTuple):
    """One array: its dimensions, its bytes, and whether it lies in the chip's large memory (HBM), not beside the
    core.
    """

    dims: tuple[int, ...]
    bytes: float
    large: bool


class Instruction(NamedTuple):
    """`name = op(operands)`, the arrays that it gives, whether they are its computation's result, and its whole
    text.
    """

    name: str
    op: str
    operands: tuple[str, ...]
    shapes: tuple[Shape, ...]
    root: bool
    text: str

    @property
    def called(self) -> str | None:
        """The computation that it is a name for, such as a fusion's."""
        found = CALLED.search(self.text) if self.op in ("fusion", "call", "async-start", "call-start") else None
        return found and found[1]

    @property
    def cycles(self) -> int:
        """The compiler's own estimate; 0 where there is none."""
        return sum(map(int, CYCLES.findall(self.text)))


class Executed(NamedTuple):
    """An instruction, the computation that it stands in, and how often it runs."""

    instruction: Instruction
    where: str
    times: int


class Program:
    """All computations of a program for so many `devices` by name, `named` their instructions by theirs; `executed` are
    those that run, in order.

    The body of a loop runs as often as its trips, once where the text does not tell; of a choice the branch with the
    most cycles runs.
    """

    def __init__(self, text: str) -> None:
        lines, self.entry = computations(text)
        self.devices = math.prod(map(int, DEVICES.findall(text.partition("\n")[0])))
        self.computations = {name: [instruction(line) for line in own] for name, own in lines.items()}
        self.named = {where: {one.name: one for one in own} for where, own in self.computations.items()}
        self.executed = self._run(self.entry)

    def _run(self, where: str, times: int = 1) -> list[Executed]:
        found: list[Executed] = []
        for one in self.computations.get(where, []):
            if one.op == "while" and (loop := LOOP.search(one.text)):
                again = times * trips(one.text, [inner.text for inner in self.computations.get(loop[1], [])])
                found += self._run(loop[1], again) + self._run(loop[2], again)
            elif one.op == "call" and one.called:
                found += self._run(one.called, times)
            elif one.op == "conditional" and (choice := CHOICE.search(one.text)):
                names = [choice[2], choice[3]] if choice[1] is None else re.findall(r"[\w.\-]+", choice[1])
                found += max((self._run(name, times) for name in names), key=_cycles)
            else:
                found.append(Executed(one, where, times))
        return found

    def cycles(self) -> int:
        """The compiler's own estimates, added; kernels and communication have none."""
        return _cycles(self.executed)


def _cycles(executed: list[Executed]) -> int:
    return sum(times * one.cycles for one, _, times in executed)


def trips(loop: str, condition: list[str]) -> int:
    """How often a loop runs: what is written beside it, else the bound that its condition compares a counter from 0
    with, else 1.
    """
    if known := TRIPS.search(loop):
        return int(known[1])
    bounds = [int(found[1]) for line in condition if (found := BOUND.search(line))]
    return max(bounds, default=1)


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The text of each instruction of each computation of a program, and the name of the one that is the program."""
    programs: dict[str, list[str]] = {}
    entry, own = "", None
    for line in text.splitlines():
        if own is None:
            if header := HEADER.match(line):
                own = programs.setdefault(header[2], [])
                entry = header[2] if header[1] else entry
        elif line.rstrip() == "}" or line.startswith(
            "}, execution_thread"
        ):  # a kernel's own text has lines that begin with one, too
            own = None
        elif START.match(line) or not own:
            own.append(line)
        else:
            own[-1] += line
    return programs, entry


def instruction(line: str) -> Instruction:
    """What a line says."""
    parts = PARTS.match(BRACES.sub("", line))  # without layouts
    if parts is None:
        return Instruction("", "", (), (), False, line)
    given = line[: line.index(f" {parts[4]}(")]
    return Instruction(parts[2], parts[4], tuple(_operands(parts[5])), tuple(shapes(given)), bool(parts[1]), line)


def shapes(text: str) -> list[Shape]:
    """The arrays of a type, such as `(f32[8,128]{1,0:T(8,128)S(1)}, s32[])`."""
    found: list[Shape] = []
    for kind, dims, layout in SHAPE.findall(text):
        sizes = tuple(int(size) for size in dims.split(",") if size)
        bits = 8 if kind == "pred" else int(BITS.findall(kind)[0])
        count = functools.reduce(lambda a, b: a * b, sizes, 1)
        found.append(Shape(sizes, count * bits / 8, "S(" not in layout))
    return found


def _operands(rest: str) -> list[str]:
    """The names between an instruction's brackets."""
    depth = 0
    for place, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            rest = rest[:place]
            break
    return re.findall(r"%([\w.\-]+)", rest)
