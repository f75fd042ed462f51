"""MLflow: the metrics of a run on a tracking server, or in a local database or folder."""

import dataclasses
import re
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from train.errors import InputError
from train.events import Evaluated, Event, Finished, Logged, Started
from train.sinks.library import Memory, load, require_library

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, Run

LONGEST = 500  # characters of a parameter that every store accepts
ROOM = 100  # parameters that a store accepts at once


@dataclasses.dataclass(frozen=True)
class MLflow:
    """Logs to an experiment of MLflow: `sinks=(MLflow("experiment"),)`; needs mlflow, or mlflow-skinny for a server.

    `uri` is the address of a server, `sqlite:///FILE`, or None for the environment variable MLFLOW_TRACKING_URI and
    MLflow's own default.  A resumed run continues the same MLflow run, whose ID is in mlflow.json beside
    experiment.json; metrics that the store has are not sent again.
    """

    experiment: str
    uri: str | None = None

    def require_installed(self) -> None:
        """Raises InputError if mlflow is not installed."""
        require_library("mlflow", "MLflow", "mlflow")

    def open(self, started: Started) -> "MLflowWriter":
        """The run on MLflow.  Raises InputError if the store cannot be used."""
        mlflow, memory = load("mlflow", "MLflow", "mlflow"), Memory(started.folder, "mlflow")
        try:
            client = mlflow.MlflowClient(tracking_uri=self.uri)
            if memory.run is None:
                known = client.get_experiment_by_name(self.experiment)
                group = client.create_experiment(self.experiment) if known is None else known.experiment_id
                memory.begin(client.create_run(group, run_name=started.folder.name).info.run_id)
            else:
                client.update_run(memory.run, "RUNNING")
            run = client.get_run(memory.run)
            _log_settings(client, mlflow.entities.Param, run, started.settings)
        except InputError:
            raise
        except Exception as error:  # of many kinds
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
            raise InputError(f"MLflow cannot be logged to ({said}); change MLflow.uri, or the server.") from None
        return MLflowWriter(client, mlflow.entities.Metric, run)


class MLflowWriter:
    """An open run of MLflow."""

    def __init__(self, client: "MlflowClient", metric: type["Metric"], run: "Run") -> None:
        self.client, self.metric, self.run = client, metric, run.info.run_id
        history = {name: client.get_metric_history(self.run, name) for name in run.data.metrics}
        self.sent = {(name, point.step) for name, points in history.items() for point in points}

    def write(self, event: Event) -> None:
        """Sends the metrics of an event that the store does not have."""
        match event:
            case Logged() | Evaluated():
                self._send(event.step, {f"{event.group}/{name}": value for name, value in event.values.items()})
            case Finished():
                reviewed = event.summary.get("review", {})
                self._send(event.step, {f"review/{name}": value for name, value in reviewed.items()})
            case _:
                pass

    def _send(self, step: int, values: Mapping[str, float | None]) -> None:
        named = {_clean_name(name): value for name, value in values.items() if value is not None}
        new = {name: value for name, value in named.items() if (name, step) not in self.sent}
        stamp = int(time.time() * 1000)
        if new:
            self.client.log_batch(self.run, metrics=[self.metric(name, new[name], stamp, step) for name in new])
            self.sent |= {(name, step) for name in new}

    def close(self, failed: bool) -> None:
        """Ends the run."""
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


def _log_settings(client: "MlflowClient", kind: type["Param"], run: "Run", settings: Mapping[str, object]) -> None:
    """Logs the settings that the run has no parameter of, as MLflow allows no changes."""
    params = {_clean_name(name): str(value)[:LONGEST] for name, value in flatten(settings)}
    new = [kind(name, value) for name, value in params.items() if name not in run.data.params]
    for first in range(0, len(new), ROOM):
        client.log_batch(run.info.run_id, params=new[first : first + ROOM])


def flatten(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Flattens a tree of dicts and lists into values by their paths: `model.stack.repeats`."""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else None
    if items is None:
        yield path, tree
        return
    for name, value in items:
        yield from flatten(value, f"{path}.{name}" if path else str(name))


def _clean_name(name: str) -> str:
    """Cleans a name of the characters that not every store accepts."""
    return re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII)
