"""Model cards of runs in Markdown, with the YAML header of Hugging Face's cards (Mitchell et al., arXiv:1810.03993)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from models.contracts import Tree
from models.words import join
from train.data.origins import Named, ReadsFiles
from train.data.sources import describe_dataset
from train.engine.folder import Recorded
from train.errors import InputError, Json
from train.report.console import format_count, format_duration, format_interval, list_results
from train.summary import Summary

TAGS = {  # tasks of Hugging Face by the class of the data
    "Text": "text-classification",
    "Pairs": "translation",
    "Images": "image-classification",
    "Clips": "video-classification",
    "Boxes": "object-detection",
    "Series": "time-series-forecasting",
}
LEFT = "Not known; fill it in."


class Level(TypedDict):
    """A measure of a group in bias.json."""

    value: float | None
    interval: float | None
    count: int


class Group(TypedDict):
    """A group in bias.json, with its measures by name."""

    columns: list[str]
    group: str
    examples: int
    small: bool
    measures: dict[str, Level]


class Gap(TypedDict):
    """A gap in bias.json."""

    columns: list[str]
    group: str
    against: str
    measure: str
    difference: float
    interval: list[float]


class Audited(TypedDict):
    """The parts of bias.json that the card has."""

    examples: int
    tests: int
    found: list[Gap]
    all: dict[str, Level]
    groups: list[Group]


class Changed(TypedDict):
    """A change in swaps.json."""

    kind: str
    number: str
    examples: int
    change: float
    interval: list[float]


class Swapped(TypedDict):
    """The parts of swaps.json that the card has."""

    changes: list[Changed]


def write_card(path: Path, folder: Path, run: Recorded, licence: str, watts: float | None) -> None:
    """Writes the model card of a finished run.  Raises InputError if the run has no summary yet."""
    summary: Summary | None = _read(folder / "summary.json")
    if summary is None:
        raise InputError(f"{folder} has no summary.json, which the end of training writes; finish the run first.")
    header = make_header(folder, run, summary, licence)
    sections = list(list_sections(folder, run, summary, watts, licence))
    yaml = "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in header.items())
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections)
    path.write_text(f"---\n{yaml}\n---\n\n# {folder.name}\n\n{body}\n", encoding="utf-8")


def _read(path: Path) -> Tree:
    """Reads a JSON file that a command wrote; None if it is absent."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); make it again by its command.") from None


def make_header(folder: Path, run: Recorded, summary: Summary, licence: str) -> dict[str, Json]:
    """Makes the metadata of the card: licence, library, task, and each metric with its value."""
    task = TAGS.get(type(run.experiment.data).__name__, "other")
    measured = {name: both["value"] for name, both in summary["evaluation"].items() if both["value"] is not None}
    results: list[Json] = [
        {
            "task": {"type": task},
            "dataset": {"type": _name_data(run), "name": _name_data(run), "split": "test"},
            "metrics": [{"type": name, "value": value, "name": name} for name, value in measured.items()],
        }
    ]
    header: dict[str, Json] = {"license": licence, "library_name": "morphax", "tags": ["jax", "morphax"]}
    if task != "other":
        header["pipeline_tag"] = task
    return header | {"metrics": list(measured), "model-index": [{"name": folder.name, "results": results}]}


def _name_data(run: Recorded) -> str:
    data = run.experiment.data
    if isinstance(data, ReadsFiles) and data.path is not None:
        return Path(data.path).name
    return data.dataset if isinstance(data, Named) and data.dataset else type(data).__name__


def list_sections(
    folder: Path, run: Recorded, summary: Summary, watts: float | None, licence: str
) -> Iterator[tuple[str, str]]:
    """Lists the sections of the card by their headings."""
    yield "Model", _describe_model(run, summary)
    yield "Data", _describe_data(run, summary)
    yield "Metrics", _describe_metrics(summary)
    yield "Groups", _describe_groups(_read(folder / "bias.json"), _read(folder / "swaps.json"), folder)
    yield "Privacy", _describe_privacy(summary)
    yield "Limits", _describe_limits(summary)
    yield "Energy and time", _describe_costs(run, summary, watts)
    known = "" if licence != "unknown" else " Give it by `--licence`, such as apache-2.0."
    yield "Licence", f"{licence}.{known}"
    yield "Intended use", LEFT


def _describe_model(run: Recorded, summary: Summary) -> str:
    experiment = run.experiment
    initial = "random" if experiment.initial is None else str(experiment.initial)
    classes = f", classes {join(run.classes)}" if run.classes else ""
    versions = run.said.get("versions", {})
    lines = [
        f"{type(experiment.model).__name__} with {format_count(summary['parameters'])} parameters{classes}.",
        f"Config `{run.config}`, {summary['steps']} steps of {experiment.batch_size} examples, seed {experiment.seed},"
        f" {experiment.precision}; initial parameters: {initial}; objective: {type(experiment.objective).__name__}.",
        f"Versions: {join((f'{name} {version}' for name, version in versions.items() if version), 400)}.",
    ]
    return "\n\n".join(lines)


