"""Trials: one structure trained from one seed, and measured on one of two parts of the held-out data.

The held-out examples are dealt out to two parts, every other batch each, or every other example if there are few
batches: settings are chosen on `tuning`, and verdicts are given on `verdict`, on which nothing was chosen.
"""

import dataclasses
import functools
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol

import jax
import numpy as np

from models.contracts import Tree
from train.config import load_config
from train.contracts import Arrays, Params
from train.engine.compilation import enable_compilation_cache
from train.engine.prepared import Prepared, prepare, reseed
from train.engine.requirements import settle
from train.engine.step import TrainState, combine_batches
from train.errors import Json
from train.experiment import Experiment
from train.objectives.language import select_loss
from train.study.costs import measure_memory
from train.sums import compute_interval

Part = Literal["tuning", "verdict"]
PARTS: tuple[Part, ...] = ("tuning", "verdict")
POINTS = 10  # of a curve of held-out losses
FEW = 16  # batches, of which every example is dealt out
CURVE = 8  # batches that a point of the curve is measured on


@dataclasses.dataclass(frozen=True)
class Unit:
    """A trial to be made: a config with overrides, which may name components of `files`, a seed, and the part."""

    variant: str
    config: str
    overrides: tuple[str, ...]
    seed: int
    part: Part
    files: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, tuple[str, ...], int, str]:
        """Identity among the trials of a study."""
        return self.variant, self.overrides, self.seed, self.part


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a trial: the held-out loss after the last step, and a curve of (step, loss) on some batches.

    The loss is infinite if training diverged.  `seconds` are those of a step, the first one left out.  `accuracy` is
    that of the held-out data, None for an objective that has none.  `memory` are the bytes of the compiled step on its
    devices, None if a compiler does not tell.
    """

    loss: float
    curve: tuple[tuple[int, float], ...]
    seconds: float
    accuracy: float | None = None
    memory: int | None = None


def restrict(batch: Arrays, part: Part, start: int) -> Arrays:
    """A batch of which only one part of the examples counts; its first row is the held-out row number `start`.

    Examples of the other part have weight 0; in batches without weights their rows are padding.
    """
    index = batch.get("index", start + np.arange(len(next(iter(batch.values())))))
    counts = index % len(PARTS) == PARTS.index(part)
    name = "weights" if "weights" in batch else "segments"
    values = batch[name]
    return batch | {
        name: values * counts.reshape(counts.shape + (1,) * (values.ndim - counts.ndim)).astype(values.dtype)
    }


def pick_batches(prepared: Prepared, part: Part, most: int | None = None) -> Iterator[Arrays]:
    """Held-out batches of one part, at most `most` of them, with what is of the other part left out of the weights."""
    data = prepared.data
    batches = data.batches("test", prepared.experiment.evaluation.batch_size, prepared.parallel.size(), None)
    count, start = len(batches), 0
    chosen = range(count) if count < FEW else range(PARTS.index(part), count, len(PARTS))
    for step in chosen[:most]:
        batch = batches[step]
        if count < FEW:
            rows = len(next(iter(batch.values())))
            batch = restrict(batch, part, start)
            start += rows
        yield batch


def measure(prepared: Prepared, params: Params, part: Part, most: int | None = None) -> dict[str, float]:
    """Measures the loss and other metrics over one part of the held-out examples, or over `most` of its batches."""
    batches = pick_batches(prepared, part, most)
    return compute_metrics([prepared.evaluation(params, prepared.parallel.put(batch)) for batch in batches])


def compute_metrics(results: Sequence[dict[str, Tree]]) -> dict[str, float]:
    """Computes metrics from their moments on each batch."""
    return {name: compute_interval(moments)[0] for name, moments in combine_batches(jax.device_get(results)).items()}


Make = Callable[[Sequence[Unit]], Iterable[tuple[Unit, Outcome | str]]]  # makes trials; a string is an error


class Program(Protocol):
    """A compiled structure that is trained from one or several seeds at once; `count` is their number."""

    count: int

    def begin(self, seeded: Sequence[Prepared]) -> TrainState: ...

    def step(self, state: TrainState, batches: Sequence[Arrays]) -> TrainState: ...

    def measure(self, state: TrainState, part: Part, most: int | None = None) -> list[dict[str, float]]: ...

    def measure_memory(self, state: TrainState, batches: Sequence[Arrays]) -> int | None: ...


class Alone:
    """One seed, by the experiment's own parallelism."""

    count = 1

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared

    def begin(self, seeded: Sequence[Prepared]) -> TrainState:
        """Makes the state before the first step."""
        return seeded[0].begin().state

    def step(self, state: TrainState, batches: Sequence[Arrays]) -> TrainState:
        """Takes a step, which consumes the state."""
        return self.prepared.step(state, self.prepared.parallel.put(batches[0]))[0]

    def measure(self, state: TrainState, part: Part, most: int | None = None) -> list[dict[str, float]]:
        """Measures metrics on a part of the held-out data."""
        return [measure(self.prepared, state.params, part, most)]

    def measure_memory(self, state: TrainState, batches: Sequence[Arrays]) -> int | None:
        """Measures the bytes of the compiled step, on all devices."""
        parallel = self.prepared.parallel
        memory = measure_memory(self.prepared.step, state, parallel.put(batches[0]))
        return None if memory is None else memory * parallel.size()


