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

COLUMNS = ("method", "kind", "held out", "when chosen", "steps", "training", "answers a second", "parameters")


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


def make_advice_table(advice: Advice) -> rich.table.Table:
    """The table for the console."""
    shown = rich.table.Table(*COLUMNS, box=rich.box.SIMPLE)
    for cells in make_rows(advice, advice.methods):
        shown.add_row(*map(rich.text.Text, cells))
    return shown


def write_advice(folder: Path, advice: Advice, plan: str = "") -> None:
    """Writes report.html, summary.json, table.md and table.tex; `plan` is a sentence about a named device."""
    rows = make_rows(advice, advice.methods)
    metric = advice.problem.metric.replace("_", " ")
    parts = [
        (one.name, f"{one.share:.0%}", f"{compute_mean(one.scores)[0]:.4g}")
        for one in sorted(
            (*advice.smaller, *advice.methods), key=lambda one: (ORDER.index(one.kind), one.name, one.share)
        )
        if any(one.name == other.name for other in advice.smaller)
    ]
    commands = "\n".join(f"# {one.name}\n{one.command}" for one in (advice.chosen, *advice.methods[1:]))
    sections = {
        "Advice": _write_paragraphs([*describe_advice(advice), *([plan] if plan else [])])
        + f"<pre>{html.escape(advice.chosen.command)}</pre>",
        "Methods": add_caption(
            f"{metric}, with 95 % intervals, on the half of the held-out examples on which nothing was chosen; by the"
            " other half methods were chosen",
            Table(COLUMNS, tuple(rows)),
        ),
        "Fewer examples": parts
        and add_caption(
            f"{metric} of simple methods on all held-out examples", Table(("method", "examples", metric), tuple(parts))
        ),
        "Not tried": _write_paragraphs([f"{name}: {reason}" for name, reason in advice.refused.items()]),
        "Data": _write_paragraphs([*advice.problem.seen, *advice.notes]),
        "Commands": f"<pre>{html.escape(commands)}</pre>",
    }
    page = make_page(folder.name, [(name, text) for name, text in sections.items() if text])
    write_report(folder, page, record_advice(advice) | {"plan": plan or None})
    write_tables(folder, COLUMNS, rows)


def _write_paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)
