"""The training loop: the five steps, and the evaluations, checkpoints and signals between them."""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch
from train.contracts import Params
from train.cost.chips import find_chip
from train.data.poisson import count_drawn, redraw
from train.engine.checkpoint import Progress, Store
from train.engine.evidence import measure
from train.engine.prepared import Beginning, Prepared
from train.engine.signals import Flag, InterruptedRunError
from train.engine.step import TrainState
from train.errors import InputError
from train.events import Evaluated, Logged, Message, Saved
from train.optimizers.accounting import Spent
from train.optimizers.private import Budget
from train.sinks.broadcast import Emit
from train.sums import Sum, add_sums, compute_means


@dataclasses.dataclass
class Pace:
    """Steps, examples and tokens computed, and the time they took."""

    steps: float = 0.0
    examples: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0

    def compute_rates(self, work: float = 0.0) -> dict[str, float]:
        """Computes examples and tokens a second; empty if nothing was timed.

        Also `mfu` if `work` is given, the FLOPs of a step over the peak FLOP/s of all chips.
        """
        if not self.examples or not self.seconds:
            return {}
        used = {"mfu": work * self.steps / self.seconds} if work else {}
        examples, tokens = self.examples / self.seconds, self.tokens / self.seconds
        return {"examples_per_second": examples, "tokens_per_second": tokens} | used


