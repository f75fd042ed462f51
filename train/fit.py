"""Training as one function: an experiment into a folder, from its first step or from where it was stopped."""

import json
import time
from pathlib import Path
from typing import Any

from train.cautions import cautions
from train.checkpoint import require_structure, saved
from train.console import Console
from train.contracts import Readies
from train.disk import written
from train.errors import InputError
from train.experiment import Experiment
from train.loop import Loop
from train.prepared import prepare
from train.provenance import changed, located, prints, put_aside
from train.requirements import settle
from train.run import adopted, another, claim, extend, fitted, record
from train.signals import Flag


def fit(
    experiment: Experiment,
    folder: Path,
    config: str,
    console: Console,
    fresh: bool = False,
    edits: bool = False,
) -> dict[str, Any]:
    """Trains to the end, continuing what the folder holds; gives the summary that it also writes to summary.json.

    `fresh` moves a run that the folder holds aside and trains anew; `edits` continues it although its own classes or
    its data are not what they were.  A run that is asked for more steps than it had goes on to these, by the schedule
    of the longer run.

    Raises InputError for what cannot be used, before compiling, and InterruptedRunError after a signal, with the state
    saved.
    """
    began = time.perf_counter()
    experiment = experiment if fresh else adopted(folder, experiment)
    old = claim(folder, experiment, config, fresh, edits)
    mine = experiment
    if old is not None:
        mine = fitted(folder, located(experiment, folder, old.said.get("directory"), here=True))
    done = folder / "summary.json"
    if old is not None and done.is_file() and old.experiment == experiment:
        try:
            summary = json.loads(done.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{done} is damaged ({error}); remove it and run the same command again.") from None
        other = changed(old.said.get("data", {}), prints(mine))
        said = f"  Its data is not what it was ({other})." if other else ""
        console.say(f"{folder} is finished; nothing to do.{said}")
        return summary
    with Flag() as flag:
        data = mine.data.open(old.classes if old else ())
        experiment, changes = settle(experiment, data) if old is None else (experiment, ())
        if isinstance(experiment.review, Readies):
            experiment.review.ready(data)
        prepared = prepare(experiment, data)
        steps, shapes = prepared.steps, prepared.shapes
        before = steps if old is None else old.experiment.length(len(prepared.batches))
        if old is not None and steps < before:
            raise InputError(another(folder, old.experiment, experiment))
        if old is not None and not edits and (other := changed(old.said.get("data", {}), prints(mine))):
            raise InputError(
                f"The data is not what {folder} began with ({other}): restore it, go on all the same with --changed, or"
                " train anew with --fresh, which keeps this run under another name."
            )
        kept = saved(folder / "checkpoints")
        for step in kept if old is not None else ():
            require_structure(folder / "checkpoints" / str(step), shapes)
        beginning = None if kept and old is not None else prepared.begin()  # 1 initialise
        if old is None:
            if (folder / "experiment.json").is_file():
                console.say(f"the run that {folder} held is kept as {put_aside(folder)}")
            with written(folder):
                record(folder, experiment, config, data, beginning.fresh if beginning else (), changes)
        fresh_ones = beginning.fresh if beginning else ()
        if old is not None:
            fresh_ones = fresh_ones or tuple(old.said.get("fresh", ()))
        unused = beginning.unused if beginning else ()
        for change in changes:
            console.say(str(change))
        console.plan(prepared, folder, fresh_ones, unused)
        for text in cautions(prepared):
            console.say(f"warning: {text}")

        def restored(step: int) -> None:
            if old is None:
                return
            if steps > before:
                schedule = f"the rate follows the schedule of {steps} steps from here on"
                console.say(f"{folder} goes on to step {steps}, past {before}; {schedule}")
            with written(folder):
                if steps > before and done.is_file():
                    done.rename(folder / f"summary-{before}.json")
                extend(folder, old, experiment, config, step)

        return Loop(prepared, beginning, fresh_ones, folder, console, flag, began).run(restored)