class Trainer:
    """A structure that is trained from several seeds by one compiled step."""

    def __init__(self, experiment: Experiment) -> None:
        data = experiment.data.open()
        self.prepared = prepare(settle(experiment, data)[0], data)
        self.alone = Alone(self.prepared)

    def seed(self, seed: int) -> Prepared:
        """Prepares the same structure for another seed, with batches and a first state of its own."""
        return reseed(self.prepared, seed)

    def run(self, seed: int, part: Part) -> Outcome:
        """Trains from a seed, measuring on the way."""
        return self.train([seed], part, self.alone)[0]

    def train(self, seeds: Sequence[int], part: Part, program: Program) -> list[Outcome]:
        """Trains from as many seeds as the program takes, measuring on the way; seeds share seconds and memory."""
        seeded = [self.seed(seed) for seed in seeds]
        state, steps = program.begin(seeded), self.prepared.steps
        streams = [each.batches.stream(0, steps) for each in seeded]
        marks = {round(steps * point / POINTS) for point in range(1, POINTS + 1)}
        curves: list[list[tuple[int, float]]] = [[] for _ in seeds]
        spent, since, memory = 0.0, time.perf_counter(), None
        for step, batches in enumerate(zip(*streams, strict=True), 1):
            state = program.step(state, batches)
            if step == 1:
                jax.block_until_ready(state)
                memory = program.measure_memory(state, batches)
                since = time.perf_counter()
            if step in marks:
                jax.block_until_ready(state)
                spent += time.perf_counter() - since
                for curve, metrics in zip(curves, program.measure(state, part, CURVE), strict=True):
                    curve.append((step, select_loss(metrics)))
                since = time.perf_counter()
        seconds = spent / max(steps - 1, 1) / len(seeds)
        return [
            Outcome(
                loss if math.isfinite(loss := select_loss(metrics)) else math.inf,
                tuple(curve),
                seconds,
                metrics.get("accuracy"),
                None if memory is None else memory // len(seeded),
            )
            for curve, metrics in zip(curves, program.measure(state, part), strict=True)
        ]


@functools.lru_cache(maxsize=4)
def load_trainer(config: str, overrides: tuple[str, ...], files: tuple[str, ...] = ()) -> Trainer:
    """Loads the trainer of a config with overrides; a worker keeps the last ones with their compiled programs."""
    return Trainer(load_config(config, list(overrides), files)[0])


def make_trial(unit: Unit) -> Outcome:
    """Makes one trial in this process."""
    return load_trainer(unit.config, unit.overrides, unit.files).run(unit.seed, unit.part)


def describe_error(error: Exception) -> str:
    """Describes an error in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def read_units(lines: Iterator[str]) -> Iterator[Unit]:
    """Units from lines of JSON."""
    for line in lines:
        fields = json.loads(line)
        yield Unit(**fields | {name: tuple(fields[name]) for name in ("overrides", "files")})


def answer(unit: Unit, make: Callable[[Unit], Outcome] = make_trial) -> dict[str, Json]:
    """Makes a trial; its outcome, or what went wrong in one line, as JSON values."""
    try:
        outcome = make(unit)
    except Exception as error:  # whatever a user's class raises; it is one line of the ledger
        return {"error": describe_error(error)}
    return {
        "loss": outcome.loss,
        "curve": list(map(list, outcome.curve)),
        "seconds": outcome.seconds,
        "accuracy": outcome.accuracy,
        "memory": outcome.memory,
    }


def read_answer(line: str) -> Outcome | str:
    """Reads an answer as a line of JSON."""
    fields = json.loads(line)
    if "error" in fields:
        return fields["error"]
    curve = tuple((step, loss) for step, loss in fields["curve"])
    return Outcome(fields["loss"], curve, fields["seconds"], fields["accuracy"], fields["memory"])


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def serve(make: Callable[[Unit], Outcome] = make_trial) -> None:
    """A worker: a line of JSON for each unit on standard input, and one for its outcome on standard output.

    It ends with the process that started it, in the middle of a trial too.
    """
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    enable_compilation_cache()
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    for unit in read_units(iter(sys.stdin)):
        print(json.dumps(answer(unit, make)), file=answers, flush=True)


if __name__ == "__main__":
    serve()
