"""Runs of a small language model: trained, killed, read back and compared bit by bit."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests.places import CONFIGS
from train.cli import main
from train.engine.checkpoint import Progress, Store
from train.engine.folder import read_run
from train.engine.prepared import prepare
from train.engine.step import TrainState
from train.sinks.json_lines import read_metrics

LANGUAGE_MODEL, SENTENCES = str(CONFIGS / "language_model.py"), str(CONFIGS / "sentences.py")
SHORT = ("steps=15", "evaluation.every=5", "checkpoints.every=4")  # checkpoints 4, 5, 8, 10, 12, 15


def train(folder: Path, *options: str, config: str = LANGUAGE_MODEL) -> int:
    """Trains in this process; gives the exit code."""
    return main(["train", config, "--run", str(folder), *options])


def launched(folder: Path, config: str, stop: Callable[[str], int] = lambda line: 0) -> tuple[int, str]:
    """`python -m train` in a process of its own, which gets the signal that `stop` gives for a line; its exit code and
    all it wrote.
    """
    command = [sys.executable, "-m", "train", config, "--run", str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stderr is not None
        written: list[str] = []
        for line in process.stderr:
            written.append(line)
            if number := stop(line):
                process.send_signal(number)
                written.extend(process.stderr)
    return process.returncode, "".join(written)


def reached(line: str) -> int:
    """The step that a line of progress tells of; 0 once compiling begins, -1 before."""
    found = re.match(r"step (\d+)/", line)
    return int(found[1]) if found else 0 if line.startswith("5 iterate") else -1


def abstract(folder: Path, config: str) -> TrainState:
    """The shapes of a run's state."""
    run = read_run(folder, config)
    state = prepare(run.experiment, run.experiment.data.open(run.classes)).state
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state)


def restored(folder: Path, like: TrainState) -> tuple[TrainState, Progress]:
    """The newest checkpoint of a run, as the loop reads it."""
    with Store(folder / "checkpoints", reading=True) as store:
        found = store.restore(like)
    assert found is not None
    return found


def same_bits(left: Any, right: Any) -> bool:
    """Whether two trees have the same structure and, leaf by leaf, the same bits."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return jax.tree.structure(left) == jax.tree.structure(right) and all(
        a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs
    )


def log(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the throughput."""
    return [
        {name: value for name, value in line.items() if not name.endswith("_per_second")}
        for line in read_metrics(folder)
    ]


def same_end(folder: Path, reference: Path, config: str) -> None:
    """Asserts that a run ended as the reference did: state, progress, best step, metrics, log."""
    like = abstract(reference, config)
    (state, progress), (other, its_progress) = restored(folder, like), restored(reference, like)
    assert same_bits(state, other)
    assert progress == its_progress
    kept, summary = (json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in (folder, reference))
    assert all(kept[name] == summary[name] for name in ("steps", "best_step", "evaluation", "parameters"))
    lines = log(folder)
    assert len({(line["step"], *sorted(line)) for line in lines}) == len(lines)
    assert lines == log(reference)
