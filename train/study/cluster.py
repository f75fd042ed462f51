"""Trials as tasks of a Ray cluster, which places them, and repeats one whose process or machine is lost.

What a trial needs goes with it by Ray's runtime environment: this version of the project, and the working folder with
the user's files.  Libraries are those of each machine; a trial is refused where their versions are others.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from train.allocator import NAME, set_allocator
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError
from train.study.trial import Outcome, Unit, answer, describe_error, read_answer, read_units

CODE = ("models", "train", "configs")  # packages that travel
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")  # of which the versions are equal on all machines
LEFT = [".git", ".venv", ".lanes", "runs", "build", "__pycache__", "*.pyc"]  # of the working folder, besides .gitignore
TRIES = 3  # again, after a process or a machine was lost
ONE_CORE = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


@contextlib.contextmanager
def open_cluster(address: str, say: Callable[[str], None] = lambda _: None) -> Iterator["Cluster"]:
    """Connects to the Ray cluster at an address; an empty one is that of RAY_ADDRESS, of this machine, or a new one.

    Raises InputError if Ray is not installed, if there is no such cluster, or if the working folder cannot travel.
    """
    if "=" in address:
        raise InputError(f"--ray is {address!r}, which is no address; give --ray after the settings.")
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise InputError("--ray needs the package ray, which is not installed: pip install 'morphax[ray]'.") from None
    environment = {
        "working_dir": str(Path.cwd()),
        "excludes": LEFT,
        "py_modules": [str(_find_package(name)) for name in CODE],
        "env_vars": _pass_variables(),
    }
    try:
        ray.init(
            address=address or None,
            runtime_env=environment,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # of a connection, another version, or a folder that is too large
        where = address or "this machine"
        raise InputError(
            f"The Ray cluster of {where} does not take this study: {describe_error(error)}; give the address of a"
            " cluster with --ray, and start in a folder of less than 500 MB."
        ) from None
    try:
        cluster = Cluster(ray)
        say(f"trials are tasks of Ray, {cluster.places} side by side, each on one {cluster.device}")
        yield cluster
    finally:
        ray.shutdown()


def _find_package(name: str) -> Path:
    path = importlib.import_module(name).__path__[0]
    return Path(path).resolve()


def _pass_variables() -> dict[str, str]:
    """Settings of jax that decide numbers, and of memory; a trial on a CPU takes one core, as those of workers do."""
    settings = {
        name: value
        for name, value in set_allocator(os.environ).items()
        if name == NAME or (name.startswith("JAX_") and name != "JAX_PLATFORMS")
    }
    return settings | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {ONE_CORE}".strip()}


class Cluster:
    """Makes trials on a connected cluster: one on each GPU or chip of a TPU if it has some, otherwise one a core."""

    def __init__(self, ray: ModuleType) -> None:
        self.ray = ray
        resources: dict[str, float] = ray.cluster_resources()
        asked: dict[str, Any] = {"num_cpus": 1}
        self.device = next((name for name in ("GPU", "TPU") if resources.get(name)), "CPU")
        if self.device == "GPU":
            asked["num_gpus"] = 1
        elif self.device == "TPU":
            asked["resources"] = {"TPU": 1}
        self.places = max(1, int(resources.get(self.device, 1)))
        self.task = ray.remote(max_retries=TRIES, **asked)(make_remote)
        self.code = json.dumps(describe_code())

    def count_seeds(self, structures: int) -> int:
        """Counts the seeds of each of so many structures that the cluster trains side by side."""
        return max(1, self.places // structures)

    def __call__(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Outcome | str]]:
        """Makes trials; gives outcomes as they come.  Raises InputError for a file that does not travel."""
        sent = [dataclasses.asdict(send_files(unit)) for unit in units]
        waiting = {self.task.remote(json.dumps(one), self.code): unit for one, unit in zip(sent, units, strict=True)}
        try:
            while waiting:
                (done,), _ = self.ray.wait(list(waiting), num_returns=1)
                unit = waiting.pop(done)
                try:
                    outcome = read_answer(self.ray.get(done))
                except self.ray.exceptions.RayError as error:  # lost more often than it is repeated
                    outcome = describe_error(error)
                yield unit, outcome
        finally:
            for task in waiting:
                self.ray.cancel(task, force=True)


def send_files(unit: Unit) -> Unit:
    """The trial with the paths of its files in the working folder, as they are on the machine that makes it.

    Raises InputError for a file outside of it.
    """

    def send(file: str) -> str:
        if not file.endswith(".py"):
            return file
        here, path = Path.cwd().resolve(), Path(file).resolve()
        if not path.is_relative_to(here):
            raise InputError(
                f"{file} is outside of the working folder {here}, which alone goes to the machines of Ray; start in a"
                " folder that holds it."
            )
        return str(path.relative_to(here))

    return dataclasses.replace(unit, config=send(unit.config), files=tuple(map(send, unit.files)))


@functools.cache
def describe_code() -> dict[str, str]:
    """Describes what computes: a digest of this project's source, and the versions of the libraries."""
    digest = hashlib.sha256()
    for package in map(_find_package, CODE):
        for file in sorted(package.rglob("*.py")):
            digest.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return {"morphax": digest.hexdigest()[:12]} | {name: version(name) for name in LIBRARIES}


def make_remote(line: str, code: str) -> str:
    """A task: makes the trial of a line of JSON; gives its answer as one.  `code` is that of who asks."""
    asked, here = json.loads(code), describe_code()
    for name, value in asked.items():
        if here[name] != value:
            return json.dumps({"error": f"a machine of the cluster has {name} {here[name]}, and not {value}"})
    enable_compilation_cache()
    (unit,) = read_units(iter([line]))
    return json.dumps(answer(unit))