def _describe_data(run: Recorded, summary: Summary) -> str:
    data = run.experiment.data
    own = isinstance(data, ReadsFiles) and data.path is not None
    lines = [f"{type(data).__name__}, from {'the file or folder' if own else 'the data set'} `{_name_data(run)}`."]
    if own:
        lines.append("Its licence and who is in it are not known to the run; fill them in.")
    else:
        try:
            lines.append(f"Licence of the data: {describe_dataset(_name_data(run))['licence'] or 'not known'}.")
        except InputError:
            lines.append("Licence of the data: not known.")
    for setting, values in run.said.get("data", {}).items():
        lines.append(f"`{setting}`: {join((f'{name} {value}' for name, value in values.items()), 300)}.")
    return "\n\n".join([*lines, *(f"- {note['said']}" for note in summary.get("data", []))])


def _describe_metrics(summary: Summary) -> str:
    rows = "\n".join(f"| {name} | {value} | {without} |" for name, value, without in list_results(summary))
    return (
        "On the test part, with half of the 95 % interval over examples, beside what needs no model:\n\n"
        f"| metric | value | without the model |\n| --- | --- | --- |\n{rows}"
    )


def _describe_groups(audit: Audited | None, swaps: Swapped | None, folder: Path) -> str:
    if not audit and not swaps:
        return f"Not audited. `morphax audit bias {folder.name} --groups COLUMN` compares groups."
    lines: list[str] = []
    if audit:
        names = sorted({" and ".join(group["columns"]) for group in audit["groups"]})
        lines.append(
            f"Groups by {join(names)} were compared on {audit['examples']} examples: {len(audit['found'])} of"
            f" {audit['tests']} gaps are more than chance explains (Bonferroni)."
        )
        shown = [name for name in ("accuracy", "mean_absolute_error", "loss") if name in audit["all"]][:1]
        rows = [
            f"| {' and '.join(group['columns'])} | {group['group']} | {group['examples']}"
            f" | {_format(group['measures'][name])}{' (too few to say)' if group['small'] else ''} |"
            for group in audit["groups"]
            for name in shown
        ]
        head = f"| column | group | examples | {shown[0] if shown else ''} |\n| --- | --- | --- | --- |"
        lines.append("\n".join([head, *rows]))
        lines += [
            f"- {gap['measure']} of {gap['group']} ({' and '.join(gap['columns'])}) differs from {gap['against']} by"
            f" {gap['difference']:+.4f} [{gap['interval'][0]:+.4f}, {gap['interval'][1]:+.4f}]"
            for gap in audit["found"][:10]
        ]
    lines += [
        f"- {change['kind']}: substituted terms change {change['number']} by {change['change']:+.4f}"
        f" [{change['interval'][0]:+.4f}, {change['interval'][1]:+.4f}] over {change['examples']} examples"
        for change in (swaps or {"changes": []})["changes"]
    ]
    return "\n\n".join(lines)


def _format(level: Level) -> str:
    return format_interval(level["value"], level["interval"]) if level["count"] else "-"


def _describe_privacy(summary: Summary) -> str:
    spent = dict(summary).get("privacy")
    if isinstance(spent, dict):
        return (
            "Differential privacy, as trained: " + ", ".join(f"{name} {value:g}" for name, value in spent.items()) + "."
        )
    return (
        "Trained without differential privacy: what the model gives may reveal examples that it was trained on, and"
        " nothing bounds how much."
    )


def _describe_limits(summary: Summary) -> str:
    texts = [f"- {text}" for text in summary.get("warnings", [])]
    first = "Measured on held-out data of the same origin; other data, languages and times were not measured."
    return "\n\n".join([first, *texts])


def _describe_costs(run: Recorded, summary: Summary, watts: float | None) -> str:
    work = summary["flops_per_step"] * summary["steps"]
    lines = [f"{format_count(work, ' ')}FLOPs of training, counted from the traced step."]
    rate = summary.get("examples_per_second")
    if not rate:
        return lines[0] + " The run did not measure its time."
    seconds = summary["steps"] * run.experiment.batch_size / rate
    lines.append(
        f"About {format_duration(seconds)} of training: {summary['steps']} steps of {run.experiment.batch_size}"
        f" examples at the {rate:.1f} a second that the run measured, without compilation and evaluation."
    )
    if watts is None:
        lines.append("Energy is not estimated; give the power of the machine by `--watts`.")
    else:
        lines.append(
            f"About {seconds * watts / 3.6e6:.2g} kWh: this time by {watts:g} W, the power that was given; it was not"
            " measured."
        )
    return "\n\n".join(lines)
