"""What a run writes down while it runs: metrics.jsonl, one line a log step, and TensorBoard events beside it."""

import contextlib
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from train.disk import written


def finite(tree: Any) -> Any:
    """A tree of dicts, lists and values with None, which JSON has a word for, in the place of numbers that are not finite."""
    if isinstance(tree, dict):
        return {name: finite(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


class MetricsLog:
    """Appends numbers by step, each group once a step.  Opened again at a step, it forgets what was written after it."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        self.folder, kept = folder, [line for line in read_metrics(folder) if line["step"] <= step]
        self.written = {(line["step"], name.partition("/")[0]) for line in kept for name in line if name != "step"}
        with written(folder):
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            os.replace(partial, self.path)
            self.file = self.path.open("a", encoding="utf-8")
            self.events = Events(folder / "tensorboard", purge=step + 1 if step else None)

    def write(self, step: int, group: str, values: dict[str, float]) -> None:
        """One line `{"step": ..., "group/name": ...}`; a value that is not a number is written as null."""
        if (step, group) in self.written:
            return
        self.written.add((step, group))
        line = {"step": step} | {f"{group}/{name}": finite(value) for name, value in values.items()}
        with written(self.folder):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            self.events.write(step, {f"{group}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Closes the files.  What could not be written has been told when it was; all else is on the disk."""
        for file in (self.file, self.events):
            with contextlib.suppress(OSError):
                file.close()


class Events:
    """TensorBoard events of scalars, each written before the call returns, so that a disk that is full is noticed here.

    Events from the step `purge` on that earlier files of the folder have are void.
    """

    def __init__(self, folder: Path, purge: int | None) -> None:
        folder.mkdir(exist_ok=True)
        self.proto, self.scalar, writer = _board()
        self.writer = writer(str(folder / "events"))
        if purge is not None:
            start = self.proto.SessionLog(status=self.proto.SessionLog.START)
            self.writer.write_event(self.proto.Event(wall_time=time.time(), step=purge, session_log=start))
        self.writer.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        """The values of a step by name."""
        for name, value in values.items():
            self.writer.write_event(self.proto.Event(wall_time=time.time(), step=step, summary=self.scalar(name, value)))
        self.writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self.writer.close()


def _board() -> tuple[Any, Any, Any]:
    """The protocol, the summary of a scalar and the writer.  Their package imports PyTorch wherever that is: seconds for nothing."""
    modules: Any = sys.modules
    hidden = "torch" not in modules
    if hidden:
        modules["torch"] = None  # an import of it fails from here on, as where it is not installed
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar
    finally:
        if hidden:
            del modules["torch"]
    return event_pb2, scalar, EventsWriter


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line cut off by a kill is left out."""
    path = folder / "metrics.jsonl"
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
