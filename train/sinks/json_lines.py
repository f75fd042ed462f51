"""metrics.jsonl: the numbers of a run, one line a log step."""

import contextlib
import dataclasses
import json
import os
from pathlib import Path

from train.disk import explain_failed_writes
from train.events import Evaluated, Event, Logged, Started
from train.summary import replace_nonfinite

Line = dict[str, float | None]  # `step`, and numbers by `group/name`


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """Appends `{"step": ..., "train/loss": ...}` to metrics.jsonl in the folder of the run.

    A resumed run deletes the lines after the step that it continues from, and writes them again.
    """

    def open(self, started: Started) -> "JsonLinesWriter":
        """The file, opened to append."""
        return JsonLinesWriter(started.folder, started.step)


class JsonLinesWriter:
    """Appends lines to metrics.jsonl, each group of metrics once a step."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        path, lines = folder / "metrics.jsonl", [line for line in read_metrics(folder) if get_step(line) <= step]
        self.folder = folder
        self.written = {(get_step(line), name.partition("/")[0]) for line in lines for name in line if name != "step"}
        with explain_failed_writes(folder):
            partial = path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
            os.replace(partial, path)
            self.file = path.open("a", encoding="utf-8")

    def write(self, event: Event) -> None:
        """Appends the numbers of an event; one that is not finite is written as null."""
        if not isinstance(event, Logged | Evaluated) or (event.step, event.group) in self.written:
            return
        self.written.add((event.step, event.group))
        values = replace_nonfinite({f"{event.group}/{name}": value for name, value in event.values.items()})
        line = {"step": event.step, **values}
        with explain_failed_writes(self.folder):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()

    def close(self, failed: bool) -> None:
        """Closes the file.  A line that could not be written has been reported; all others are on the disk."""
        with contextlib.suppress(OSError):
            self.file.close()


def get_step(line: Line) -> int:
    """The step of a line of metrics.jsonl."""
    step = line["step"]
    assert isinstance(step, int)
    return step


def read_metrics(folder: Path) -> list[Line]:
    """Reads the lines of a run's metrics.jsonl; a last line that a killed run cut off is left out."""
    path = folder / "metrics.jsonl"
    lines: list[Line] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
