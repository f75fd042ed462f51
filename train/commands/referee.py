"""`morphax referee`: rules on a proposed structure, and keeps the error over all proposals of a campaign."""

import argparse
import json
from pathlib import Path

from train.commands import make_folder
from train.commands.compare import read_study
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError, convert_errors

HELP = "rule on a structure that a person or an agent proposes"
EXAMPLES = """
examples:
  morphax referee tiny_lm proposal.py
  morphax referee tiny_lm proposal.py steps=300 --most 12 --to runs/campaign
  morphax referee tiny_lm --to runs/campaign             what the campaign has seen so far

A proposal is a Python file with components and OVERRIDES, such as

  OVERRIDES = ("model.stack.block.mixer=MyMixer(heads=4)",)

It changes the model alone: data, objective, optimizer, steps, seeds and the budget are the referee's.  One line of JSON
is printed, and added to the campaign's ledger.  The exit code is 0 if the proposal is kept, 1 if it is not, 2 if it
cannot be read.  What is kept is the baseline of the next proposal.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("config", help="the baseline, or a study: name of a file in configs/, or your own")
    parser.add_argument("proposal", nargs="?", help="the proposal, a Python file; without it the campaign is listed")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="settings of the baseline and all proposals")
    parser.add_argument("--match", choices=("flops", "parameters", "none"), help="the equal budget (default: flops)")
    parser.add_argument("--most", type=int, help="at most this many seeds a proposal (default: 20)")
    parser.add_argument("--alpha", type=float, help="the share of false ones among the kept at most (default: 0.05)")
    parser.add_argument("--smallest", type=float, help="the smallest improvement of interest (default: 0.005)")
    parser.add_argument("--budget", metavar="TIME", help="no new seeds after so long: minutes, or 90s, 30min, 2h")
    parser.add_argument("--workers", type=int, help="processes side by side on a CPU (default: one a core)")
    parser.add_argument("--to", type=Path, dest="folder", help="folder of the campaign (default: runs/NAME_referee)")
    parser.set_defaults(vary=[], tune=None, free=[], seeds=None, until=None, files=[], scale=None)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    if options.proposal is not None and not options.proposal.endswith(".py"):
        if "=" not in options.proposal:
            raise InputError(f"The proposal is {options.proposal!r}; give a Python file.")
        options.overrides, options.proposal = [options.proposal, *options.overrides], None
    with convert_errors():
        study = read_study(options)
    folder = options.folder or Path("runs") / f"{Path(options.config).stem}_referee"
    from train.study.proposal import read_proposal

    proposal = read_proposal(Path(options.proposal)) if options.proposal is not None else None
    enable_compilation_cache()
    from train.report.console import Console
    from train.study.referee import Referee
    from train.study.workers import open_maker

    make_folder(folder)
    referee = Referee(study, folder)
    if proposal is None:
        for line in referee.rulings:
            print(json.dumps(line))
        return 0
    with open_maker(options.workers) as make:
        ruling = referee.rule(proposal, make, Console().say)
    print(json.dumps(ruling))
    return int(ruling["stage"] != "kept")
