"""The commands, one file each: `HELP`, `EXAMPLES`, `add`, which adds the arguments to a parser, and `run`.

A package of files is a command with commands of its own, as `morphax audit privacy`.
"""

import argparse
import dataclasses
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from train.errors import InputError

if TYPE_CHECKING:
    from train.engine.folder import Recorded


def add_commands(parser: argparse.ArgumentParser, package: ModuleType, metavar: str) -> None:
    """Adds the commands of a package to a parser, as subcommands."""
    subparsers = parser.add_subparsers(required=True, metavar=metavar)
    for info in pkgutil.iter_modules(package.__path__):
        command = importlib.import_module(f"{package.__name__}.{info.name}")
        subparser = subparsers.add_parser(
            info.name,
            help=command.HELP,
            epilog=command.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if info.ispkg:
            add_commands(subparser, command, info.name.upper())
            continue
        command.add(subparser)
        subparser.add_argument("--json", action="store_true", help="print one machine-readable object")
        subparser.set_defaults(run=command.run)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of commands that read a run."""
    parser.add_argument("--best", action="store_true", help="use the checkpoint with the best metric, not the last")
    parser.add_argument("--config", help="the config file that defines the run's own components")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the argument of commands that read other data than a run's own."""
    parser.add_argument(
        "--data", metavar="PATH", help="your own file or folder: short for data.path=PATH data.test=PATH"
    )


def point_to_data(run: "Recorded", path: str | None, overrides: Sequence[str]) -> "Recorded":
    """Overrides a run's settings, and has it read all of a user's file or folder if there is one.

    Raises InputError if the data read no files, or if the overrides name files too.
    """
    from train.data.origins import ReadsFiles
    from train.spec.overrides import override
    from train.spec.parts import list_project_parts

    data = run.experiment.data
    if path is not None and not isinstance(data, ReadsFiles):
        raise InputError(f"--data is {path} and {type(data).__name__} reads no files; leave it out.")
    paths = [text for text in overrides if text.partition("=")[0] in ("data.path", "data.test")]
    if path is not None and paths:
        raise InputError(
            f"--data is {path}, which is short for data.path and data.test, and {paths[0]} is given too; leave one out."
        )
    shorthand = [f"data.{name}={path}" for name in ("path", "test") if path is not None and hasattr(data, name)]
    experiment = override(run.experiment, [*shorthand, *overrides], list_project_parts())
    return dataclasses.replace(run, experiment=experiment)


def make_folder(folder: Path) -> Path:
    """Makes the folder of a study, unless it is there.  Raises InputError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made: {os.strerror(error.errno or 0)}; name another folder with --to."
        ) from None
    return folder


def add_structure_arguments(parser: argparse.ArgumentParser, match: str) -> None:
    """Adds the arguments that say what is compared: settings, variants, files of components, the budget, workers.

    `match` is the default of the equal budget.
    """
    parser.add_argument(
        "overrides", nargs="*", metavar="path=value", help="settings of the baseline and of all variants"
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=path=value",
        help="a setting of the variant NAME; again for more settings, and for more variants",
    )
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="files",
        metavar="FILE",
        help="a Python file whose components settings may name; again for more files",
    )
    add_budget_arguments(parser, match)


def add_budget_arguments(parser: argparse.ArgumentParser, match: str) -> None:
    """Adds the arguments of the equal budget, `match` by default, and of where trials are made."""
    parser.add_argument(
        "--match", choices=("flops", "parameters", "state", "time", "none"), help=f"the equal budget (default: {match})"
    )
    parser.add_argument("--workers", type=int, help="trials side by side (default: one a core of a CPU)")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="trials as tasks of the Ray cluster at this address, or of the one at hand (extra: ray)",
    )


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
