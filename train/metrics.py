"""What a run writes down while it runs: metrics.jsonl, one line a log step, and TensorBoard events beside it."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any


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
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        self.written = {(line["step"], name.partition("/")[0]) for line in kept for name in line if name != "step"}
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, self.path)
        self.file = self.path.open("a", encoding="utf-8")
        self.events = events(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, group: str, values: dict[str, float]) -> None:
        """One line `{"step": ..., "group/name": ...}`; a value that is not a number is written as null."""
        if (step, group) in self.written:
            return
        self.written.add((step, group))
        line = {"step": step} | {f"{group}/{name}": finite(value) for name, value in values.items()}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.events.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Writes out everything."""
        self.file.close()
        self.events.close()


def events(folder: str, purge_step: int | None) -> Any:
    """A writer of TensorBoard events.  Its package imports PyTorch wherever that is installed: seconds and memory for nothing."""
    modules: Any = sys.modules
    hidden = "torch" not in modules
    if hidden:
        modules["torch"] = None  # an import of it fails from here on, as where it is not installed
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del modules["torch"]
    return SummaryWriter(folder, purge_step=purge_step)


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
