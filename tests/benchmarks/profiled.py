"""A trace of a step, and the operations that take most of its time beside what the machine could do at best."""

import collections
import copy
import cProfile
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tests.benchmarks.measure import report, seconds
from train.cost.compiled import count_hbm_bytes, count_operations
from train.cost.hlo import Program

SHOWN = 10
CONTAINERS = {"while", "call", "conditional"}  # whose time is that of the operations inside


class Operation(NamedTuple):
    """An instruction of a compiled program, by the names of both."""

    program: str
    name: str


class Roof(NamedTuple):
    """Multiplications and additions a second, and bytes a second, that this machine reaches in large arrays."""

    operations: float
    bytes: float

    def share(self, operations: float, moved: float, spent: float) -> float:
        """The least time that the work can take, over the time that it took."""
        return max(operations / self.operations, moved / self.bytes) / spent


def profile(once: Callable[[], None], folder: Path, steps: int = 3) -> dict[Operation, float]:
    """Writes a trace of some steps, and prints the operations that take most of their time; seconds by operation.

    The share of the roof is the time of an operation's products at the speed of a large product, or of its bytes at
    the speed of a large sum if that is longer, over its time; more than 1 if what it reads is in the processor's cache.
    Operations that run beside each other share the machine, and some have no event of their own in the trace.
    """
    jax.clear_caches()  # of other programs, whose instructions may have the same names
    once()
    once()
    with jax.profiler.trace(str(folder)):
        for _ in range(steps):
            once()
    spent, calls = read_operations(folder)
    wall = min(seconds(once) for _ in range(steps))
    work, roof = count_work(), measure_roof()
    total = sum(spent.values())
    dearest = sorted(spent, key=spent.__getitem__, reverse=True)[:SHOWN]
    rows: list[tuple[str, ...]] = []
    for operation in dearest:
        share = "-"
        if operation in work:
            operations, moved = work[operation]
            runs = calls[operation]
            share = f"{roof.share(runs * operations, runs * moved, spent[operation]):.1%}"
        taken = f"{1000 * spent[operation] / steps:.2f}", f"{spent[operation] / total:.1%}"
        rows.append((f"{operation.program} {operation.name}", *taken, share))
    roofs = f"{roof.operations / 1e9:.0f} GFLOP/s, {roof.bytes / 1e9:.0f} GB/s"
    title = f"The dearest operations; {folder} has the trace; the roof is {roofs}"
    report(("operation", "ms a step", "share", "of the roof"), rows, title)
    least = sum(runs * work[operation][0] for operation, runs in calls.items() if operation in work)
    least /= steps * roof.operations
    print(f"Products take {1000 * least:.0f} ms at the roof, {least / wall:.0%} of the {1000 * wall:.0f} ms of a step")
    return spent


def read_operations(folder: Path) -> tuple[dict[Operation, float], dict[Operation, int]]:
    """Sums the seconds and the runs of each operation of compiled programs in the newest trace of a folder, over all
    threads.
    """
    file = max(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        events = json.load(lines)["traceEvents"]
    spent: dict[Operation, float] = collections.defaultdict(float)
    calls: dict[Operation, int] = collections.Counter()
    for event in events:
        known = event.get("args", {})
        if "hlo_op" in known and known["hlo_op"].partition(".")[0] not in CONTAINERS:
            operation = Operation(known.get("hlo_module", ""), known["hlo_op"])
            spent[operation] += event["dur"] / 1e6
            calls[operation] += 1
    return dict(spent), dict(calls)


def count_work() -> dict[Operation, tuple[float, float]]:
    """Counts the operations and the bytes of a run of each instruction of the programs that this process compiled.

    Instructions that differ between programs of one name are left out.
    """
    work: dict[Operation, tuple[float, float]] = {}
    unclear: set[Operation] = set()
    for executable in jax.devices()[0].client.live_executables():
        for module in executable.hlo_modules():
            program = Program(module.to_string())
            for run in program.executed:
                alone = copy.copy(program)
                alone.executed = [run._replace(times=1)]
                operation = Operation(module.name, run.instruction.name)
                counts = float(count_operations(alone)), count_hbm_bytes(alone)
                if work.setdefault(operation, counts) != counts:
                    unclear.add(operation)
    return {operation: counts for operation, counts in work.items() if operation not in unclear}


def measure_roof(size: int = 2048, times: int = 5) -> Roof:
    """Measures the speed of a large product and of a large sum, the best of some turns."""
    square, wide = jnp.ones((size, size)), jnp.ones((16 * size, size))
    product, add = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    product(square, square).block_until_ready()
    add(wide).block_until_ready()
    multiply = min(seconds(lambda: product(square, square)) for _ in range(times))
    move = min(seconds(lambda: add(wide)) for _ in range(times))
    return Roof(2 * size**3 / multiply, 2 * wide.nbytes / move)


def profile_calls(once: Callable[[], object], folder: Path) -> None:
    """Writes Python's profile of a call, and prints the functions that take most of its time themselves."""
    recorded = cProfile.Profile()
    recorded.runcall(once)
    folder.mkdir(parents=True, exist_ok=True)
    recorded.dump_stats(folder / "calls.prof")
    entries = sorted(recorded.getstats(), key=lambda entry: entry.inlinetime, reverse=True)
    total = sum(entry.inlinetime for entry in entries)
    rows = [
        (_name_function(entry.code), f"{entry.inlinetime:.2f}", f"{entry.inlinetime / total:.1%}")
        for entry in entries[:SHOWN]
    ]
    report(("function", "seconds", "share"), rows, f"The dearest functions; {folder}/calls.prof has all")


def _name_function(code: str | CodeType) -> str:
    """A function's name with its file and line; of a function in C its name alone."""
    if isinstance(code, str):
        return code.strip("<>")
    return f"{Path(code.co_filename).name}:{code.co_firstlineno} {code.co_qualname}"
