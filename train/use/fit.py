"""Training as one function: an experiment into a folder, from its first step or from its last checkpoint."""

import contextlib
import dataclasses
import json
import os
import time
from contextlib import AbstractContextManager
from pathlib import Path

from train import baselines
from train.contracts import Findings, Readies
from train.cost.traced import count_parameters, measure_peak_memory
from train.data.notes import get_notes
from train.disk import explain_failed_writes
from train.engine.checkpoint import Store, list_steps, require_structure
from train.engine.constant import add_constant, fit_constant, write_constant
from train.engine.evidence import StoppedError, Trained
from train.engine.folder import Recorded, adopt_settled, claim, describe_conflict, extend, record, use_saved_tokenizer
from train.engine.loop import Loop, Outcome, restore
from train.engine.prepared import Prepared, prepare
from train.engine.provenance import describe_changes, fingerprint_data, put_aside, relocate_paths
from train.engine.requirements import settle
from train.engine.signals import Flag, InterruptedRunError
from train.errors import InputError
from train.events import Finished, NeedsLibrary, Started
from train.experiment import Experiment
from train.page import to_json
from train.report.cautions import find_cautions
from train.report.console import Console
from train.report.html import write_report
from train.sinks.broadcast import Emit, broadcast
from train.sinks.json_lines import JsonLines, get_step, read_metrics
from train.sinks.tensorboard import TensorBoard, is_installed
from train.spec.encoding import encode
from train.summary import Summary, drop_nonfinite, list_measured, replace_nonfinite
from train.use.hint import suggest_command

FINDINGS = "findings.json"  # the review's pieces of the report, by caption


def fit(
    experiment: Experiment,
    folder: Path,
    config: str,
    console: Console,
    fresh: bool = False,
    edits: bool = False,
) -> Summary:
    """Trains to the end, continuing the run that the folder holds; returns the summary written to summary.json.

    `fresh` moves a run that the folder holds aside and trains anew; `edits` continues it although its own classes or
    its data have changed.  A run with more steps or epochs than before goes on to these, by the longer run's schedule.

    Raises InputError for unusable input, before compiling, and InterruptedRunError after a signal, with the state
    saved.
    """
    began = time.perf_counter()
    experiment = experiment if fresh else adopt_settled(folder, experiment)
    old = claim(folder, experiment, config, fresh, edits)
    located = experiment
    if old is not None:
        located = use_saved_tokenizer(folder, relocate_paths(experiment, folder, old.said.get("directory"), here=True))
        if (summary := _read_summary(folder, old, experiment)) is not None:
            other = describe_changes(old.said.get("data", {}), fingerprint_data(located))
            said = f"  Its data is not what it was ({other})." if other else ""
            console.say(f"{folder} is finished; nothing to do.{said}")
            return summary
    for sink in experiment.sinks:
        if isinstance(sink, NeedsLibrary):
            sink.require_installed()
    with Flag() as flag:
        data = located.data.open(old.classes if old else ())
        experiment, changes = settle(experiment, data) if old is None else (experiment, ())
        if isinstance(experiment.review, Readies):
            experiment.review.ready(data)
        prepared = prepare(experiment, data)
        if old is not None:
            _require_same(folder, old, located, prepared, edits)
        checkpoints = folder / "checkpoints"
        kept = list_steps(checkpoints) if old is not None else []
        for step in kept:
            require_structure(checkpoints / str(step), prepared.shapes)
        beginning = None if kept else prepared.begin()  # 1 initialise
        absent = beginning.fresh if beginning else ()
        if old is None:
            if (folder / "experiment.json").is_file():
                console.say(f"the run that {folder} held is kept as {put_aside(folder)}")
            with explain_failed_writes(folder):
                record(folder, experiment, config, data, absent, changes)
        absent = absent or tuple(old.said.get("fresh", ()) if old else ())
        for change in changes:
            console.say(str(change))
        console.show_plan(prepared, folder, absent, beginning.unused if beginning else ())
        cautions = find_cautions(prepared)
        for text in cautions:
            console.say(f"warning: {text}")
        watched = experiment.evaluation
        with Store(checkpoints, experiment.checkpoints.keep, watched.metric, watched.greater) as store:
            loop = Loop(prepared, restore(store, prepared, beginning), store, flag, began)
            beginning = None  # the loop donates its arrays
            if old is not None:
                _extend(folder, old, prepared, config, loop.start, console)
            with _open_sinks(prepared, folder, loop.start, console) as emit:
                outcome = loop.run(emit)
                findings = _review(prepared, outcome, flag)
                constant = fit_constant(prepared, findings.baselines, outcome.measured)
                if constant is not None:
                    trained = Trained(prepared, outcome.params, {name: x for name, (x, _) in outcome.measured.items()})
                    findings = add_constant(trained, findings, constant)
                    write_constant(folder, constant)
                summary = _summarise(folder, prepared, outcome, findings)
                if loop.budget is not None:
                    summary["privacy"] = loop.budget.record(outcome.step)
                summary["fresh"], summary["unused"] = list(loop.fresh or absent), list(loop.unused)
                metrics = {name: value for name, (value, _) in outcome.measured.items()} | findings.metrics
                summary["warnings"] = [*cautions, *baselines.list_warnings(metrics, findings.baselines)]
                summary["command"] = suggest_command(experiment, data, folder)
                _write(folder, experiment, summary, findings)
                emit(Finished(outcome.step, summary))
    return summary


