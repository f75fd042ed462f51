"""Ledgers: one line of JSON for everything that a study has done, so that a study that is killed goes on."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from train.disk import explain_failed_writes
from train.errors import InputError, Json

NAME = "ledger.jsonl"
Line = dict[str, Any]  # JSON values by name


class Ledger:
    """The ledger of a folder.  Lines are only added, each one on the disk before the next is begun."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.lines = list(read_ledger(self.path))

    def add(self, line: Mapping[str, Json]) -> None:
        """Adds a line."""
        with explain_failed_writes(self.path.parent), self.path.open("ab+") as file:
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)  # a line that was cut off by a kill
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(dict(line))


def read_ledger(path: Path) -> Iterator[Line]:
    """Lines of a ledger; a last line that was cut off by a kill is left out.

    Raises InputError, with the line, for any other that is no JSON object.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}, is damaged ({error}); remove the line, and its trial is made again."
            ) from None
