"""Words, JSON and the page of an audit by group."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.words import join
from train.baselines import count_decimals
from train.data.groups import Grouping
from train.errors import Json
from train.page import Piece, Sentence, Table, add_caption
from train.report.console import format_interval
from train.report.html import make_page
from train.summary import drop_nonfinite
from train.use.bias.audit import Audit
from train.use.bias.gaps import Gap, Level
from train.use.bias.parity import Parity


def describe_gap(gap: Gap, tests: int) -> str:
    """Describes a gap in a sentence."""
    value, rest = gap.values
    return (
        f"{gap.measure} of {' and '.join(gap.columns)} {gap.group} is {value:.4f}, and {rest:.4f} of {gap.rest}:"
        f" {format_range(gap.difference, gap.low, gap.high)}, p {gap.p:.2g} (both corrected for {tests} tests)"
    )


def format_range(value: float, low: float, high: float) -> str:
    """Formats a difference with its interval."""
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def describe_result(audit: Audit) -> str:
    """Describes what was compared and what was found, in a sentence."""
    tests = len(audit.gaps)
    if not tests:
        return "no group was compared"
    said = (
        f"{len(audit.found)} of {tests} gaps are more than chance explains"
        if audit.found
        else f"none of {tests} gaps is more than chance explains"
    )
    return (
        f"{said}; the chance of any false one is at most 5 % (Bonferroni over {tests} tests), and a gap that was not"
        " found may still be there, as large as its interval says"
    )


def list_levels(audit: Audit, number: int, names: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Lists the groups of a grouping as rows: name, number of examples, each named measure with its interval."""
    grouping = audit.groupings[number]
    columns = (grouping.title, "examples", *names, *(("calibration_error",) if audit.calibration else ()))
    rows: list[tuple[str, ...]] = []
    for index, group in enumerate(grouping.names):
        count = audit.count_group(grouping, index)
        small = f"{count} (too few to say)" if count < audit.least else str(count)
        levels = (audit.levels[number, name][index] for name in names)
        calibration = (f"{audit.calibration[number][index]:.4f}",) if audit.calibration else ()
        rows.append((group, small, *map(format_level, levels), *calibration))
    rows.append(("all", str(audit.count), *(format_level(audit.overall[name]) for name in names), *_fill(audit)))
    return columns, rows


def _fill(audit: Audit) -> tuple[str, ...]:
    return ("",) if audit.calibration else ()


def format_level(level: Level) -> str:
    """Formats the value of a group with its interval; - if no example counts."""
    return format_interval(level.value, level.half) if level.count else "-"


def describe_parity(parity: Parity) -> str:
    """Describes the parity of a class over groups in a sentence."""
    left = f"; left out, as too few: {join(parity.left)}" if parity.left else ""
    return (
        f"{parity.kind} of {parity.positive} over {' and '.join(parity.columns)}: difference {parity.difference:.4f}"
        f" [{parity.low:.4f}, {parity.high:.4f}], ratio {parity.ratio:.4f}, {parity.widest[0]} against"
        f" {parity.widest[1]}{left}"
    )


def write_audit(path: Path, run: str, audit: Audit) -> None:
    """Writes the page of an audit, one file."""
    sections = [
        ("What was found", _join(_show_found(audit))),
        *(
            (html.escape(f"By {grouping.title}"), _join(_show_grouping(audit, number, grouping)))
            for number, grouping in enumerate(audit.groupings)
        ),
        ("Parity", _join(_show_parity(audit))),
        ("All gaps", _join(_show_gaps(audit))),
    ]
    below = f"<p>Bias of <code>{html.escape(run)}</code>, step {audit.step}, on {audit.count} test examples</p>"
    path.write_text(make_page(f"Bias of {Path(run).name}", sections, below), encoding="utf-8")


def _join(pieces: Iterator[tuple[str, Piece]]) -> str:
    return "".join(add_caption(caption, piece) for caption, piece in pieces)


