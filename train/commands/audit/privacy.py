"""`morphax audit privacy`: attacks a run to measure what it tells of who was in its training data."""

import argparse
import json
from pathlib import Path

from train.commands import add_run_arguments
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError

HELP = "attack a run: who was in its training data, which planted secrets it holds"
EXAMPLES = """
examples:
  morphax audit privacy runs/sentiment_bert                 membership by losses, with intervals
  morphax audit privacy runs/sentiment_bert --shadows 16    and by 16 shadow models
  morphax audit privacy runs/tiny_lm --canary "the code is 281265017"    a text planted in its training data
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument(
        "--among", type=int, default=2000, metavar="N", help="examples of each part that are attacked (default: 2000)"
    )
    parser.add_argument(
        "--shadows", type=int, default=0, metavar="N", help="shadow models to train, an even number from 4 (default: 0)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps of a shadow model (default: those of the run)")
    parser.add_argument(
        "--canary",
        action="append",
        default=[],
        metavar="TEXT",
        help="a text with digits that was planted in the training data of a language model; again for more",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    add_run_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code, 1 if an attack beats the epsilon that the run claims."""
    enable_compilation_cache()
    from train.engine.folder import open_run
    from train.use.membership import audit, describe_audit, record_audit

    if options.among < 20 or options.shadows < 0 or options.shadows % 2 or 0 < options.shadows < 4:
        raise InputError(
            f"--among is {options.among} and --shadows {options.shadows}; give 20 or more, and 0 or an even number from"
            " 4."
        )
    audited = audit(
        options.folder,
        open_run(options.folder, options.config),
        options.among,
        options.shadows,
        options.steps,
        options.canary,
        options.best,
        options.seed,
    )
    if options.json:
        print(json.dumps({"run": str(options.folder), **record_audit(audited)}))
    else:
        print(f"{options.folder}, step {audited.step}")
        for line in describe_audit(audited):
            print(line)
    return int(audited.beaten)
