"""The console of a run: tables, and a progress bar, or plain lines if there is no terminal."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import rich.console
import rich.progress
import rich.table
import rich.text

from models.structure import fields
from models.words import join, merge_layers
from train.baselines import count_decimals, describe, format_number
from train.cost.traced import count_parameters
from train.data.notes import get_notes
from train.engine.prepared import Prepared
from train.events import Evaluated, Event, Finished, Logged, Message, Started
from train.summary import Results, Summary
from train.weights import FromFolder


class Shown:
    """Shows events of a run on a console: a bar while it trains, a line for each evaluation, the summary."""

    def __init__(self, console: "Console", started: Started) -> None:
        self.console, self.steps = console, started.steps
        self.shown = contextlib.ExitStack()
        if started.step:
            console.say(f"continuing from step {started.step} of {started.steps}")
        self.bar: Bar | None = None
        if started.step < started.steps:
            self.bar = self.shown.enter_context(console.show_bar(started.step, started.steps))

    def write(self, event: Event) -> None:
        """Shows an event."""
        match event:
            case Logged() if self.bar is not None:
                self.bar.update(event.step, event.values)
            case Evaluated():
                self.console.show_evaluation(event.step, event.measured)
            case Message():
                self.console.say(event.text)
            case Finished():
                self.close(failed=False)
                self.console.show_summary(event.summary)
            case _:
                pass
        if isinstance(event, Evaluated) and event.step >= self.steps:
            self.close(failed=False)

    def close(self, failed: bool) -> None:
        """Ends the bar."""
        self.shown.close()


class Bar(Protocol):
    """A progress bar: `update` gets the step and its newest values at each log step."""

    def update(self, step: int, values: Mapping[str, float]) -> None: ...


class Console:
    """Writes to standard error: a progress bar on a terminal, otherwise lines; nothing if `silent`."""

    def __init__(self, silent: bool = False) -> None:
        self.rich = rich.console.Console(stderr=True, quiet=silent, highlight=False, soft_wrap=True)

    def open(self, started: Started) -> Shown:
        """Opens the console for the events of a run."""
        return Shown(self, started)

    def say(self, text: str) -> None:
        """Prints a line."""
        self.rich.print(text, markup=False)

    def show_plan(
        self, prepared: Prepared, folder: Path, fresh: Sequence[str] = (), unused: Sequence[str] = ()
    ) -> None:
        """Shows the five steps of this run, before it starts."""
        experiment = prepared.experiment
        initial = experiment.initial
        source = "chance" if initial is None else type(initial).__name__
        if isinstance(initial, FromFolder):
            source = initial.folder
        said = [(what, join(merge_layers(names))) for what, names in (("fresh", fresh), ("unused", unused)) if names]
        parts = "".join(f", {what}: {names}" for what, names in said)
        optimizer = type(experiment.optimizer).__name__
        parallel = experiment.parallel
        settings = ", ".join(
            f"{field.name}={getattr(parallel, field.name)}" for field in fields(parallel) if field.name != "rules"
        )
        lines = [
            ("1 initialise", f"{format_count(count_parameters(prepared.shapes))} parameters from {source}{parts}"),
            (
                "2 forward",
                f"{type(experiment.model).__name__}, {experiment.batch_size} examples a step, {experiment.precision}",
            ),
            ("3 loss", f"{type(experiment.objective).__name__}"),
            (
                "4 gradient",
                f"{optimizer}, by {type(parallel).__name__}({settings}) on {parallel.size()} device(s)",
            ),
            ("5 iterate", f"{prepared.steps} steps of {len(prepared.batches)} in an epoch, into {folder}"),
        ]
        self.rich.print(
            rich.text.Text("\n").join(rich.text.Text.assemble((f"{name:<13}", "bold"), text) for name, text in lines)
        )
        for note in get_notes(prepared.data):
            self.say(str(note))

    @contextlib.contextmanager
    def show_bar(self, start: int, steps: int) -> Iterator[Bar]:
        """Shows a progress bar for the steps from `start` on."""
        if not self.rich.is_terminal:
            yield Lines(self, start, steps)
            return
        columns = (
            rich.progress.TextColumn("step {task.completed}/{task.total}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.description}"),
            rich.progress.TimeRemainingColumn(),
        )
        with rich.progress.Progress(*columns, console=self.rich) as progress:
            yield Live(progress, progress.add_task("compiling", total=steps, completed=start))

    def show_evaluation(self, step: int, measured: Mapping[str, tuple[float, float]]) -> None:
        """Shows the metrics of an evaluation, each with its interval."""
        self.say(
            f"evaluation at step {step}: "
            + ", ".join(f"{name} {format_interval(*both)}" for name, both in measured.items())
        )

    def show_summary(self, summary: Summary) -> None:
        """Shows the table at the end."""
        table = rich.table.Table(show_header=False)
        for name, value in format_summary(summary):
            table.add_row(name, value)
        self.rich.print(table)


class Live:
    """A progress bar of rich."""

    def __init__(self, progress: rich.progress.Progress, task: rich.progress.TaskID) -> None:
        self.progress, self.task = progress, task

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Moves the bar."""
        self.progress.update(self.task, completed=step, description=format_values(values))


