"""What the text of a compiled program says about its cost."""

import functools
import re

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = ")
CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
LOOP = re.compile(r"\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
BOUND = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
CALL = re.compile(r" call\(.*\bto_apply=%?([\w.\-]+)")
CHOICE = re.compile(r"\b(?:branch_computations=\{([^}]*)\}|true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+))")


def estimated_cycles(text: str) -> int:
    """The compiler's own estimates of a TPU program, added: the bodies of loops times their trips, of a choice the dearest branch.

    `text` is `compiled.as_text()`.  Kernels and communication have no estimate and count nothing, so only programs with the same of
    these compare.  A loop whose length the text does not tell counts once.
    """
    programs, entry = computations(text)

    @functools.cache
    def total(name: str) -> int:
        return sum(map(cost, programs.get(name, [])))

    def cost(instruction: str) -> int:
        if loop := LOOP.search(instruction):
            condition, body = loop.groups()
            return trips(instruction, programs.get(condition, [])) * (total(condition) + total(body))
        if call := CALL.search(instruction):
            return total(call[1])
        if choice := CHOICE.search(instruction):
            names = [choice[2], choice[3]] if choice[1] is None else re.findall(r"[\w.\-]+", choice[1])
            return max(map(total, names))
        return sum(int(found) for found in CYCLES.findall(instruction))

    return total(entry)


def trips(loop: str, condition: list[str]) -> int:
    """How often a loop runs: what is written beside it, else the bound that its condition compares a counter from 0 with, else 1."""
    if known := TRIPS.search(loop):
        return int(known[1])
    bounds = [int(found[1]) for line in condition if (found := BOUND.search(line))]
    return max(bounds, default=1)


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The instructions of each computation of a program, and the name of the one that is the program."""
    programs: dict[str, list[str]] = {}
    entry, own = "", None
    for line in text.splitlines():
        if own is None:
            if header := HEADER.match(line):
                own = programs.setdefault(header[2], [])
                entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            own = None
        elif INSTRUCTION.match(line) or not own:
            own.append(line)
        else:
            own[-1] += line
    return programs, entry
