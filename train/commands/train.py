"""`morphax train`: trains an experiment, from its first step or from its last checkpoint."""

import argparse
import json
import sys
from pathlib import Path

from train.engine.compilation import enable_compilation_cache

HELP = "train an experiment, or continue it"
EXAMPLES = """
examples:
  morphax train sentiment_bert                              the config as it is, into runs/sentiment_bert
  morphax train sentiment_bert optimizer.rate.peak=3e-5     one number changed
  morphax train tiny_lm model.stack.block.mixer="Attention(heads=8, causal=True)" --run runs/eight_heads
  morphax train sentiment_bert data.path=reviews.csv        your own table, with the columns text and label
  morphax train sentiment_bert model.stack.repeats=3 initial.fit=true       the pretrained weights that fit
  morphax train my_config.py                                your own file with a function experiment()

The same command again continues a run that was stopped, on any number of devices; with more steps or epochs also
one that is finished.
A value is a number, a string, a tuple, or a call of a component.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("config", help="name of a file in configs/, or the path of your own")
    parser.add_argument(
        "overrides", nargs="*", metavar="path=value", help="settings to change, by their path in the experiment"
    )
    parser.add_argument("--run", dest="folder", type=Path, help="folder of the run (default: runs/CONFIG)")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="train anew; a run that the folder holds is kept as FOLDER.1, FOLDER.2 ...",
    )
    parser.add_argument(
        "--changed",
        action="store_true",
        help="continue a run although its own classes or its data are not what they were",
    )
    parser.add_argument("--show", action="store_true", help="print the experiment and stop")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from train.config import load_config
    from train.spec.encoding import encode

    experiment, _ = load_config(options.config, options.overrides)
    if options.show:
        print(json.dumps(encode(experiment), indent=2) if options.json else experiment)
        return 0
    enable_compilation_cache()
    from train.engine.signals import InterruptedRunError
    from train.report.console import Console
    from train.use.fit import fit

    folder = options.folder or Path("runs") / Path(options.config).stem
    console = Console()
    try:
        summary = fit(experiment, folder, options.config, console, options.fresh, options.changed)
    except InterruptedRunError as stop:
        print(f"morphax: {stop}", file=sys.stderr)
        return 128 + stop.number
    if options.json:
        print(json.dumps(summary))
    else:
        command = summary.get("command", f"morphax predict {folder} INPUT")  # of an older run
        console.say(f"{folder}/report.html has the curves; go on with: {command}")
    return 0
