"""Two programs in turn: each keeps a process of its own, and one works while the other waits."""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

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

    Gives tokens a second of both and their ratio in each round, parameters, and peak memory.
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
        "parameters": {each: worker.facts["parameters"] for each, worker in workers.items()},
        "peaks": {each: worker.peak for each, worker in workers.items()},
    }
