"""The page, the table and the JSON of an advice."""

import html
import math
from collections.abc import Sequence
from pathlib import Path

import rich.box
import rich.table
import rich.text

from train.advise.advice import Advice
from train.advise.measured import Measured, compute_mean
from train.advise.sentences import describe_advice, format_value, record_advice
from train.page import Table, add_caption
from train.report.console import format_count, format_duration
from train.report.html import make_page
from train.study.files import write_report, write_tables

COLUMNS = (
    "method",
    "kind",
    "held out",
    "by which chosen",
    "steps",
    "training",
    "an answer",
    "memory",
    "parameters",
    "explained by",
    "keeps",
)


def make_rows(advice: Advice, methods: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Cells of the table, the best methods first."""
    sign = -1 if advice.greater else 1
    values = {method.name: compute_mean(advice.deal.pick(method.scores, "tuning"))[0] for method in methods}
    ranked = sorted(methods, key=lambda method: (math.isnan(values[method.name]), sign * values[method.name]))
    limits = advice.problem.limits
    return [
        (
            method.name + (" (recommended)" if method is advice.chosen else ""),
            method.kind,
            format_value(advice, method),
            f"{values[method.name]:.4g}",
            str(method.steps or ""),
            format_duration(method.seconds) if method.seconds >= 1 else f"{method.seconds:.2f} s",
            f"{method.answering * 1e3:.2g} ms" if math.isfinite(method.answering) else "",
            f"{method.memory / 2**20:,.2f} MiB" if method.memory is not None else "",
            format_count(method.parameters) if method.parameters else "",
            method.terms.explained if limits.must_explain else "",
            method.terms.kept if limits.epsilon is not None else "",
        )
        for method in ranked
    ]


def drop_empty(
    columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Drops the columns of a table that no row fills."""
    kept = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    return tuple(columns[index] for index in kept), tuple(tuple(row[index] for index in kept) for row in rows)


def make_advice_table(advice: Advice) -> rich.table.Table:
    """The table for the console."""
    columns, rows = drop_empty(COLUMNS, make_rows(advice, advice.methods))
    shown = rich.table.Table(*columns, box=rich.box.SIMPLE)
    for cells in rows:
        shown.add_row(*map(rich.text.Text, cells))
    return shown


def write_advice(folder: Path, advice: Advice, command: str, plan: str = "") -> None:
    """Writes report.html, summary.json, table.md and table.tex; `plan` is a sentence about a named device."""
    columns, rows = drop_empty(COLUMNS, make_rows(advice, advice.methods))
    metric = advice.problem.metric.replace("_", " ")
    curves = [
        (growth.name, f"{size:,} {growth.unit}", f"{mean:.4g}")
        for growth in advice.growth
        for size, mean in zip(growth.sizes, growth.means, strict=True)
    ]
    commands = "\n".join(f"# {method.name}\n{method.command}" for method in advice.methods)
    sections = {
        "Advice": _write_paragraphs([*describe_advice(advice), *([plan] if plan else [])]) + _write_code(command),
        "Methods": add_caption(
            f"{metric}, with 95 % intervals, on the half of the held-out examples on which nothing was chosen; by the"
            " other half methods were chosen; memory is that of a training step, or of what is fitted",
            Table(columns, rows),
        ),
        "Learning curves": curves
        and add_caption(f"{metric} on all held-out examples", Table(("method", "trained on", metric), tuple(curves))),
        "Not tried": _write_paragraphs([f"{name}: {reason}" for name, reason in advice.refused.items()]),
        "Data": _write_paragraphs([*advice.problem.seen, *advice.notes]),
        "How each was made": _write_code(commands),
    }
    page = make_page(folder.name, [(name, text) for name, text in sections.items() if text])
    write_report(folder, page, record_advice(advice) | {"command": command, "plan": plan or None})
    write_tables(folder, columns, rows)


def _write_paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


def _write_code(text: str) -> str:
    return f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre>'
