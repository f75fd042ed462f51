"""`morphax scale`: a structure and its variants at several sizes, and how their losses go on with compute."""

import argparse
import dataclasses
import fractions
import json
from pathlib import Path

from train.commands import add_structure_arguments, make_folder
from train.commands.compare import add_scale_argument, name_folder, read_study
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError, convert_errors

HELP = "train a structure and its variants at several sizes, and fit how losses go on with compute"
EXAMPLES = """
examples:
  morphax scale tiny_lm --sizes 1/2,1,2,4
  morphax scale tiny_lm --vary none=model.stack.block.mixer.position=none --sizes 1/2,1,2 --seeds 3
  morphax scale tiny_lm --sizes 1/2,1,2 --tokens 1/2,1,2          parameters and tokens vary: the form of Chinchilla

A size multiplies the width and the depth; tokens follow the parameters.  Variants have the FLOPs of the baseline at
each size.  The same command continues a ladder that was stopped.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("config", help="the baseline, or a study: name of a file in configs/, or your own")
    add_structure_arguments(parser, "flops")
    add_scale_argument(parser)
    parser.add_argument("--sizes", help="multiples of width and depth (default: the study's, or 1/2,1,2)")
    parser.add_argument("--tokens", default="1", help="multiples of the tokens of each size (default: 1)")
    parser.add_argument(
        "--parametrization",
        choices=("mup", "standard"),
        default="mup",
        help="mup serves every size with the settings of size 1 (default)",
    )
    parser.add_argument("--seeds", type=int, help="seeds of each structure at each size (default: the study's, or 2)")
    parser.add_argument("--to", dest="folder", type=Path, help="folder of the ladder (default: runs/CONFIG_scale)")
    parser.set_defaults(tune=None, free=[], most=None, alpha=None, smallest=None, budget=None, until=None)


def read_multiples(name: str, text: str) -> list[float]:
    """Parses multiples, such as 1/2,1,2.  Raises InputError for what is no number above 0, and for repeats."""
    try:
        values = [float(fractions.Fraction(part.strip())) for part in text.split(",")]
    except (ValueError, ZeroDivisionError):
        values = []
    if not values or min(values) <= 0 or len(set(values)) != len(values):
        raise InputError(f"{name} is {text!r}; give multiples above 0, such as 1/2,1,2.")
    return values


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    tokens = read_multiples("--tokens", options.tokens)
    with convert_errors():
        study = read_study(options)
    study = dataclasses.replace(study, seeds=study.seeds or 2)
    sizes = study.sizes if options.sizes is None else read_multiples("--sizes", options.sizes)
    enable_compilation_cache()
    from train.report.console import Console, print_table
    from train.study.compare import Result
    from train.study.ladder import Rung, climb, collect_runs, describe_trend, find_trends, plan_ladder, record_ladder
    from train.study.ladder_page import make_ladder_table, write_ladder_page
    from train.study.live import Countdown
    from train.study.workers import open_maker

    folder = options.folder or name_folder(options, "scale")
    console = Console()
    rungs = plan_ladder(study, sizes, tokens, options.parametrization)
    for rung in rungs:
        console.say(f"size {rung.size:g}: width {rung.width}, {rung.steps} steps, {rung.tokens:.3g} tokens")
    make_folder(folder)

    countdown, said = Countdown(), set[str]()

    def look(rung: Rung, results: list[Result], share: float) -> None:
        losses = ", ".join(f"{one.entry.name} {one.loss:.4f}" for one in results if one.losses)
        trials = f"{rung.name}, trial {sum(len(one.losses) for one in results)}"
        if losses and trials not in said:
            said.add(trials)
            console.say(f"{trials}: mean loss {losses}; {countdown.describe(share)}")

    with open_maker(options.workers, options.ray, console.say) as make:
        points = climb(rungs, folder, make, look)
    trends = find_trends(collect_runs(points))
    write_ladder_page(folder, study, points, trends)
    if options.json:
        print(json.dumps(record_ladder(points, trends)))
        return 0
    print_table(make_ladder_table(points))
    for trend in trends:
        print(describe_trend(trend))
    if not trends:
        console.say("three sizes or more would give a law of the loss over compute")
    console.say(f"{folder}/report.html has the curves")
    return 0
