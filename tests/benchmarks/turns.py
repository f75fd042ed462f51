"""Two programs in turn: each keeps a process of its own, and one works while the other waits."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from train.__main__ import TUNABLES


def measure_process() -> int:
    """Measures the most bytes that this process has used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(once: Callable[[], object], facts: dict[str, Any], measure_peak: Callable[[], int] = measure_process) -> None:
    """Works twice to compile, tells `facts`, then works as often as each line of standard input says."""
    once()
    once()
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            once()
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "peak": measure_peak()}), flush=True)


def read_worker(known: Collection[str]) -> tuple[str, str] | None:
    """Reads which of the programs this process is, and what it works on; None for the process that asks."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--worker", choices=known)
    options.add_argument("--only")
    given, _ = options.parse_known_args() if "--worker" in sys.argv else (None, None)
    return None if given is None else (given.worker, given.only)


class Worker:
    """A process of a benchmark that works when it is asked to; `facts` are what it told at its start."""

    def __init__(self, module: str, who: str, name: str) -> None:
        command = [sys.executable, "-m", module, "--worker", who, "--only", name]
        own = {"GLIBC_TUNABLES": TUNABLES} if who == "morphax" else {}  # as its commands run
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | own
        )
        self.facts = self._read()
        self.peak = 0

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def work(self, times: int) -> float:
        """Works so many times; returns the seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        answer = self._read()
        self.peak = answer["peak"]
        return answer["seconds"]

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


def compare_speeds(module: str, who: Sequence[str], name: str, amount: int, times: int, rounds: int) -> dict[str, Any]:
    """Measures two programs in turn, the first beside the second: `times` calls a turn, each of `amount` tokens.

    Gives tokens a second of both and their ratio in each round, what each told at its start, and peak memory.
    """
    ours, theirs = who
    workers = {each: Worker(module, each, name) for each in who}
    try:
        speeds = [
            {each: amount * times / worker.work(times) for each, worker in workers.items()} for _ in range(rounds)
        ]
    finally:
        for worker in workers.values():
            worker.stop()
    return {
        "speeds": {each: [speed[each] for speed in speeds] for each in who},
        "ratios": [speed[ours] / speed[theirs] for speed in speeds],
        "facts": {each: worker.facts for each, worker in workers.items()},
        "peaks": {each: worker.peak for each, worker in workers.items()},
    }


class Compared(Protocol):
    """What two programs work on: the tokens of a call, the calls of a turn, and how many times as fast ours must be."""

    @property
    def tokens(self) -> int: ...
    @property
    def times(self) -> int: ...
    @property
    def goal(self) -> float: ...


def compare_all(
    module: str, who: Sequence[str], sizes: Mapping[str, Compared], chosen: Sequence[str], rounds: int, title: str
) -> tuple[dict[str, Any], list[str]]:
    """Measures two programs in turn on each chosen size and prints a table; returns the figures and missed goals."""
    from tests.benchmarks.measure import note, report

    figures: dict[str, Any] = {}
    failures: list[str] = []
    rows: list[tuple[str, ...]] = []
    other = who[1]
    for name in chosen:
        size = sizes[name]
        found = figures[name] = compare_speeds(module, who, name, size.tokens, size.times, rounds)
        ratio = statistics.median(found["ratios"])
        if ratio < size.goal:
            failures.append(f"{name}, {ratio:.2f} times as fast as {other}; the goal is {size.goal:g}")
        note(f"{name}: {ratio:.2f}")
        counts = (found["facts"][each].get("parameters") for each in who)
        rows.append(
            (
                name,
                *("-" if count is None else f"{count:,}" for count in counts),
                *(f"{statistics.median(found['speeds'][each]):,.0f}" for each in who),
                f"{ratio:.2f} ({min(found['ratios']):.2f} to {max(found['ratios']):.2f})",
                *(f"{found['peaks'][each] / 2**20:,.0f}" for each in who),
                f"{size.goal:g}: {'holds' if ratio >= size.goal else 'MISSED'}",
            )
        )
    columns = ("", "parameters", other, "tokens/s", other, "ratio", "MiB", other, "goal")
    report(columns, rows, f"{title}, beside {other}")
    return figures, failures
