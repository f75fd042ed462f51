"""Libraries of sinks, imported when a sink is used, and a run's memory of a tracking server."""

import importlib
import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

from train.disk import explain_failed_writes
from train.errors import InputError


def require_library(name: str, sink: str, extra: str) -> None:
    """Raises InputError if a library is not installed."""
    try:
        installed = importlib.util.find_spec(name) is not None
    except ValueError:  # hidden by an entry of None in sys.modules
        installed = False
    if not installed:
        raise InputError(
            f"The sink {sink} needs the package {name}, which is not installed: run pip install 'morphax[{extra}]',"
            f" or leave {sink} out of sinks."
        )


def load(name: str, sink: str, extra: str) -> ModuleType:
    """Imports a library.  Raises InputError if it is not installed."""
    require_library(name, sink, extra)
    return importlib.import_module(name)


class Memory:
    """The ID of a run on a tracking server, and the last step sent of each group, in a file beside the run."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.json"
        self.run: str | None = None  # the ID of the run, None before it has one
        self.sent: dict[str, int] = {}
        if self.path.is_file():
            try:
                values = json.loads(self.path.read_text(encoding="utf-8"))
                self.run, self.sent = values.get("run"), values.get("sent", {})
            except ValueError as error:
                again = "remove it to log to a new run, and run the same command again"
                raise InputError(f"{self.path} is damaged ({error}); {again}.") from None

    def begin(self, run: str) -> None:
        """Remembers the ID of the run."""
        self.run = run
        self._write()

    def is_sent(self, group: str, step: int) -> bool:
        """Tells if the metrics of a step were sent."""
        return step <= self.sent.get(group, -1)

    def mark_sent(self, group: str, step: int) -> None:
        """Remembers that the metrics of a step were sent."""
        self.sent[group] = step
        self._write()

    def _write(self) -> None:
        partial = self.path.with_suffix(".partial")
        with explain_failed_writes(self.path.parent):
            partial.write_text(json.dumps({"run": self.run, "sent": self.sent}) + "\n", encoding="utf-8")
            os.replace(partial, self.path)
