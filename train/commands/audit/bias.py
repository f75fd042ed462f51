"""`morphax audit bias`: measures by group with their gaps, on the run's test part or the user's data."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from train.commands import add_data_arguments, add_run_arguments, point_to_data
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError, Json

if TYPE_CHECKING:
    from train.engine.folder import Recorded

HELP = "whom a run serves worse: measures by group, and predictions with terms substituted"
EXAMPLES = """
examples:
  morphax audit bias runs/reviews --groups gender           a column of the table that the run was trained on
  morphax audit bias runs/reviews --groups gender,region    both, and their intersection
  morphax audit bias runs/reviews --groups age --cut age=18,40,65          ranges of numbers
  morphax audit bias runs/reviews --groups gender --data others.csv        all of another table
  morphax audit bias runs/faces --groups skin               metadata.csv in the folder of classes: file_name, skin
  morphax audit bias runs/reviews --groups gender --positive hired         rates of one class
  morphax audit bias runs/reviews --groups gender --thresholds selection   one a group, for morphax predict --thresholds
  morphax audit bias runs/reviews --swap                    names, pronouns and nationalities, in the test part's texts
  morphax audit bias runs/reviews --swap terms.csv --data texts.csv        your own terms: kind, first, second
  morphax audit bias runs/tiny_lm --pairs stereoset.json    or anti_stereotyped.txt pro_stereotyped.txt of WinoBias
"""
SHOWN = 7  # measures on the console


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="settings to change, such as data.split")
    parser.add_argument("--groups", metavar="COLUMN[,COLUMN]", help="columns of the data whose groups are compared")
    parser.add_argument(
        "--cut",
        action="append",
        default=[],
        metavar="COLUMN=EDGE,EDGE",
        help="edges that cut a column of numbers into ranges; again for more columns",
    )
    parser.add_argument(
        "--positive",
        action="append",
        default=[],
        metavar="CLASS",
        help="a class whose rates are compared; again for more (default: the second of two, or all of at most 12)",
    )
    parser.add_argument(
        "--least", type=int, default=30, metavar="N", help="examples that a group needs to be compared (default: 30)"
    )
    parser.add_argument(
        "--thresholds",
        choices=("selection", "true_positive"),
        help="fit a threshold a group for equal shares of the class or equal true positive rates: RUN/thresholds.json",
    )
    parser.add_argument(
        "--swap",
        nargs="?",
        const="",
        metavar="TERMS",
        help="substitute terms of a table with kind, first and second (default: the shipped one)",
    )
    parser.add_argument(
        "--pairs", nargs="+", default=[], metavar="FILE", help="pairs of texts: StereoSet's JSON, or two of WinoBias"
    )
    parser.add_argument(
        "--to", type=Path, metavar="PAGE", help="the page to write (default: RUN/bias.html, RUN/swaps.html)"
    )
    add_data_arguments(parser)
    add_run_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    enable_compilation_cache()
    from train.engine.folder import open_run

    columns = [name.strip() for name in (options.groups or "").split(",") if name.strip()]
    asked = [bool(columns), options.swap is not None, bool(options.pairs)]
    if sum(asked) != 1:
        raise InputError(
            "Give one of --groups COLUMN[,COLUMN], --swap [TERMS] and --pairs FILE: what the audit compares."
        )
    opened = open_run(options.folder, options.config)
    if columns:
        audit_columns(options, point_to_data(opened, options.data, options.overrides), columns)
    else:
        audit_texts(options, point_to_data(opened, None, options.overrides))
    return 0


def audit_columns(options: argparse.Namespace, run: "Recorded", columns: Sequence[str]) -> None:
    """Audits a run by columns of its data, prints what was found and writes the page."""
    import rich.table

    from train.data.groups import parse_cuts
    from train.report.console import print_table
    from train.use.bias.audit import audit_groups
    from train.use.bias.thresholds import describe_price, write_thresholds
    from train.use.bias.words import (
        describe_gap,
        describe_parity,
        describe_result,
        list_levels,
        record_audit,
        write_audit,
    )

    if options.thresholds and options.cut:
        raise InputError("--thresholds decides by the cells of a column, which --cut changes; leave one out.")
    cuts = parse_cuts(options.cut)
    audit = audit_groups(
        options.folder, run, columns, cuts, options.positive, options.least, options.best, options.thresholds
    )
    page = options.to or options.folder / "bias.html"
    write_audit(page, str(options.folder), audit)
    record: dict[str, Json] = {"run": str(options.folder), "page": str(page), **record_audit(audit)}
    if audit.thresholds is not None:
        record["thresholds"] = write_thresholds(options.folder, *audit.thresholds)
    page.with_suffix(".json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(record))
        return
    names = [measure.name for measure in audit.measures][:SHOWN]
    for number in range(len(audit.groupings)):
        titles, rows = list_levels(audit, number, names)
        table = rich.table.Table(*titles)
        for row in rows:
            table.add_row(*row)
        print_table(table)
    for parity in audit.parities:
        print(describe_parity(parity))
    for text in audit.warnings:
        print(f"warning: {text}")
    for gap in audit.found:
        print(describe_gap(gap, len(audit.gaps)))
    if audit.thresholds is not None:
        print(describe_price(*audit.thresholds))
    print(f"{describe_result(audit)}\nwritten: {page}")


def audit_texts(options: argparse.Namespace, run: "Recorded") -> None:
    """Audits a run on pairs of texts, prints what was found and writes the page."""
    from models.words import join
    from train.use.bias.pairs import read_pairs, read_terms
    from train.use.bias.swap import audit_pairs, audit_terms, list_texts
    from train.use.bias.swap_words import describe_change, describe_share, describe_swaps, record_swaps, write_swaps

    if options.pairs:
        swaps = audit_pairs(options.folder, run, read_pairs(options.pairs), options.least, options.best)
    else:
        terms = read_terms(options.swap or None)
        swaps = audit_terms(options.folder, run, list_texts(run, options.data), terms, options.least, options.best)
    page = options.to or options.folder / "swaps.html"
    write_swaps(page, str(options.folder), swaps)
    record = {"run": str(options.folder), "page": str(page), **record_swaps(swaps)}
    page.with_suffix(".json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(record))
        return
    for change in swaps.changes:
        print(describe_change(change, len(swaps.changes)))
    for share in swaps.shares:
        print(describe_share(share))
    if swaps.small:
        print(f"too few examples to say (below {swaps.least}): {join(swaps.small)}")
    if swaps.unread:
        print(f"{len(swaps.unread)} texts are left out: {join(swaps.unread)}")
    print(f"{describe_swaps(swaps)}\nwritten: {page}")