class Lines:
    """A line of text for each log step, with the time left."""

    def __init__(self, console: Console, start: int, steps: int) -> None:
        self.console, self.start, self.steps = console, start, steps
        self.clock = time.monotonic
        self.since: tuple[int, float] | None = None

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the line."""
        now = self.clock()
        left = ""
        if self.since is not None and step > self.since[0]:
            left = f", {format_duration((now - self.since[1]) / (step - self.since[0]) * (self.steps - step))} left"
        self.since = self.since or (step, now)
        self.console.say(f"step {step}/{self.steps}: {format_values(values)}{left}")


def print_table(table: rich.table.Table) -> None:
    """Prints a table that a command gives as its answer, to standard output; in a file or a pipe nothing is cut."""
    console = rich.console.Console()
    if not console.is_terminal:
        console = rich.console.Console(width=400)
    console.print(table)


def format_values(values: Mapping[str, float]) -> str:
    """Formats loss, rate and throughput."""
    words = [f"loss {values['loss']:.4f}", f"rate {values['rate']:.2e}"]
    if "examples_per_second" in values:
        words.append(f"{values['examples_per_second']:.1f} examples/s")
    if values.get("tokens_per_second"):
        words.append(f"{format_count(values['tokens_per_second'])} tokens/s")
    if "mfu" in values:
        words.append(f"MFU {values['mfu']:.1%}")
    return ", ".join(words)


def format_summary(summary: Summary) -> list[tuple[str, str]]:
    """Formats the summary as names and values to read."""
    measured = [(name, f"{value}  ({without})" if without else value) for name, value, without in list_results(summary)]
    warnings = [remark for remark in list_remarks(summary) if remark[0] == "warning"]
    return (
        list_facts(summary)
        + warnings
        + measured
        + [remark for remark in list_remarks(summary) if remark[0] != "warning"]
    )


def list_facts(summary: Summary) -> list[tuple[str, str]]:
    """Lists a run's size, FLOPs, throughput, peak memory, and its fresh and unused parameters."""
    first, examples = summary["seconds_to_first_step"], summary.get("examples_per_second")
    tokens, used = summary.get("tokens_per_second"), summary.get("mfu")
    absent = (("fresh", summary.get("fresh")), ("unused", summary.get("unused")))
    return [
        ("parameters", format_count(summary["parameters"])),
        ("FLOPs a step", format_count(summary["flops_per_step"])),
        ("steps", str(summary["steps"])),
        ("time to first step", "-" if first is None else f"{first:.1f} s"),
        ("examples/s", "-" if examples is None else f"{examples:.1f}"),
        ("tokens/s", f"{tokens:.0f}" if tokens else "-"),
        *([("MFU", f"{used:.1%}")] if used is not None else []),
        ("peak memory", f"{summary['peak_memory_bytes'] / 2**20:.0f} MiB"),
        *((name, join(merge_layers(names))) for name, names in absent if names),
        *([("privacy", describe_privacy(spent))] if (spent := summary.get("privacy")) else []),
    ]


def describe_privacy(spent: Mapping[str, float]) -> str:
    """Describes what a private run spent: its epsilon and delta, and the mechanism."""
    return (
        f"epsilon {spent['epsilon']:.3g} at delta {spent['delta']:g}: noise {spent['noise']:.4g}, gradients clipped to"
        f" {spent['clip']:g}, {spent['sampled']:.0f} of {spent['examples']:.0f} examples a step on average"
    )


def list_results(summary: Results) -> list[tuple[str, str, str]]:
    """Lists each metric: its name, its value with its interval, and its baselines, if there are any."""
    measured = {name: (both["value"], both["interval"]) for name, both in summary["evaluation"].items()}
    reviewed = {name: (value, None) for name, value in summary["review"].items() if name not in measured}
    without = {name: describe(several) for name, several in summary.get("baselines", {}).items()}
    return [(name, format_interval(*both), without.get(name, "")) for name, both in (measured | reviewed).items()]


def list_remarks(summary: Results) -> list[tuple[str, str]]:
    """Lists warnings, and notes on the data; a summary of an older version has neither."""
    warnings = [("warning", text) for text in summary.get("warnings", ())]
    return warnings + [("data", str(note["said"])) for note in summary.get("data", ())]


def format_interval(value: float | None, half: float | None) -> str:
    """Formats a value with the half width of its 95 % interval, if it has one."""
    words = format_number(value)
    if half is None or value is None or not math.isfinite(half):
        return words
    return f"{words} ± {half:.{count_decimals(value)}f}"


def format_count(number: float, space: str = "") -> str:
    """Formats a number with its magnitude, and `space` before it: 22.7M."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{space}{letter}"
    return f"{number:.0f}{space}"


def format_duration(seconds: float) -> str:
    """Formats seconds as hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
