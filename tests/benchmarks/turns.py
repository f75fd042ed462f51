"""Two programs in turn: each keeps a process of its own, and one works while the other waits."""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from typing import Any

from train.__main__ import TUNABLES


def serve(once: Callable[[], object], facts: dict[str, Any]) -> None:
    """Works twice to compile, tells `facts`, then works as often as each line of standard input says."""
    once()
    once()
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            once()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": time.perf_counter() - began, "peak": peak}), flush=True)


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
