"""Outline of a study before anything is trained: costs of its entries, and the number and time of its trials."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import rich.box
import rich.table

from train.errors import Json
from train.report.console import format_count, format_duration
from train.study.compare import Entry
from train.study.costs import prepare_config, read_whole_cost
from train.study.pilot import time_steps
from train.variants import BASELINE, FIRST, Study

Seconds = Mapping[str, float]  # of a step, by the entry's name


def measure_entries(study: Study, entries: Sequence[Entry]) -> tuple[list[Entry], Seconds]:
    """Compiles and times the steps of all entries in turn, and adds activations to their costs."""
    taken = [entry for entry in entries if entry.out is None]
    ready = {entry.name: prepare_config(study.config, entry.overrides, study.files) for entry in taken}
    seconds = time_steps(list(ready.values()))
    whole = [
        dataclasses.replace(entry, cost=read_whole_cost(ready[entry.name], compiled=True)) if entry in taken else entry
        for entry in entries
    ]
    return whole, {name: float(np.median(times)) for name, times in zip(ready, seconds, strict=True)}


def count_trials(study: Study, entries: Sequence[Entry]) -> tuple[int, int]:
    """Counts the trials of a study, at least and at most: of tuning, and of seeds until each variant is decided."""
    taken = sum(entry.out is None for entry in entries)
    if taken == 1:
        return 0, 0
    tuning = taken * len(study.grid) * study.tuning_seeds
    least, most = (study.seeds, study.seeds) if study.seeds is not None else (FIRST, study.most)
    return tuning + taken * least, tuning + taken * most


def estimate_times(study: Study, entries: Sequence[Entry], seconds: Seconds, workers: int) -> tuple[float, float]:
    """Estimates the seconds that the steps of a study take on `workers` workers, at least and at most."""
    taken = [entry for entry in entries if entry.out is None]
    steps = prepare_config(study.config, taken[0].overrides, study.files).steps
    each = steps * sum(seconds[entry.name] for entry in taken) / len(taken)
    least, most = count_trials(study, entries)
    return -(-least // workers) * each, -(-most // workers) * each


def describe_trials(study: Study, entries: Sequence[Entry], seconds: Seconds, workers: int) -> str:
    """Describes the number of trials and the time of their steps in a sentence."""
    (least, most), (short, long) = count_trials(study, entries), estimate_times(study, entries, seconds, workers)
    trials = f"{least} trials" if least == most else f"{least} to {most} trials"
    time = format_duration(short) if least == most else f"{format_duration(short)} to {format_duration(long)}"
    return (
        f"{trials}, {workers} at a time: about {time} of steps by a pilot of {seconds[BASELINE]:.3g} s a step of the"
        " baseline on all cores, beside compilation and evaluation; workers that share the cores are slower"
    )


def make_cost_table(entries: Sequence[Entry], seconds: Seconds) -> rich.table.Table:
    """The table of costs, of each entry in a column; what does not apply is left empty."""
    shown = rich.table.Table("cost", *(entry.name for entry in entries), box=rich.box.SIMPLE)
    rows: list[tuple[str, list[float | None]]] = [
        ("parameters", [entry.cost.parameters for entry in entries]),
        ("  of the embedding", [entry.cost.embedding for entry in entries]),
        ("  active", [entry.cost.active for entry in entries]),
        ("FLOPs a step", [entry.cost.flops for entry in entries]),
        ("  forward", [entry.cost.forward for entry in entries]),
        ("activations, bytes", [entry.cost.activations for entry in entries]),
        ("state of a row, bytes", [entry.cost.state for entry in entries]),
        ("  at tokens", [entry.cost.length for entry in entries]),
        ("FLOPs of decoding a token", [entry.cost.decoding for entry in entries]),
    ]
    for name, values in rows:
        shown.add_row(name, *("" if value is None else format_count(value) for value in values))
    times = [f"{seconds[entry.name]:.3g}" if entry.name in seconds else "" for entry in entries]
    shown.add_row("seconds a step", *times)
    for entry in entries:
        if entry.out is not None or entry.moved:
            shown.caption = "\n".join(filter(None, (str(shown.caption or ""), _describe_match(entry))))
    return shown


def _describe_match(entry: Entry) -> str:
    return entry.out or f"{entry.name}: matched by {', '.join(entry.moved)}"


def record_plan(study: Study, entries: Sequence[Entry], seconds: Seconds, workers: int) -> dict[str, Json]:
    """The outline as JSON values."""
    return {
        "trials": list(count_trials(study, entries)),
        "seconds": list(estimate_times(study, entries, seconds, workers)),
        "workers": workers,
        "entries": [
            {
                "variant": entry.name,
                "overrides": list(entry.overrides),
                "matched": list(entry.moved),
                "reason": entry.out,
                "cost": entry.cost.record(),
                "step_seconds": seconds.get(entry.name),
            }
            for entry in entries
        ],
    }
