"""Parser of a compiled program's HLO text (`compiled.as_text()`): the instructions that run, and how often."""

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
    """One array: its dimensions, its bytes, and if it lies in HBM (`large`) rather than in on-chip memory."""

    dims: tuple[int, ...]
    bytes: float
    large: bool


class Instruction(NamedTuple):
    """`name = op(operands)`, the arrays that it returns, if it is its computation's root, and its whole text."""

    name: str
    op: str
    operands: tuple[str, ...]
    shapes: tuple[Shape, ...]
    root: bool
    text: str

    @property
    def called(self) -> str | None:
        """The computation that it calls, such as a fusion's, or None."""
        match = CALLED.search(self.text) if self.op in ("fusion", "call", "async-start", "call-start") else None
        return match and match[1]

    @property
    def cycles(self) -> int:
        """The compiler's own estimate, or 0."""
        return sum(map(int, CYCLES.findall(self.text)))


class Executed(NamedTuple):
    """An instruction, the name of its computation, and the number of times that it runs."""

    instruction: Instruction
    where: str
    times: int


class Program:
    """The computations of a program for `devices` devices, by name.

    `named` holds their instructions by name, `executed` the instructions that run, in order.  The body of a loop runs
    once a trip, and once if the text does not tell its trips; of a conditional the branch with the most cycles runs.
    """

    def __init__(self, text: str) -> None:
        lines, self.entry = split_computations(text)
        self.devices = math.prod(map(int, DEVICES.findall(text.partition("\n")[0])))
        self.computations = {name: [parse_instruction(line) for line in body] for name, body in lines.items()}
        self.named = {
            where: {instruction.name: instruction for instruction in instructions}
            for where, instructions in self.computations.items()
        }
        self.executed = self._run(self.entry)

    def _run(self, where: str, times: int = 1) -> list[Executed]:
        executed: list[Executed] = []
        for instruction in self.computations.get(where, []):
            if instruction.op == "while" and (loop := LOOP.search(instruction.text)):
                condition = [inner.text for inner in self.computations.get(loop[1], [])]
                again = times * read_trips(instruction.text, condition)
                executed += self._run(loop[1], again) + self._run(loop[2], again)
            elif instruction.op == "call" and instruction.called:
                executed += self._run(instruction.called, times)
            elif instruction.op == "conditional" and (choice := CHOICE.search(instruction.text)):
                names = [choice[2], choice[3]] if choice[1] is None else re.findall(r"[\w.\-]+", choice[1])
                executed += max((self._run(name, times) for name in names), key=_sum_cycles)
            else:
                executed.append(Executed(instruction, where, times))
        return executed

    def sum_cycles(self) -> int:
        """Sums the compiler's estimates of cycles; kernels and collectives have none."""
        return _sum_cycles(self.executed)


def _sum_cycles(executed: list[Executed]) -> int:
    return sum(times * instruction.cycles for instruction, _, times in executed)


def read_trips(loop: str, condition: list[str]) -> int:
    """Reads the trips of a loop: its known trip count, otherwise the largest bound in its condition, otherwise 1.

    The counter is taken to start at 0.
    """
    if known := TRIPS.search(loop):
        return int(known[1])
    bounds = [int(match[1]) for line in condition if (match := BOUND.search(line))]
    return max(bounds, default=1)


def split_computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Splits a program's text into the lines of each instruction of each computation; also returns the entry's name."""
    computations: dict[str, list[str]] = {}
    entry = ""
    body: list[str] | None = None
    for line in text.splitlines():
        if body is None:
            if header := HEADER.match(line):
                body = computations.setdefault(header[2], [])
                entry = header[2] if header[1] else entry
        # a kernel's own text also has lines that begin with a brace
        elif line.rstrip() == "}" or line.startswith("}, execution_thread"):
            body = None
        elif START.match(line) or not body:
            body.append(line)
        else:
            body[-1] += line
    return computations, entry


def parse_instruction(line: str) -> Instruction:
    """Parses one line; an instruction without name and op if it is none."""
    parts = PARTS.match(BRACES.sub("", line))  # without layouts
    if parts is None:
        return Instruction("", "", (), (), False, line)
    operands = tuple(_parse_operands(parts[5]))
    results = tuple(parse_shapes(line[: line.index(f" {parts[4]}(")]))
    return Instruction(parts[2], parts[4], operands, results, bool(parts[1]), line)


def parse_shapes(text: str) -> list[Shape]:
    """Parses the arrays of a type, such as `(f32[8,128]{1,0:T(8,128)S(1)}, s32[])`."""
    arrays: list[Shape] = []
    for kind, dims, layout in SHAPE.findall(text):
        sizes = tuple(int(size) for size in dims.split(",") if size)
        bits = 8 if kind == "pred" else int(BITS.findall(kind)[0])
        arrays.append(Shape(sizes, math.prod(sizes) * bits / 8, "S(" not in layout))
    return arrays


def _parse_operands(rest: str) -> list[str]:
    """Parses the names between an instruction's parentheses."""
    depth = 0
    for index, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            rest = rest[:index]
            break
    return re.findall(r"%([\w.\-]+)", rest)
