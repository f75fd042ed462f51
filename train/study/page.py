"""Files of a study: report.html, which needs no network, summary.json, table.md and trials.csv."""

import html
import json
from collections.abc import Sequence
from pathlib import Path

from train.charts import Plot, Series
from train.disk import explain_failed_writes
from train.page import Sentence, Table, add_caption
from train.report.html import make_page
from train.study.compare import Result
from train.study.files import write_report
from train.study.ledger import NAME
from train.study.records import read_trials, to_markdown, write_trials
from train.study.verdict import find_interval
from train.study.words import describe, make_rows, record
from train.variants import BASELINE, Study

COLUMNS = ("variant", "parameters", "FLOPs", "time", "loss", "difference of the loss", "seeds", "verdict")


def write_page(folder: Path, study: Study, results: Sequence[Result]) -> None:
    """Writes the verdicts, the table, curves of the loss, and the confidence sequences by seed."""
    variants = [result for result in results if result.entry.name != BASELINE]
    judged = sum(result.verdict is not None for result in variants)
    sections = {
        "Verdict": "".join(f"<p><strong>{html.escape(describe(result))}</strong></p>" for result in variants),
        "Costs and losses": add_caption("costs are over the baseline's", Table(COLUMNS, tuple(make_rows(results)))),
        "Loss over steps": add_caption("held-out loss, mean over seeds", _curves(results)),
        "Confidence sequences": "".join(
            add_caption(f"{result.entry.name} less {BASELINE}: difference of the loss by seed", plot)
            for result in variants
            if (plot := _sequence(study, result, judged)) is not None
        ),
        "Match": add_caption("changed so that budgets are equal", Sentence(_moved(study, variants))),
        "Study": f"<pre>{html.escape(json.dumps(study.record(), indent=1))}</pre>",
    }
    page = make_page(folder.name, sections.items())
    trials = list(read_trials(folder / NAME)) if (folder / NAME).is_file() else []
    write_report(folder, page, [record(result) for result in results])
    with explain_failed_writes(folder):
        (folder / "table.md").write_text(to_markdown(COLUMNS, make_rows(results)), encoding="utf-8")
        (folder / "trials.csv").write_text(write_trials(trials), encoding="utf-8")


def _curves(results: Sequence[Result]) -> Plot:
    lines = [(result.entry.name, result.curve) for result in results if result.curve]
    return Plot(
        tuple(Series(name, tuple(curve), "marked", number) for number, (name, curve) in enumerate(lines)),
        "step",
        "loss",
    )


def _sequence(study: Study, result: Result, count: int) -> Plot | None:
    """The mean difference and its confidence sequence, seed by seed, from the first interval that is finite."""
    x = result.differences
    rows: list[tuple[int, float, float, float]] = []
    for n in range(2, len(x) + 1):
        low, high = find_interval(x[:n], study.alpha / count)
        if max(abs(low), abs(high)) < float("inf"):
            rows.append((n, sum(x[:n]) / n, low, high))
    if not rows:
        return None
    names = ("mean", "low", "high")
    lines = [tuple((row[0], row[place]) for row in rows) for place in (1, 2, 3)]
    return Plot(
        tuple(
            Series(name, line, "marked", number) for number, (name, line) in enumerate(zip(names, lines, strict=True))
        ),
        "seeds",
        "difference",
    )


def _moved(study: Study, variants: Sequence[Result]) -> str:
    moved = [f"{one.entry.name}: {', '.join(one.entry.moved)}" for one in variants if one.entry.moved]
    return "; ".join(moved) or f"nothing: their {study.budget} are equal as they are, or are not matched"
