"""`morphax advise`: says which method to take for a file or folder of data, by measuring simple ones and models."""

import argparse
import dataclasses
from pathlib import Path

from train.commands import make_folder
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError

HELP = "choose a method for your data: simple ones and models, measured on it"
EPSILON = 8.0  # of private training, unless another is given
EXAMPLES = """
examples:
  morphax advise reviews.csv                            the task is read off the columns
  morphax advise reviews.csv --text review --target stars --hours 1
  morphax advise pictures                               a folder with a folder of pictures for each class
  morphax advise loads.csv --horizon 24                 a column of times: forecasts
  morphax advise table.csv --target price               numbers and classes: boosted trees and others
  morphax advise reviews.csv --device v5e-1             also memory, time and price of the model's steps on a TPU
  morphax advise reviews.csv --private 3                methods that keep no example; models of epsilon 3
  morphax advise reviews.csv --must-explain             methods whose answers have an account

Simple methods come first, then models by successive halving.  The simplest of those that are not shown to be worse
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
        "--hours", type=float, default=1.0, help="about how long models are trained at most (default: 1; 0 tries none)"
    )
    parser.add_argument(
        "--private",
        type=float,
        nargs="?",
        const=EPSILON,
        metavar="EPSILON",
        help="only methods that keep no example, and models by differential privacy (EPSILON: 8)",
    )
    parser.add_argument("--must-explain", action="store_true", help="only methods whose answers have an account")
    parser.add_argument("--device", metavar="CHIP-COUNT", help="a TPU on which the model's steps are planned: v5e-1")
    parser.add_argument(
        "--price", type=float, metavar="DOLLARS", help="of an hour of its chip (default: the public price)"
    )
    parser.add_argument("--to", type=Path, dest="folder", help="folder of the page (default: runs/NAME_advice)")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    if options.hours < 0 or (options.horizon is not None and options.horizon < 1):
        raise InputError(f"--hours is {options.hours} and --horizon {options.horizon}; give 0 or more, and 1 or more.")
    if options.private is not None and not 0 < options.private < float("inf"):
        raise InputError(f"--private is {options.private:g}; give an epsilon above 0, such as 8.")
    if options.price is not None and options.price < 0:
        raise InputError(f"--price is {options.price:g}; give dollars an hour, 0 or more.")
    enable_compilation_cache()
    from train.advise.advice import advise
    from train.advise.page import make_advice_table, write_advice
    from train.advise.plan import describe_plan
    from train.advise.problem import Wishes, find_problem
    from train.advise.refit import write_method
    from train.advise.sentences import describe_advice
    from train.advise.terms import Limits
    from train.optimizers.accounting import require_accounting
    from train.plan.topology import read_topology, require_compiler
    from train.report.console import Console, print_table

    device = read_topology(options.device) if options.device else None
    if device is not None:
        require_compiler()  # before anything is measured
    if options.private is not None:
        require_accounting()
    problem = find_problem(options.data, Wishes(options.text, options.target, options.horizon))
    problem = dataclasses.replace(problem, limits=Limits(options.private, options.must_explain))
    folder = make_folder(options.folder or Path("runs") / f"{Path(options.data).stem}_advice")
    console = Console()
    for text in problem.seen:
        console.say(text)
    advice = advise(problem, options.hours * 3600, console.say)
    file = write_method(folder, advice)
    command = f"python {file} QUESTIONS" if file else advice.chosen.command
    plan = describe_plan(advice, device, options.price) if device else ""
    write_advice(folder, advice, command, plan)
    if options.json:
        print((folder / "summary.json").read_text(encoding="utf-8"))
        return 0
    print_table(make_advice_table(advice))
    for text in (*describe_advice(advice), *([plan] if plan else [])):
        print(text)
    print(f"\n    {command}\n")
    console.say(f"{folder}/report.html has the page, {folder}/table.md the table")
    return 0
