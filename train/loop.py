"""The loop: the five steps of training, and everything around them that keeps a run safe."""

import dataclasses
import functools
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.cautions import cautions
from train.checkpoint import Progress, Store
from train.console import Bar, Console
from train.contracts import Findings
from train.data.notes import notes_of
from train.disk import written
from train.errors import InputError
from train.metrics import MetricsLog, finite
from train.prepared import Beginning, Prepared
from train.review.trained import Trained
from train.signals import Flag, InterruptedRunError
from train.step import TrainState
from train.study.chips import chip
from train.study.cost import parameters, peak_memory
from train.study.report import write_report
from train.study.statistics import interval
from train.sums import Sum, add, mean

Batch = dict[str, np.ndarray]


@dataclasses.dataclass
class Pace:
    """Work done and the time it took."""

    steps: float = 0.0
    examples: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0

    def rates(self, work: float = 0.0) -> dict[str, float]:
        """Examples and tokens a second; empty where nothing was timed.

        With `work`, the part of what the chips can do in a second that a step of the model asks for, also `mfu`.
        """
        if not self.examples or not self.seconds:
            return {}
        used = {"mfu": work * self.steps / self.seconds} if work else {}
        return {"examples_per_second": self.examples / self.seconds, "tokens_per_second": self.tokens / self.seconds} | used


