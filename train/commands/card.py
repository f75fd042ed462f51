"""`morphax card`: writes the model card of a trained run."""

import argparse
import json
from pathlib import Path

from train.errors import InputError

HELP = "write model_card.md of a trained run: data, metrics, groups, privacy, limits, costs, licence"
EXAMPLES = """
examples:
  morphax card runs/sentiment_bert --licence apache-2.0     runs/sentiment_bert/model_card.md
  morphax card runs/sentiment_bert --watts 65               energy by the power of the machine
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument(
        "--licence", default="unknown", metavar="ID", help="licence of the model, as Hugging Face has it"
    )
    parser.add_argument("--watts", type=float, metavar="N", help="power of the machine, to estimate energy")
    parser.add_argument("--to", type=Path, metavar="FILE", help="the card to write (default: RUN/model_card.md)")
    parser.add_argument("--config", help="the config file that defines the run's own components")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from train.engine.folder import read_run
    from train.use.card import write_card

    if options.watts is not None and not 0 < options.watts < float("inf"):
        raise InputError(f"--watts is {options.watts:g}; give a power above 0.")
    path = options.to or options.folder / "model_card.md"
    write_card(path, options.folder, read_run(options.folder, options.config), options.licence, options.watts)
    print(json.dumps({"card": str(path)}) if options.json else f"written: {path}")
    return 0
