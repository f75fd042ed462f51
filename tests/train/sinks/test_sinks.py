"""Sinks: what a run hands to each, once, over stops and resumes; servers that fail; libraries that are absent."""

import dataclasses
import json
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.places import CONFIGS
from train.cli import main
from train.config import load_config
from train.engine.signals import InterruptedRunError
from train.errors import InputError
from train.events import Evaluated, Event, Logged, Message, Saved, Started
from train.report.console import Console
from train.sinks.broadcast import broadcast
from train.sinks.json_lines import read_metrics
from train.sinks.library import Memory
from train.sinks.ml_flow import MLflow
from train.sinks.tensorboard import TensorBoard
from train.sinks.weights_and_biases import WandB
from train.summary import Summary
from train.use.fit import fit

CONFIG = str(CONFIGS / "language_model.py")
SHORT = ["steps=8", "evaluation.every=4", "checkpoints.every=3", "log_every=2"]


@pytest.fixture(autouse=True)
def _inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    monkeypatch.setenv("MORPHAX_CACHE", str(workshop / "cache"))


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Keeps every event; fails at those of one kind."""

    fails: str = ""
    events: ClassVar[list[Any]] = []

    def open(self, started: Started) -> "Recorder":
        self.events.append(started)
        return self

    def write(self, event: Event) -> None:
        if type(event).__name__ == self.fails:
            raise ConnectionError("the server is gone.")
        self.events.append(event)

    def close(self, failed: bool) -> None:
        self.events.append(failed)


@pytest.fixture
def events() -> Iterator[list[Any]]:
    Recorder.events.clear()
    yield Recorder.events
    Recorder.events.clear()


class Watching(Console):
    """A console that keeps every event."""

    def open(self, started: Started) -> Any:
        return Recorder().open(started)


def trained(folder: Path, *sinks: Any) -> Summary:
    """The summary of a short run of the language model with these sinks."""
    experiment = dataclasses.replace(load_config(CONFIG, SHORT)[0], sinks=sinks)
    return fit(experiment, folder, CONFIG, Watching(silent=True))


def numbers(lines: list[dict[str, Any]]) -> list[tuple[int, str, float]]:
    """Numbers of metrics.jsonl without the throughput: (step, name, value)."""
    pairs = [(line["step"], name, value) for line in lines for name, value in line.items() if name != "step"]
    return [pair for pair in pairs if not pair[1].endswith("_per_second")]


@pytest.mark.slow
def test_a_run_gives_every_event_once_and_one_that_goes_on_only_what_is_new(
    tmp_path: Path, events: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORPHAX_SIGNAL", "step 5 SIGTERM")
    with pytest.raises(InterruptedRunError):
        trained(tmp_path / "run")
    monkeypatch.delenv("MORPHAX_SIGNAL")
    first, *before, failed = list(events)
    assert (first.step, first.steps, first.folder, failed) == (0, 8, tmp_path / "run", True)
    assert first.settings["class"] == "Experiment"
    kinds = [(type(event).__name__, event.step) for event in before if not isinstance(event, Message)]
    assert kinds == [
        ("Logged", 2),
        ("Logged", 3),
        ("Logged", 4),
        ("Evaluated", 4),
        ("Saved", 3),
        ("Saved", 4),
        ("Saved", 5),
    ]
    events.clear()
    summary = trained(tmp_path / "run")
    first, *after, failed = list(events)
    assert (first.step, failed) == (5, False)
    kinds = [(type(event).__name__, event.step) for event in after]
    assert kinds == [("Logged", 6), ("Logged", 8), ("Evaluated", 8), ("Saved", 6), ("Saved", 8), ("Finished", 8)]
    assert after[-1].summary == summary
    written = [event for event in (*before, *after) if isinstance(event, Logged | Evaluated)]
    lines = [(event.step, f"{event.group}/{name}", value) for event in written for name, value in event.values.items()]
    assert [one for one in lines if not one[1].endswith("_per_second")] == numbers(read_metrics(tmp_path / "run"))
    events.clear()
    assert trained(tmp_path / "run", TensorBoard()) == summary  # with other sinks it is the same run
    assert not events


def test_a_sink_that_fails_is_left_out_and_training_goes_on(tmp_path: Path) -> None:
    Recorder.events.clear()
    with broadcast((Recorder("Evaluated"), Recorder()), Started(tmp_path, 0, 4)) as emit:
        for event in (Logged(1, {"loss": 1.0}), Evaluated(1, {"loss": (1.0, 0.1)}), Saved(1)):
            emit(event)
    said = "warning: the sink Recorder has failed (the server is gone); it gets nothing from here on"
    assert [event for event in Recorder.events if isinstance(event, Message)] == [Message(said)]
    kinds = (Started, Logged, Evaluated, Saved, bool)
    assert [sum(type(event) is kind for event in Recorder.events) for kind in kinds] == [2, 2, 1, 1, 1]


def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    class Full(Recorder):
        def write(self, event: Event) -> None:
            raise InputError("no room")

    with pytest.raises(InputError, match="no room"), broadcast((Full(),), Started(tmp_path, 0, 4)) as emit:
        emit(Saved(1))


NEEDED = {
    WandB("project"): ("wandb", "wandb"),
    MLflow("experiment"): ("mlflow", "mlflow"),
    TensorBoard(): ("tensorboardX", "tensorboard"),
}


@pytest.mark.parametrize("sink", NEEDED, ids=lambda sink: type(sink).__name__)
def test_a_library_that_is_absent_is_one_sentence(sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    library, extra = NEEDED[sink]
    modules: Any = sys.modules
    monkeypatch.setitem(modules, library, None)
    with pytest.raises(InputError, match=rf"needs the package {library}, .*pip install 'morphax\[{extra}\]'"):
        sink.require_installed()


def test_a_sink_of_the_command_line_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modules: Any = sys.modules
    monkeypatch.setitem(modules, "wandb", None)
    assert main(["train", CONFIG, "--run", str(tmp_path / "run"), 'sinks=(WandB("films"),)']) == 2
    assert "morphax: The sink WandB needs the package wandb" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_was_sent_is_remembered(tmp_path: Path) -> None:
    memory = Memory(tmp_path, "wandb")
    memory.begin("abc")
    memory.mark_sent("train", 4)
    again = Memory(tmp_path, "wandb")
    assert (again.run, again.is_sent("train", 4), again.is_sent("train", 5)) == ("abc", True, False)
    assert not again.is_sent("evaluation", 0)
    (tmp_path / "wandb.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"wandb\.json is damaged .*remove it to log to a new run"):
        Memory(tmp_path, "wandb")


def stopped_and_continued(folder: Path, sink: Any, monkeypatch: pytest.MonkeyPatch) -> Summary:
    """The summary of a run that a signal stops between two lines of its log, and that goes on."""
    monkeypatch.setenv("MORPHAX_SIGNAL", "step 5 SIGTERM")
    with pytest.raises(InterruptedRunError) as stop:
        trained(folder, sink)
    assert stop.value.number == signal.SIGTERM
    monkeypatch.delenv("MORPHAX_SIGNAL")
    return trained(folder, sink)


@pytest.mark.slow
def test_mlflow_holds_the_numbers_of_the_log_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    address = (tmp_path / "store").as_uri()
    stopped_and_continued(tmp_path / "run", MLflow("films", address), monkeypatch)
    client = mlflow.MlflowClient(tracking_uri=address)
    known = client.get_experiment_by_name("films")
    assert known is not None
    (run,) = client.search_runs([known.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["steps"] == "8"
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    held = [(one.step, name, one.value) for name, points in history.items() for one in points]
    held = [one for one in held if not one[1].endswith("_per_second") and not one[1].startswith("review/")]
    assert sorted(held) == sorted(numbers(read_metrics(tmp_path / "run")))


@pytest.mark.slow
def test_wandb_offline_holds_the_numbers_of_the_log_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_and_continued(tmp_path / "run", WandB("films", mode="offline"), monkeypatch)
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    files = [file for folder in folders for file in folder.glob("run-*.wandb")]
    assert len({file.name for file in files}) == 1  # one run, in two folders
    assert len(files) == 2
    rows = [row for file in files for row in history(file)]
    held = [(int(row["step"]), name, value) for row in rows for name, value in row.items() if name[0] not in "_s"]
    held = [one for one in held if not one[1].endswith("_per_second")]
    assert sorted(held) == sorted(numbers(read_metrics(tmp_path / "run")))


def history(file: Path) -> list[dict[str, Any]]:
    """Rows of numbers that a file of W&B's holds, each a dict by name."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # whose classes are made when it is imported

    rows = []
    for content in records(file.read_bytes()):
        record = messages.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
    return rows


def records(content: bytes, block: int = 2**15) -> Iterator[bytes]:
    """Records of a log in the format of LevelDB, after the seven bytes that W&B puts before it.

    Each piece has a checksum (4 bytes), its length (2) and its kind (1): whole, first, middle or last of a record.
    """
    place, whole = 7, b""
    while place + 7 <= len(content):
        left = block - place % block
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack("<4xHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""