class Loop:
    """One run from where its folder left it to its last step, from `beginning` if the folder has no checkpoint."""

    def __init__(
        self,
        prepared: Prepared,
        beginning: Beginning | None,
        fresh: tuple[str, ...],
        folder: Path,
        console: Console,
        flag: Flag,
        began: float,
    ) -> None:
        self.prepared, self.steps, self.folder, self.first = prepared, prepared.steps, folder, beginning
        self.console, self.flag, self.began = console, flag, began
        self.experiment, self.parallel = prepared.experiment, prepared.parallel
        self.batches, self.step = prepared.batches, prepared.step
        self.fresh, self.unused = fresh, () if beginning is None else beginning.unused
        self.state: TrainState
        self.progress = Progress()
        self.measured: dict[str, tuple[float, float]] = {}
        self.first_step = math.nan
        self.pending: list[dict[str, Sum]] = []  # the sums of the steps since the last line of the log
        self.pace, self.interval = Pace(), Pace()
        own = chip(jax.local_devices()[0].device_kind)  # the first batch's shapes stand for all
        self.share = prepared.model_work / (own.flops * self.parallel.size()) if own else 0.0

    def run(self, restored: Callable[[int], None] = lambda step: None) -> dict[str, Any]:
        """Iterates to the end, saves, reports; calls `restored` with the step that it goes on from before anything is written."""
        watched = self.experiment.evaluation
        with Store(self.folder / "checkpoints", self.experiment.checkpoints.keep, watched.metric, watched.greater) as store:
            number = self._restore(store)
            restored(number)
            self.log = MetricsLog(self.folder, number)
            try:
                unfinished = self.progress.evaluated < number and self._measures(number)
                stopped = self._pause(store, number) if unfinished else self._content(number)
                if not stopped and number < self.steps:
                    number = self._iterate(store, number)
                if not self.measured and self._measure(number) is None:
                    raise InterruptedRunError(self.flag.number, number)
                findings = self._review(number)
                best = store.best()
            finally:
                self.log.close()
        return self._finish(number, best, findings)

    def _restore(self, store: Store) -> int:
        found = store.restore(self.prepared.logical()) if self.first is None else None
        if found is None:
            self.state, fresh, self.unused = self.first or self.prepared.begin()
            self.first, self.fresh = None, fresh or self.fresh
            return 0
        whole, self.progress = found
        start = int(whole.step)
        self.state = self.parallel.spread(whole, consume=True)
        if self.progress.pending:
            self.pending = [{name: Sum(*map(jnp.float32, both)) for name, both in self.progress.pending.items()}]
        self.console.say(f"continuing from step {start} of {self.steps}")
        return start

    def _iterate(self, store: Store, start: int) -> int:
        number = start
        with self.console.bar(start, self.steps) as bar:
            since = time.perf_counter()
            for number, (batch, examples, tokens) in enumerate(self._ahead(start), start + 1):
                # 2 forward, 3 loss and 4 gradient are inside the step, which gives new parameters; 5 iterate is this loop.
                self.state, sums = self.step(self.state, batch)
                self.pending.append(sums)
                self.interval.steps += 1
                self.interval.examples, self.interval.tokens = self.interval.examples + examples, self.interval.tokens + tokens
                if number == start + 1:
                    jax.block_until_ready(sums)
                    self.first_step = time.perf_counter() - self.began
                    since, self.interval = time.perf_counter(), Pace()
                if number % self.experiment.log_every == 0 or number == self.steps or self._due(number):
                    self._write(number, bar, since)
                    since = time.perf_counter()
                if (self.flag.number or self._due(number)) and self._pause(store, number):
                    break
                if self._due(number):
                    since = time.perf_counter()
        store.wait()
        return number

    def _ahead(self, start: int) -> Iterator[tuple[Any, float, float]]:
        """Batches on the device before they are needed, with their numbers of examples and tokens."""

        def placed() -> Iterator[tuple[Any, float, float]]:
            for batch in self.batches.stream(start, self.steps):
                tokens = float((batch["segments"] > 0).sum()) if "segments" in batch else 0.0
                rows = float(len(next(iter(batch.values()))))
                yield self.parallel.put(batch), float(batch["weights"].sum()) if "starts" in batch else rows, tokens

        waiting = placed()
        ready = list(itertools.islice(waiting, 2))
        while ready:
            yield ready.pop(0)
            ready.extend(itertools.islice(waiting, 1))

    def _write(self, number: int, bar: Bar, since: float) -> None:
        sums = jax.device_get(self.pending)  # the one place where the host waits for the device
        self.interval.seconds = time.perf_counter() - since
        values, self.pending = mean(functools.reduce(add, sums)), []
        if not math.isfinite(values["loss"]):
            raise InputError(
                f"The loss is {values['loss']} at step {number}: lower optimizer.rate.peak or set optimizer.clip;"
                f" earlier checkpoints in {self.folder} are kept."
            )
        values |= {"rate": float(self.prepared.rate(number - 1))} | self.interval.rates(self.share)
        self.log.write(number, "train", values)
        bar.update(number, values)
        for name in ("steps", "examples", "tokens", "seconds"):
            setattr(self.pace, name, getattr(self.pace, name) + getattr(self.interval, name))
        self.interval = Pace()

    def _due(self, number: int) -> bool:
        """Whether something is measured or saved after this step."""
        saves = self.experiment.checkpoints.every
        return self._measures(number) or bool(saves and number % saves == 0)

    def _measures(self, number: int) -> bool:
        return number % (self.experiment.evaluation.every or len(self.batches)) == 0 or number == self.steps

    def _pause(self, store: Store, number: int) -> bool:
        """Evaluation, checkpoint and signals between two steps; True to stop training early."""
        metrics: dict[str, float] | None = None
        stop = False
        if self._measures(number) and not self.flag.number:
            metrics = self._measure(number)
            stop = metrics is not None and self._judge(number, metrics)
        if self.flag.number:
            sums = functools.reduce(add, jax.device_get(self.pending)) if self.pending else {}
            unwritten = {name: (float(total.value), float(total.weight)) for name, total in sums.items()}
            store.save(self.parallel.whole(self.state), dataclasses.replace(self.progress, pending=unwritten), metrics)
            store.wait()
            raise InterruptedRunError(self.flag.number, number)
        saves = self.experiment.checkpoints.every
        if metrics is not None or (saves and number % saves == 0):
            store.save(self.parallel.whole(self.state), dataclasses.replace(self.progress, pending={}), metrics)
        return stop

    def _measure(self, number: int) -> dict[str, float] | None:
        """The metrics on the test split; None where a signal came meanwhile."""
        parts = self.prepared.evaluate(self.state.params, lambda: bool(self.flag.number))
        if parts is None:
            return None
        self.measured = {name: interval(sums) for name, sums in parts.items()}
        metrics = {name: value for name, (value, _) in self.measured.items()}
        self.log.write(number, "evaluation", metrics)
        self.console.evaluation(number, self.measured)
        return metrics

    def _review(self, number: int) -> Findings:
        """What the experiment's review finds on the test split."""
        if self.experiment.review is None:
            return Findings()
        measured = {name: value for name, (value, _) in self.measured.items()}
        findings = self.experiment.review.review(Trained(self.prepared, self.state.params, measured, stop=lambda: bool(self.flag.number)))
        if self.flag.number:
            raise InterruptedRunError(self.flag.number, number)
        return findings

    def _judge(self, number: int, metrics: dict[str, float]) -> bool:
        """Remembers the best; True when the goal is reached or patience is over."""
        watched = self.experiment.evaluation
        value, best = metrics[watched.metric], self.progress.best
        better = best is None or (value > best if watched.greater else value < best)
        self.progress = Progress(number, value, 0) if better else Progress(number, best, self.progress.waited + 1)
        return self._content(number)

    def _content(self, number: int) -> bool:
        """Whether the last evaluation ends training, which the best so far and the wait for a better one tell."""
        watched, best = self.experiment.evaluation, self.progress.best
        if not number or number >= self.steps or best is None:
            return False
        if watched.goal is not None and (best >= watched.goal if watched.greater else best <= watched.goal):
            self.console.say(f"{watched.metric} has reached {watched.goal:g}: stopping early")
        elif watched.patience is not None and self.progress.waited >= watched.patience:
            self.console.say(f"no better {watched.metric} in {watched.patience} evaluations: stopping early")
        else:
            return False
        return True

    def _finish(self, number: int, best: int | None, findings: Findings) -> dict[str, Any]:
        summary = {
            "run": str(self.folder),
            "steps": number,
            "best_step": best,
            "parameters": parameters(self.prepared.shapes),
            "flops_per_step": self.prepared.work,
            "seconds_to_first_step": self.first_step,
            "peak_memory_bytes": peak_memory(),
            "fresh": list(self.fresh),
            "unused": list(self.unused),
            "warnings": cautions(self.prepared),
            "evaluation": {name: {"value": value, "interval": half} for name, (value, half) in self.measured.items()},
            "review": findings.metrics,
            "data": [note.record() for note in notes_of(self.prepared.data)],
        } | self.pace.rates(self.share)
        summary = finite(summary)
        with written(self.folder, f"The checkpoint of step {number} is kept."):
            write_report(self.folder, self.experiment, summary, findings.pictures)
            partial = self.folder / "summary.json.partial"
            partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
            os.replace(partial, self.folder / "summary.json")
        self.console.summary(summary)
        return summary
