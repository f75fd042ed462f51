"""Faults of one line, each with the tests that should see it: the lines of `faults.jsonl`."""

import json
from pathlib import Path
from typing import NamedTuple


class Fault(NamedTuple):
    """In `file`, the text `old`, which stands there once, becomes `new`; `tests` are what pytest is given."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def read(path: Path) -> tuple[Fault, ...]:
    """The faults of a file, one JSON object a line."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return tuple(Fault(row["file"], row["old"], row["new"], tuple(row["tests"])) for row in rows)


FAULTS = read(Path(__file__).with_name("faults.jsonl"))
