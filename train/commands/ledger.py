"""`morphax ledger`: studies, campaigns and their trials, failed and losing ones too."""

import argparse
import json
from pathlib import Path

from train.errors import InputError

HELP = "list studies and their trials, failed and losing ones too"
EXAMPLES = """
examples:
  morphax ledger                                      studies and campaigns below runs/
  morphax ledger runs/tiny_lm_study --trials          every trial of one
  morphax ledger --trials --variant delta --csv       trials of a variant over all studies, as CSV
  morphax ledger --trials --failed
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("folders", nargs="*", type=Path, help="folders of studies (default: runs)")
    parser.add_argument("--trials", action="store_true", help="list trials in place of studies")
    parser.add_argument("--variant", help="only trials of this variant")
    parser.add_argument("--failed", action="store_true", help="only trials that failed")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV")
    form.add_argument("--markdown", action="store_true", help="print Markdown")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from train.charts import to_csv
    from train.study.records import (
        SUMMARY_COLUMNS,
        TRIAL_COLUMNS,
        find_ledgers,
        read_trials,
        summarize,
        to_markdown,
    )

    if (options.variant is not None or options.failed) and not options.trials:
        raise InputError("--variant and --failed choose trials; give --trials too.")
    ledgers = find_ledgers(options.folders or [Path("runs")])
    if options.trials:
        trials = [
            trial
            for path in ledgers
            for trial in read_trials(path)
            if (options.variant is None or trial.variant == options.variant)
            and (not options.failed or trial.error is not None)
        ]
        columns, rows = TRIAL_COLUMNS, [trial.cells for trial in trials]
    else:
        columns, rows = SUMMARY_COLUMNS, [summarize(path).cells for path in ledgers]
    if options.json:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
    elif options.csv:
        print(to_csv(columns, rows), end="")
    elif options.markdown:
        print(to_markdown(columns, rows), end="")
    else:
        import rich.box
        import rich.table
        import rich.text

        from train.report.console import print_table

        table = rich.table.Table(*columns, box=rich.box.SIMPLE)
        for row in rows:
            table.add_row(*map(rich.text.Text, row))
        print_table(table)
    return 0