def _show_found(audit: Audit) -> Iterator[tuple[str, Piece]]:
    yield "", Sentence(f"{describe_result(audit)[:1].upper()}{describe_result(audit)[1:]}.")
    for text in audit.warnings:
        yield "", Sentence(f"Warning: {text}.")
    if small := audit.list_small():
        yield "", Sentence(f"Too few examples to say (below {audit.least}): {join(small, 600)}.")
    if audit.found:
        yield "gaps that are more than chance explains", _tabulate_gaps(audit.found)


def _tabulate_gaps(gaps: Sequence[Gap]) -> Table:
    rows = tuple(
        (
            " and ".join(gap.columns),
            gap.group,
            gap.rest,
            gap.measure,
            *(f"{value:.{count_decimals(value)}f}" for value in gap.values),
            format_range(gap.difference, gap.low, gap.high),
            f"{gap.p:.2g}",
        )
        for gap in gaps
    )
    return Table(("column", "group", "against", "measure", "group's", "against's", "difference", "p"), rows)


def _show_grouping(audit: Audit, number: int, grouping: Grouping) -> Iterator[tuple[str, Piece]]:
    columns, rows = list_levels(audit, number, [measure.name for measure in audit.measures])
    yield f"measures by {grouping.title}, each with its 95 % interval", Table(columns, tuple(rows))
    words = tuple((measure.name, measure.words) for measure in audit.measures)
    if not number:
        yield "what is measured", Table(("measure", "mean over examples"), words)


def _show_parity(audit: Audit) -> Iterator[tuple[str, Piece]]:
    if not audit.parities:
        return
    rows = tuple(
        (
            " and ".join(parity.columns),
            parity.positive,
            parity.kind,
            f"{parity.difference:.4f} [{parity.low:.4f}, {parity.high:.4f}]",
            f"{parity.ratio:.4f}",
            " against ".join(parity.widest),
            ", ".join(parity.left),
        )
        for parity in audit.parities
    )
    columns = ("column", "class", "parity", "difference", "ratio", "widest", "left out, as too few")
    yield "the largest difference between groups, and the smallest ratio, by fairlearn", Table(columns, rows)


def _show_gaps(audit: Audit) -> Iterator[tuple[str, Piece]]:
    if audit.gaps:
        caption = f"each group against the rest; intervals and p-values are corrected for all {len(audit.gaps)} tests"
        yield caption, _tabulate_gaps(audit.gaps)


def record_audit(audit: Audit) -> dict[str, Json]:
    """Records an audit as JSON values."""
    return {
        "step": audit.step,
        "examples": audit.count,
        "least": audit.least,
        "tests": len(audit.gaps),
        "correction": "Bonferroni",
        "found": [_record_gap(gap) for gap in audit.found],
        "gaps": [_record_gap(gap) for gap in audit.gaps],
        "groups": [
            {
                "columns": list(grouping.columns),
                "group": name,
                "examples": audit.count_group(grouping, index),
                "small": audit.count_group(grouping, index) < audit.least,
                "measures": {
                    measure.name: _record_level(audit.levels[number, measure.name][index]) for measure in audit.measures
                },
                **({"calibration_error": audit.calibration[number][index]} if audit.calibration else {}),
            }
            for number, grouping in enumerate(audit.groupings)
            for index, name in enumerate(grouping.names)
        ],
        "all": {name: _record_level(level) for name, level in audit.overall.items()},
        "parity": [
            {
                "columns": list(parity.columns),
                "kind": parity.kind,
                "class": parity.positive,
                "difference": parity.difference,
                "interval": [parity.low, parity.high],
                "ratio": drop_nonfinite(parity.ratio),
                "widest": list(parity.widest),
                "left_out": list(parity.left),
            }
            for parity in audit.parities
        ],
        "warnings": list(audit.warnings),
    }


def _record_level(level: Level) -> dict[str, Json]:
    return {"value": drop_nonfinite(level.value), "interval": drop_nonfinite(level.half), "count": level.count}


def _record_gap(gap: Gap) -> dict[str, Json]:
    return {
        "columns": list(gap.columns),
        "group": gap.group,
        "against": gap.rest,
        "measure": gap.measure,
        "values": list(gap.values),
        "difference": gap.difference,
        "interval": [gap.low, gap.high],
        "p": gap.p,
        "found": gap.found,
    }