class Restored(NamedTuple):
    """A run's last checkpoint, or its beginning if it has none: the placed state, its step and its progress."""

    step: int
    state: TrainState
    progress: Progress = Progress()
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def restore(store: Store, prepared: Prepared, beginning: Beginning | None = None) -> Restored:
    """Restores the newest intact checkpoint, unless `beginning` is given; begins anew if there is none."""
    checkpoint = store.restore(prepared.logical()) if beginning is None else None
    if checkpoint is None:
        state, fresh, unused = beginning or prepared.begin()
        return Restored(0, state, Progress(), fresh, unused)
    state, progress = checkpoint
    return Restored(int(state.step), prepared.parallel.spread(state, consume=True), progress)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a loop: the last step, the step of the best checkpoint, metrics on the test split with intervals."""

    step: int
    best: int | None
    params: Params
    measured: dict[str, tuple[float, float]]
    seconds_to_first_step: float
    rates: dict[str, float]


class Loop:
    """One run from its restored step to its last; `began` is the time when it was started, by `time.perf_counter`."""

    def __init__(self, prepared: Prepared, restored: Restored, store: Store, flag: Flag, began: float) -> None:
        self.prepared, self.store, self.flag, self.began = prepared, store, flag, began
        self.experiment, self.parallel = prepared.experiment, prepared.parallel
        self.batches, self.step, self.steps = prepared.batches, prepared.step, prepared.steps
        self.start, self.state, self.progress, self.fresh, self.unused = restored
        self.budget: Budget | None = None
        if prepared.guarantee is not None:
            self.budget = Budget(prepared.guarantee, tuple(Spent(*each) for each in self.progress.spent), self.start)
            self.steps = self.budget.find_last(self.steps)
            self.batches = redraw(self.batches, np.asarray(self.parallel.whole({"rng": self.state.rng})["rng"]))
        self.measured: dict[str, tuple[float, float]] = {}
        self.first_step = math.nan
        self.pending: list[dict[str, Sum]] = []  # the sums of the steps since the last line of the log
        if self.progress.pending:
            pending = self.progress.pending.items()
            self.pending = [{name: Sum(*map(jnp.float32, both)) for name, both in pending}]
        self.unsaved: int | None = None  # the step of a checkpoint that is being written
        self.pace, self.interval = Pace(), Pace()
        device = find_chip(jax.local_devices()[0].device_kind)  # all batches count as having the shapes of the first
        self.share = prepared.model_work / (device.flops * self.parallel.size()) if device else 0.0
        self.emit: Emit = lambda event: None

    def run(self, emit: Emit) -> Outcome:
        """Trains to the end and saves; every event goes to `emit`."""
        self.emit = emit
        number = self.start
        if self.steps < self.prepared.steps:
            self.emit(Message(f"epsilon is spent at step {self.steps} of {self.prepared.steps}: training ends there"))
        unfinished = self.progress.evaluated < number and self._evaluates_at(number)
        stopped = self._pause(number) if unfinished else self._should_stop(number)
        if not stopped and number < self.steps:
            number = self._iterate(number)
        self._wait()
        if not self.measured and self._measure(number) is None:
            raise InterruptedRunError(self.flag.number, number)
        best = self.store.find_best()
        rates = self.pace.compute_rates(self.share)
        return Outcome(number, best, self.state.params, self.measured, self.first_step, rates)

    def _iterate(self, start: int) -> int:
        number = start
        since = time.perf_counter()
        for number, (batch, examples, tokens) in enumerate(self._prefetch(start), start + 1):
            # 2 forward, 3 loss and 4 gradient are in the step, which returns new parameters; 5 iterate is this loop.
            self.state, sums = self.step(self.state, batch)
            self.pending.append(sums)
            self.interval.steps += 1
            self.interval.examples += examples
            self.interval.tokens += tokens
            if number == start + 1:
                jax.block_until_ready(sums)
                self.first_step = time.perf_counter() - self.began
                since = time.perf_counter()
                self.interval = Pace()
            if number % self.experiment.log_every == 0 or number == self.steps or self._is_due(number):
                self._write(number, since)
                since = time.perf_counter()
            if (self.flag.number or self._is_due(number)) and self._pause(number):
                break
            if self._is_due(number):
                since = time.perf_counter()
        return number

    def _prefetch(self, start: int) -> Iterator[tuple[Batch, float, float]]:
        """Puts batches on the device before they are needed, with their numbers of examples and tokens."""

        def place_batches() -> Iterator[tuple[Batch, float, float]]:
            for batch in self.batches.stream(start, self.steps):
                tokens = float((batch["segments"] > 0).sum()) if "segments" in batch else 0.0
                rows = float(len(next(iter(batch.values()))))
                examples = float(batch["weights"].sum()) if "starts" in batch else rows
                examples = examples if self.budget is None else count_drawn(batch)
                yield self.parallel.put(batch), examples, tokens

        waiting = place_batches()
        ready = list(itertools.islice(waiting, 2))
        while ready:
            yield ready.pop(0)
            ready.extend(itertools.islice(waiting, 1))

    def _write(self, number: int, since: float) -> None:
        sums = jax.device_get(self.pending)  # the only point at which the host waits for the device
        self.interval.seconds = time.perf_counter() - since
        total = functools.reduce(add_sums, sums)
        values = compute_means(total)
        self.pending = []
        if not math.isfinite(values["loss"]) and float(total["loss"].weight):  # a private step may draw no example
            raise InputError(
                f"The loss is {values['loss']} at step {number}: lower optimizer.rate.peak or set optimizer.clip;"
                f" earlier checkpoints in {self.store.folder.parent} are kept."
            )
        if self.budget is not None:
            values["epsilon"] = self.budget.bound_epsilon(number, self.steps)
        values |= {"rate": float(np.asarray(self.prepared.rate(number - 1)))} | self.interval.compute_rates(self.share)
        self.emit(Logged(number, values))
        for name in ("steps", "examples", "tokens", "seconds"):
            setattr(self.pace, name, getattr(self.pace, name) + getattr(self.interval, name))
        self.interval = Pace()

    def _is_due(self, number: int) -> bool:
        """Tells if an evaluation or a checkpoint follows this step."""
        saves = self.experiment.checkpoints.every
        return self._evaluates_at(number) or bool(saves and number % saves == 0)

    def _evaluates_at(self, number: int) -> bool:
        return number % (self.experiment.evaluation.every or len(self.batches)) == 0 or number == self.steps

    def _pause(self, number: int) -> bool:
        """Evaluates, saves and handles signals between two steps; true if training is to stop early."""
        metrics: dict[str, float] | None = None
        stop = False
        if self._evaluates_at(number) and not self.flag.number:
            metrics = self._measure(number)
            stop = metrics is not None and self._judge(number, metrics)
        if self.flag.number:
            sums = functools.reduce(add_sums, jax.device_get(self.pending)) if self.pending else {}
            unwritten = {name: (float(total.value), float(total.weight)) for name, total in sums.items()}
            self._save(number, unwritten, metrics)
            self._wait()
            raise InterruptedRunError(self.flag.number, number)
        saves = self.experiment.checkpoints.every
        if metrics is not None or (saves and number % saves == 0):
            self._save(number, {}, metrics)
        return stop

    def _save(self, number: int, pending: dict[str, tuple[float, float]], metrics: dict[str, float] | None) -> None:
        progress = dataclasses.replace(self.progress, pending=pending)
        if self.budget is not None:
            progress = dataclasses.replace(progress, spent=self.budget.spend(number))
        self.store.save(self.parallel.whole(self.state), progress, metrics)
        self._report_saved(number)  # a save starts only after the one before is on the disk

    def _wait(self) -> None:
        self.store.wait()
        self._report_saved(None)

    def _report_saved(self, following: int | None) -> None:
        """Emits Saved for the checkpoint that was being written; `following` is being written from now on."""
        if self.unsaved is not None:
            self.emit(Saved(self.unsaved))
        self.unsaved = following

    def _measure(self, number: int) -> dict[str, float] | None:
        """Measures metrics on the test split; None if a signal arrived meanwhile."""
        measured = measure(self.prepared, self.state.params, lambda: bool(self.flag.number))
        if measured is None:
            return None
        self.measured = measured
        event = Evaluated(number, self.measured)
        self.emit(event)
        return event.values

    def _judge(self, number: int, metrics: dict[str, float]) -> bool:
        """Records the best metric; true if the goal is reached or patience is over."""
        watched = self.experiment.evaluation
        value = metrics[watched.metric]
        best = self.progress.best
        better = best is None or (value > best if watched.greater else value < best)
        best, waited = (value, 0) if better else (best, self.progress.waited + 1)
        self.progress = dataclasses.replace(self.progress, evaluated=number, best=best, waited=waited, pending={})
        return self._should_stop(number)

    def _should_stop(self, number: int) -> bool:
        """Tells if training stops early, from the best metric so far and the evaluations since it."""
        watched = self.experiment.evaluation
        best = self.progress.best
        if not number or number >= self.steps or best is None:
            return False
        if watched.goal is not None and (best >= watched.goal if watched.greater else best <= watched.goal):
            self.emit(Message(f"{watched.metric} has reached {watched.goal:g}: stopping early"))
        elif watched.patience is not None and self.progress.waited >= watched.patience:
            self.emit(Message(f"no better {watched.metric} in {watched.patience} evaluations: stopping early"))
        else:
            return False
        return True
