"""`morphax advise`: says which method to take for a file or folder of data, by measuring simple ones and models."""

import argparse
from pathlib import Path

from train.commands import make_folder
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError

HELP = "choose a method for your data: simple ones and models, measured on it"
EXAMPLES = """
examples:
  morphax advise reviews.csv                            the task is read off the columns
  morphax advise reviews.csv --text review --target stars --hours 1
  morphax advise pictures                               a folder with a folder of pictures for each class
  morphax advise loads.csv --horizon 24                 a column of times: forecasts
  morphax advise table.csv --target price               numbers and classes: boosted trees and others
  morphax advise reviews.csv --device v5e:1x1           also memory and time of the model's step on a TPU

Simple methods come first, then models by successive halving.  The cheapest of those that are not shown to be worse
than the best is recommended, with its error on held-out examples on which nothing was chosen, and the command.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("data", metavar="DATA", help="a file or a folder")
    parser.add_argument("--text", metavar="COLUMN", help="the column of texts, if there are several")
    parser.add_argument("--target", metavar="COLUMN", help="the column to predict, unless its name or its values tell")
    parser.add_argument(
        "--horizon", type=int, metavar="STEPS", help="steps of a series to forecast (default: by its step)"
    )
    parser.add_argument(
        "--hours", type=float, default=0.25, help="about how long models are trained (default: 0.25; 0 tries none)"
    )
    parser.add_argument("--device", metavar="CHIP:SHAPE", help="a TPU on which the recommended model's step is planned")
    parser.add_argument("--to", type=Path, dest="folder", help="folder of the page (default: runs/NAME_advice)")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    if options.hours < 0 or (options.horizon is not None and options.horizon < 1):
        raise InputError(f"--hours is {options.hours} and --horizon {options.horizon}; give 0 or more, and 1 or more.")
    enable_compilation_cache()
    from train.advise.advice import advise, describe_advice
    from train.advise.page import make_advice_table, write_advice
    from train.advise.plan import describe_plan
    from train.advise.problem import Wishes, find_problem
    from train.report.console import Console, print_table

    problem = find_problem(options.data, Wishes(options.text, options.target, options.horizon))
    folder = make_folder(options.folder or Path("runs") / f"{Path(options.data).stem}_advice")
    console = Console()
    for text in problem.seen:
        console.say(text)
    advice = advise(problem, options.hours * 3600, console.say)
    plan = describe_plan(advice, options.device) if options.device else ""
    write_advice(folder, advice, plan)
    if options.json:
        print((folder / "summary.json").read_text(encoding="utf-8"))
        return 0
    print_table(make_advice_table(advice))
    for text in (*describe_advice(advice), *([plan] if plan else [])):
        print(text)
    print(f"\n    {advice.chosen.command}\n")
    console.say(f"{folder}/report.html has the page, {folder}/table.md the table")
    return 0