def _read_summary(folder: Path, old: Recorded, experiment: Experiment) -> Summary | None:
    """Reads the summary of a finished run; None if the run is unfinished, or the experiment now trains further."""
    done = folder / "summary.json"
    if not done.is_file() or dataclasses.replace(old.experiment, sinks=experiment.sinks) != experiment:
        return None
    try:
        return json.loads(done.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{done} is damaged ({error}); remove it and run the same command again.") from None


def _require_same(folder: Path, old: Recorded, located: Experiment, prepared: Prepared, edits: bool) -> None:
    """Raises InputError if a run would be continued with fewer steps, or, unless `edits` is set, on other data."""
    if prepared.steps < old.experiment.count_steps(len(prepared.batches)):
        raise InputError(describe_conflict(folder, old.experiment, prepared.experiment))
    if not edits and (other := describe_changes(old.said.get("data", {}), fingerprint_data(located))):
        raise InputError(
            f"The data is not what {folder} began with ({other}): restore it, go on all the same with --changed, or"
            " train anew with --fresh, which keeps this run under another name."
        )


def _extend(folder: Path, old: Recorded, prepared: Prepared, config: str, step: int, console: Console) -> None:
    """Records that a run goes on from a step, before anything else is written."""
    done = folder / "summary.json"
    steps = prepared.steps
    before = old.experiment.count_steps(len(prepared.batches))
    if steps > before:
        schedule = f"the rate follows the schedule of {steps} steps from here on"
        console.say(f"{folder} goes on to step {steps}, past {before}; {schedule}")
    with explain_failed_writes(folder):
        if steps > before and done.is_file():
            done.rename(folder / f"summary-{before}.json")
        extend(folder, old, prepared.experiment, config, step)


def _open_sinks(prepared: Prepared, folder: Path, step: int, console: Console) -> AbstractContextManager[Emit]:
    """Opens the log, TensorBoard if its writer is installed, the console, and the sinks of the experiment."""
    lines = [line for line in read_metrics(folder) if get_step(line) == step]
    logged = frozenset(name.partition("/")[0] for line in lines for name in line if name != "step")
    usual = (JsonLines(), *((TensorBoard(),) if is_installed() else ()))
    sinks = tuple(dict.fromkeys((*usual, console, *prepared.experiment.sinks)))
    settings = encode(prepared.experiment)
    assert isinstance(settings, dict)
    return broadcast(sinks, Started(folder, step, prepared.steps, settings, logged))


def _review(prepared: Prepared, outcome: Outcome, flag: Flag) -> Findings:
    """Runs the experiment's review on the test split."""
    review = prepared.experiment.review
    if review is None:
        return Findings()
    measured = {name: value for name, (value, _) in outcome.measured.items()}
    findings = Findings()
    with contextlib.suppress(StoppedError):
        findings = review.review(Trained(prepared, outcome.params, measured, stop=lambda: bool(flag.number)))
    if flag.number:
        raise InterruptedRunError(flag.number, outcome.step)
    return findings


def _summarise(folder: Path, prepared: Prepared, outcome: Outcome, findings: Findings) -> Summary:
    """Collects the numbers of a finished run as JSON values."""
    summary: Summary = {
        "run": str(folder),
        "steps": outcome.step,
        "best_step": outcome.best,
        "parameters": count_parameters(prepared.shapes),
        "flops_per_step": prepared.work,
        "seconds_to_first_step": drop_nonfinite(outcome.seconds_to_first_step),
        "peak_memory_bytes": measure_peak_memory(),
        "evaluation": list_measured(outcome.measured),
        "review": replace_nonfinite(findings.metrics),
        "baselines": {
            metric: replace_nonfinite(values) for metric, values in baselines.record(findings.baselines).items()
        },
        "data": [note.record() for note in get_notes(prepared.data)],
    }
    rates = replace_nonfinite(outcome.rates)
    if "examples_per_second" in rates:
        summary["examples_per_second"] = rates["examples_per_second"]
    if "tokens_per_second" in rates:
        summary["tokens_per_second"] = rates["tokens_per_second"]
    if "mfu" in rates:
        summary["mfu"] = rates["mfu"]
    return summary


def _write(folder: Path, experiment: Experiment, summary: Summary, findings: Findings) -> None:
    """Writes report.html, the review's pieces, and summary.json: last and atomically, as it marks a run as finished."""
    with explain_failed_writes(folder, f"The checkpoint of step {summary['steps']} is kept."):
        write_report(folder, experiment, summary, findings.pictures)
        pieces = {caption: to_json(piece) for caption, piece in findings.pictures.items()}
        (folder / FINDINGS).write_text(json.dumps(pieces) + "\n", encoding="utf-8")
        partial = folder / "summary.json.partial"
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, folder / "summary.json")
