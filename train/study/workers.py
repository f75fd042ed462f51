"""Workers: processes that make trials side by side, each on one core of a CPU; accelerators serve one process."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from train.allocator import set_allocator
from train.errors import InputError
from train.study.cluster import ONE_CORE, open_cluster
from train.study.grouped import Grouped
from train.study.trial import Make, Outcome, Unit, read_answer

COMMAND = (sys.executable, "-m", "train.study.trial")


def list_cores() -> list[int]:
    """Lists the cores that this process may run on; as many as there are where a system does not tell."""
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:  # of macOS and Windows
        return list(range(os.cpu_count() or 1))


def describe_machine() -> str:
    """Describes the machine whose times can be compared: its device, its cores, and a digest of its name."""
    name = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
    return f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {name}"


def count_workers(count: int | None) -> int:
    """Counts the trials that are made side by side: `count`, by default one a core of a CPU, one on accelerators.

    Raises InputError for a count below 1.
    """
    if count is not None and count < 1:
        raise InputError(f"--workers is {count}; give 1 or more.")
    return 1 if jax.default_backend() != "cpu" else count or len(list_cores())


@contextlib.contextmanager
def open_maker(
    count: int | None, ray: str | None = None, say: Callable[[str], None] = lambda _: None
) -> Iterator[Make]:
    """Gives what makes trials.

    These are tasks of the Ray cluster at the address `ray`, or of the one at hand if it is empty; on a CPU `count`
    workers, by default one a core; otherwise this process with all its accelerators.  `say` gets a sentence about what
    was chosen.  Raises InputError for a count below 1, and if there is no cluster.
    """
    if count is not None and ray is not None:
        raise InputError(f"--workers is {count} and Ray places trials by itself; leave --workers or --ray out.")
    workers = count_workers(count)
    if ray is not None:
        with open_cluster(ray, say) as cluster:
            yield cluster
    elif jax.default_backend() != "cpu":
        yield Grouped(say)
    else:
        with Pool(workers) as pool:
            yield pool


class Worker:
    """A process that makes one trial after the other; `core` pins it, None leaves it all cores."""

    def __init__(self, core: int | None, command: Sequence[str] = COMMAND) -> None:
        environment = set_allocator(os.environ)
        if core is not None:
            environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {ONE_CORE}".strip()
            command = ("taskset", "--cpu-list", str(core), *command) if shutil.which("taskset") else command
        errors, name = tempfile.mkstemp(prefix="morphax_worker_")
        self.errors = Path(name)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        )
        os.close(errors)

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
            return f"its process ended with exit code {self.process.wait()}{self._read_last_error()}"
        return read_answer(line)

    def _read_last_error(self) -> str:
        lines = [line for line in self.errors.read_text(errors="replace").splitlines() if line.strip()]
        return f", and its last line was: {lines[-1].strip()}" if lines else ""

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()
        self.errors.unlink(missing_ok=True)


class Pool:
    """Workers that take units from one queue; one that died is replaced, and its trial made
    once more.  A context manager, which ends them."""

    def __init__(self, count: int, command: Sequence[str] = COMMAND) -> None:
        cores: list[int | None] = [*list_cores()[:count]] if count > 1 else [None]
        self.command, self.cores = command, cores
        self.workers: list[Worker | None] = [None] * len(cores)

    def count_seeds(self, structures: int) -> int:
        """Counts the seeds of each of so many structures that workers make side by side."""
        return max(1, len(self.cores) // structures)

    def __call__(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Outcome | str]]:
        """Makes trials; gives outcomes as they come."""
        waiting: queue.SimpleQueue[Unit] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Unit, Outcome | str]] = queue.SimpleQueue()
        for unit in units:
            waiting.put(unit)

        def work(slot: int) -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    unit = waiting.get_nowait()
                    worker = self.workers[slot] or Worker(self.cores[slot], self.command)
                    self.workers[slot] = worker
                    outcome = worker.make(unit)
                    if worker.process.poll() is not None:  # it was killed: once more, in a new process
                        worker.stop()
                        worker = self.workers[slot] = Worker(self.cores[slot], self.command)
                        outcome = worker.make(unit)
                        if worker.process.poll() is not None:
                            worker.stop()
                            self.workers[slot] = None
                    done.put((unit, outcome))

        threads = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in range(len(self.cores))]
        for thread in threads:
            thread.start()
        for _ in units:
            yield done.get()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            if worker is not None:
                worker.stop()
