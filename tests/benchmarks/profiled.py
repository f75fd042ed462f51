"""A trace of a step, and the operations that take most of its time."""

import collections
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import jax

from tests.benchmarks.measure import report

SHOWN = 10


def profile(once: Callable[[], None], folder: Path, steps: int = 3) -> dict[str, float]:
    """Writes a trace of some steps, and prints the operations that take most of their time; seconds by operation."""
    once()
    once()
    with jax.profiler.trace(str(folder)):
        for _ in range(steps):
            once()
    spent = read_operations(folder)
    total = sum(spent.values())
    dearest = sorted(spent, key=spent.__getitem__, reverse=True)[:SHOWN]
    rows = [(name, f"{1000 * spent[name] / steps:.2f}", f"{spent[name] / total:.1%}") for name in dearest]
    report(("operation", "ms a step", "share"), rows, f"The dearest operations; {folder} has the trace")
    return spent


def read_operations(folder: Path) -> dict[str, float]:
    """Sums the seconds of each operation of compiled programs in the newest trace of a folder, over all threads."""
    file = max(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        events = json.load(lines)["traceEvents"]
    spent: dict[str, float] = collections.defaultdict(float)
    for event in events:
        if "hlo_op" in event.get("args", {}):
            spent[event["args"]["hlo_op"]] += event["dur"] / 1e6
    return dict(spent)
