"""The commands, one file each: `HELP`, `EXAMPLES`, `add`, which adds the arguments to a parser, and `run`."""

import argparse
import sys
from collections.abc import Iterator, Sequence

from train.errors import InputError


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of commands that read a run."""
    parser.add_argument("--best", action="store_true", help="use the checkpoint with the best metric, not the last")
    parser.add_argument("--config", help="the config file that defines the run's own components")


def read_texts(arguments: Sequence[str]) -> Iterator[str]:
    """Reads the texts of a command line; - stands for the lines of standard input."""
    for text in arguments:
        if text != "-":
            yield text
            continue
        try:
            lines = sys.stdin.buffer.read().decode("utf-8").split("\n")
        except UnicodeDecodeError:
            raise InputError(
                "Standard input is not UTF-8; convert it on its way, if it is Latin-1 by `iconv -f ISO-8859-1 -t"
                " UTF-8 FILE | morphax ...`"
            ) from None
        yield from (line for line in lines if line.strip())
