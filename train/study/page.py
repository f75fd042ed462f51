"""Files of a study: report.html, summary.json, tables, trials.csv, and its figures for a paper."""

import dataclasses
import html
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from train.charts import Plot
from train.disk import explain_failed_writes
from train.page import Sentence, Table, add_caption
from train.report.figures import write_figures
from train.report.html import make_page
from train.study.compare import Result
from train.study.figures import COSTS, EQUAL, describe_band, draw_curves, draw_fronts, draw_sequences
from train.study.files import write_report, write_tables
from train.study.ledger import NAME
from train.study.match import WORDS
from train.study.power import describe_plans, extend_pilot, record_results
from train.study.records import read_trials, write_trials
from train.study.tuning import make_tuning_table
from train.study.words import describe, make_columns, make_rows
from train.variants import BASELINE, Study


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure of the page: the name of its files, its caption, and its heading."""

    name: str
    caption: str
    plot: Plot
    heading: str


def draw(study: Study, results: Sequence[Result]) -> list[Drawing]:
    """Draws the figures of a study."""
    drawings = [
        Drawing(f"loss over {axis}", f"Loss over {axis}", plot, "Losses") for axis, plot in draw_curves(results).items()
    ]
    drawings += [
        Drawing(f"front over {axis}", f"Last loss over {axis}", plot, "Fronts")
        for axis, plot in draw_fronts(results).items()
    ]
    drawings += [
        Drawing(f"difference of {name}", f"{name} less {BASELINE}", plot, "Confidence sequences")
        for name, plot in draw_sequences(study, results).items()
    ]
    return [dataclasses.replace(drawing, name=drawing.name.replace(" ", "_").lower()) for drawing in drawings]


def write_page(folder: Path, study: Study, results: Sequence[Result]) -> None:
    """Writes the verdicts, the table, and the figures; the latter also as files of their own."""
    variants = [result for result in results if result.entry.name != BASELINE]
    drawings = draw(study, results)
    columns, rows = make_columns(results), make_rows(results)
    table = add_caption("costs are over the baseline's", Table(columns, tuple(rows)))
    sections = {
        "Verdict": "".join(map(_emphasise, map(describe, variants))),
        "Costs and losses": f'<div class="steady">{table}</div>',
        "Losses": _join_figures(
            drawings,
            "Losses",
            f"{describe_band(results)}. Seeds are paired, so bands of variants that differ may overlap.",
        ),
        "Fronts": _join_figures(drawings, "Fronts", _describe_fronts(results, drawings)),
        "Confidence sequences": _join_figures(
            drawings, "Confidence sequences", "The interval holds at all seeds together, however often it is looked at."
        ),
        "Seeds needed": _write_plans(study, variants),
        "Tuning": _write_tuning(results),
        "Match": add_caption("changed so that budgets are equal", Sentence(_moved(study, variants))),
        "Study": f"<pre>{html.escape(json.dumps(study.record(), indent=1))}</pre>",
    }
    page = make_page(folder.name, [(name, text) for name, text in sections.items() if text])
    trials = list(read_trials(folder / NAME)) if (folder / NAME).is_file() else []
    write_report(folder, page, record_results(study, results))
    with explain_failed_writes(folder):
        (folder / "trials.csv").write_text(write_trials(trials), encoding="utf-8")
    write_tables(folder, columns, rows)
    write_figures(folder, {drawing.name: drawing.plot for drawing in drawings})


def _join_figures(drawings: Sequence[Drawing], heading: str, note: str) -> str:
    figures = "".join(add_caption(drawing.caption, drawing.plot) for drawing in drawings if drawing.heading == heading)
    text = f"<p>{html.escape(note)}</p>" if note else ""
    return text + (f'<div class="curves">{figures}</div>' if figures else "")


def _describe_fronts(results: Sequence[Result], drawings: Sequence[Drawing]) -> str:
    """Describes the fronts, and the costs that have none."""
    drawn = {drawing.plot.across for drawing in drawings if drawing.heading == "Fronts"}
    shown = [result for result in results if result.curve]
    known = [axis for axis, cost in COSTS.items() if all(math.isfinite(cost(result)) for result in shown)]
    equal = [axis for axis in known if axis not in drawn and axis != "seconds of training"]
    said = ["Means over seeds with 95 % t intervals; the front is of the means."] if drawn else []
    if len(shown) > 1 and equal:
        said.append(f"There is no front over {' or '.join(equal)}, which are equal within {EQUAL:.0%}.")
    return " ".join(said)


def _write_plans(study: Study, variants: Sequence[Result]) -> str:
    """Writes what was planned from the pilot, and what all seeds say now where that differs."""
    planned = describe_plans(study, variants)
    now = describe_plans(study, [extend_pilot(variant) for variant in variants])
    parts = {"Planned from the first seeds": planned, "By all seeds": now if now != planned else []}
    return "".join(
        f"<p>{heading}:</p>" + "".join(map(_emphasise, sentences)) for heading, sentences in parts.items() if sentences
    )


def _write_tuning(results: Sequence[Result]) -> str:
    """Writes the losses by which settings were chosen, and where the grid ends at the best one."""
    tuned = {result.entry.name: result.tuned for result in results if result.tuned is not None}
    if not tuned:
        return ""
    open_ended = [f"{name}: {one.describe()}" for name, one in tuned.items() if one.end is not None]
    table = add_caption("mean loss on the part of the held-out data for tuning", make_tuning_table(tuned))
    return "".join(map(_emphasise, open_ended)) + f'<div class="steady">{table}</div>'


def _emphasise(sentence: str) -> str:
    """Emphasises the name that a sentence begins with."""
    name, colon, text = sentence.partition(":")
    return f"<p><strong>{html.escape(name)}</strong>{colon}{html.escape(text)}</p>"


def _moved(study: Study, variants: Sequence[Result]) -> str:
    moved: Iterator[str] = (
        f"{variant.entry.name}: {', '.join(variant.entry.moved)}" for variant in variants if variant.entry.moved
    )
    if study.budget == "none":
        return "nothing: budgets are not matched"
    return "; ".join(moved) or f"nothing: variants have equal {WORDS[study.budget]} as they are"
