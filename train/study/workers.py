"""Workers: processes that make trials side by side, each on one core of a CPU, or one on all accelerators."""

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from train.study.trial import Outcome, Unit

COMMAND = (sys.executable, "-m", "train.study.trial")
ONE_CORE = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def count_workers() -> int:
    """One worker a core where jax runs on a CPU, otherwise one."""
    import jax

    return len(os.sched_getaffinity(0)) if jax.default_backend() == "cpu" else 1


class Worker:
    """A process that makes one trial after the other; `core` pins it, None leaves it all devices."""

    def __init__(self, core: int | None, command: Sequence[str] = COMMAND) -> None:
        environment = dict(os.environ)
        if core is not None:
            environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {ONE_CORE}".strip()
            command = ("taskset", "--cpu-list", str(core), *command) if _has_taskset() else command
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )

    def make(self, unit: Unit) -> Outcome | str:
        """The outcome of a trial, or what went wrong in one line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(dataclasses.asdict(unit)) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            return f"its process ended with exit code {self.process.wait()}"
        answer = json.loads(line)
        if "error" in answer:
            return answer["error"]
        return Outcome(answer["loss"], tuple((step, loss) for step, loss in answer["curve"]), answer["seconds"])

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


def _has_taskset() -> bool:
    import shutil

    return shutil.which("taskset") is not None


class Pool:
    """Workers that take units from one queue; one that died is replaced."""

    def __init__(self, count: int, command: Sequence[str] = COMMAND) -> None:
        cores: list[int | None] = [*sorted(os.sched_getaffinity(0))[:count]] if count > 1 else [None]
        self.command, self.cores = command, cores
        self.workers: list[Worker | None] = [None] * len(cores)

    def make(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Outcome | str]]:
        """Outcomes of units, as they come."""
        waiting: queue.SimpleQueue[Unit] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Unit, Outcome | str]] = queue.SimpleQueue()
        for unit in units:
            waiting.put(unit)

        def work(place: int) -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    unit = waiting.get_nowait()
                    worker = self.workers[place] or Worker(self.cores[place], self.command)
                    self.workers[place] = worker
                    outcome = worker.make(unit)
                    if worker.process.poll() is not None:
                        self.workers[place] = None
                    done.put((unit, outcome))

        threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(len(self.cores))]
        for thread in threads:
            thread.start()
        for _ in units:
            yield done.get()

    def stop(self) -> None:
        """Ends all processes."""
        for worker in self.workers:
            if worker is not None:
                worker.stop()
