"""The command line: dispatches to the commands, and prints errors in one sentence."""

import argparse
import os
import pkgutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from train import commands
from train.errors import InputError

COMMANDS = [info.name for info in pkgutil.iter_modules(commands.__path__)]  # one file for each command, with its name


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are InputErrors of one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(f"{message}; see `{self.prog} --help`.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 2 for unusable input or lack of memory, 128 + n after signal n."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] not in COMMANDS and words[0] not in ("-h", "--help"):
        words.insert(0, "train")
    try:
        options, rest = _make_parser().parse_known_args(words)
        if wrong := [text for text in rest if text.startswith("-") or not hasattr(options, "overrides")]:
            raise InputError(
                f"{' '.join(wrong)} is no argument of `morphax {words[0]}`; see `morphax {words[0]} --help`."
            )
        if rest:  # overrides after an option
            options.overrides.extend(rest)
        return options.run(options)
    except InputError as error:
        print(f"morphax: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = (str(error).strip().splitlines() or ["no more is free"])[0]
        print(
            f"morphax: There is not enough memory ({said[:200]}); lower batch_size, data.length or the model's sizes.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("morphax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        "morphax",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Change the structure, keep everything else equal.",
        epilog="`python -m train CONFIG ...` is short for `morphax train CONFIG ...`; `morphax COMMAND --help` has"
        " examples.",
    )
    commands.add_commands(parser, commands, "COMMAND")
    return parser
