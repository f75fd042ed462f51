"""report.html: a run's experiment, curves and numbers in one self-contained file."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from train.charts import Plot, Series
from train.experiment import Experiment
from train.page import Piece, add_caption, escape_cell
from train.report.console import describe_privacy, list_facts, list_remarks, list_results
from train.report.style import STYLE
from train.sinks.json_lines import Line, get_step, read_metrics
from train.summary import Results, Summary

PARTS = {"train": 0, "evaluation": 1}  # indices of their colours
FIRST = ("loss", "accuracy")  # metrics whose curves come first


def write_report(folder: Path, experiment: Experiment, summary: Summary, pictures: Mapping[str, Piece]) -> None:
    """Writes report.html from the run's metrics, its summary, and the review's pieces by their captions."""
    recorded = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
    command = html.escape(summary.get("command", f"morphax predict {folder} INPUT"))
    sections = [
        ("Results", _format_results(summary)),
        ("Test part", "".join(add_caption(caption, piece) for caption, piece in pictures.items())),
        ("Curves", f'<div class="curves">{plot_curves(read_metrics(folder))}</div>'),
        ("Data", _format_list(text for kind, text in list_remarks(summary) if kind == "data")),
        ("Privacy", _format_list(explain_privacy(summary))),
        ("Run", _format_table(("quantity", "value"), list_facts(summary))),
        ("Model", f"<pre>{html.escape(_describe_model(experiment))}</pre>"),
        ("Experiment", f"<pre>{html.escape(json.dumps(recorded, indent=1))}</pre>"),
    ]
    page = make_page(folder.name, sections, f"<p>Go on with <code>{command}</code></p>")
    (folder / "report.html").write_text(page, encoding="utf-8")


def explain_privacy(summary: Summary) -> list[str]:
    """Explains what the guarantee of a private run covers, in sentences; empty for any other run."""
    spent = summary.get("privacy")
    if not spent:
        return []
    factor = math.exp(min(spent["epsilon"], 700))
    return [
        f"The weights of every checkpoint are ({spent['epsilon']:.3g}, {spent['delta']:g})-differentially private after"
        f" {spent['steps']:.0f} steps: {describe_privacy(spent)}.",
        "Neighbouring data sets differ by one example of the training part, added or removed: whatever is computed from"
        f" the weights is at most {factor:.3g} times as likely with an example as without it, apart from a probability"
        f" of {spent['delta']:g}. An example is one row of the data (a text, a picture, a window); a person who wrote"
        " several has less protection: k examples have k times the epsilon.",
        "It rests on noise and samples drawn from the system's entropy, kept in the checkpoints: share exported weights"
        " or params, and neither the folder checkpoints nor a seed.",
        "Not covered: the curves of training, baselines and examples on this page and in metrics.jsonl; the test part,"
        " by which the best checkpoint is chosen; settings that were chosen by other runs on the same data; pretrained"
        " weights; the number of examples and the names of the classes.",
    ]


def make_page(title: str, sections: Iterable[tuple[str, str]], below: str = "") -> str:
    """Makes a page of one file from the HTML of its sections by their headings, empty ones left out.

    `below` is HTML below the title.
    """
    inside = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections if content)
    title = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title><style>{STYLE}</style></head>'
        f"<body><header><h1>{title}</h1>{below}</header><main>{inside}</main></body></html>\n"
    )


def _format_results(summary: Results) -> str:
    """Formats warnings and metrics, the latter beside their baselines if there are any."""
    texts = [text for kind, text in list_remarks(summary) if kind == "warning"]
    notes = "".join(f'<p class="warning"><strong>Warning</strong> {html.escape(text)}</p>' for text in texts)
    rows = list_results(summary)
    beside = any(without for _, _, without in rows)
    columns = ("metric", "value", "without the model") if beside else ("metric", "value")
    return notes + _format_table(columns, [row[: len(columns)] for row in rows])


def _format_list(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return items and f"<ul>{items}</ul>"


def _describe_model(experiment: Experiment) -> str:
    """Describes the model's fields, line by line."""
    return "\n".join(line for line in str(experiment.model).splitlines() if line.strip() != "# attributes")


def _format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td>{escape_cell(cell)}</td>" for cell in rest)
        body += f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>'
    return f'<div class="wide"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def plot_curves(lines: Sequence[Line]) -> str:
    """Plots each metric over steps, in training and on the test split, from lines of metrics.jsonl."""
    written = {name for line in lines for name in line if name != "step"}
    names = sorted(written, key=lambda name: name.partition("/")[::-1])
    groups: dict[str, list[Series]] = {}
    for name in names:
        part, _, metric = name.partition("/")
        points = tuple((get_step(line), value) for line in lines if (value := line.get(name)) is not None)
        if points and (metric != "tokens_per_second" or any(value for _, value in points)):
            look = "marked" if len(points) < 30 else "line"
            groups.setdefault(metric, []).append(Series(part, points, look, PARTS.get(part, 2)))
    order = sorted(groups, key=lambda metric: FIRST.index(metric) if metric in FIRST else len(FIRST))
    plots = {metric: Plot(tuple(sorted(groups[metric], key=_rank)), "step", metric) for metric in order}
    return "".join(add_caption(metric, plot) for metric, plot in plots.items())


def _rank(series: Series) -> int:
    return PARTS.get(series.name, len(PARTS))
