"""The page, the table and the JSON of an advice."""

import html
import math
from collections.abc import Sequence
from pathlib import Path

import rich.box
import rich.table
import rich.text

from train.advise.advice import ORDER, Advice, describe_advice, format_value, record_advice
from train.advise.measured import Measured, compute_mean
from train.page import Table, add_caption
from train.report.console import format_count, format_duration
from train.report.html import make_page
from train.study.files import write_report, write_tables

COLUMNS = ("method", "kind", "held out", "by which chosen", "steps", "training", "answers a second", "parameters")


def make_rows(advice: Advice, methods: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Cells of the table, the best methods first."""
    sign = -1 if advice.greater else 1
    values = {one.name: compute_mean(advice.deal.pick(one.scores, "tuning"))[0] for one in methods}
    ranked = sorted(methods, key=lambda one: (math.isnan(values[one.name]), sign * values[one.name]))
    return [
        (
            one.name + (" (recommended)" if one is advice.chosen else ""),
            one.kind,
            format_value(advice, one),
            f"{values[one.name]:.4g}",
            str(one.steps or ""),
            format_duration(one.seconds) if one.seconds >= 1 else f"{one.seconds:.2f} s",
            format_count(1 / one.answering) if one.answering > 0 and math.isfinite(one.answering) else "",
            format_count(one.parameters) if one.parameters else "",
        )
        for one in ranked
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


def write_advice(folder: Path, advice: Advice, plan: str = "") -> None:
    """Writes report.html, summary.json, table.md and table.tex; `plan` is a sentence about a named device."""
    columns, rows = drop_empty(COLUMNS, make_rows(advice, advice.methods))
    metric = advice.problem.metric.replace("_", " ")
    parts = [
        (one.name, f"{one.share:.0%}", f"{compute_mean(one.scores)[0]:.4g}")
        for one in sorted(
            (*advice.smaller, *advice.methods), key=lambda one: (ORDER.index(one.kind), one.name, one.share)
        )
        if any(one.name == other.name for other in advice.smaller)
    ]
    commands = "\n".join(f"# {one.name}\n{one.command}" for one in advice.methods)
    sections = {
        "Advice": _write_paragraphs([*describe_advice(advice), *([plan] if plan else [])])
        + _write_code(advice.chosen.command),
        "Methods": add_caption(
            f"{metric}, with 95 % intervals, on the half of the held-out examples on which nothing was chosen; by the"
            " other half methods were chosen",
            Table(columns, rows),
        ),
        "Fewer examples": parts
        and add_caption(
            f"{metric} of simple methods on all held-out examples", Table(("method", "examples", metric), tuple(parts))
        ),
        "Not tried": _write_paragraphs([f"{name}: {reason}" for name, reason in advice.refused.items()]),
        "Data": _write_paragraphs([*advice.problem.seen, *advice.notes]),
        "How each was made": _write_code(commands),
    }
    page = make_page(folder.name, [(name, text) for name, text in sections.items() if text])
    write_report(folder, page, record_advice(advice) | {"plan": plan or None})
    write_tables(folder, columns, rows)


def _write_paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


def _write_code(text: str) -> str:
    return f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre>'
