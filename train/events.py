"""Events of a run, and sinks, which receive them from the loop."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from train.errors import Json
from train.summary import Summary


@dataclasses.dataclass(frozen=True)
class Started:
    """The start of a run from `step`, 0 if it is new, to `steps`; `settings` is its experiment as JSON values.

    `logged` has the groups (`train`, `evaluation`) whose numbers of that step have been written already.
    """

    folder: Path
    step: int
    steps: int
    settings: Mapping[str, Json] = dataclasses.field(default_factory=dict)
    logged: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Logged:
    """Means over the training steps since the last line of the log."""

    step: int
    values: Mapping[str, float]

    group = "train"


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Metrics on the test split, each with the half width of its 95 % interval, infinite if it has none."""

    step: int
    measured: Mapping[str, tuple[float, float]]

    group = "evaluation"

    @property
    def values(self) -> dict[str, float]:
        """Metrics without their intervals."""
        return {name: value for name, (value, _) in self.measured.items()}


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint of a step, now on the disk."""

    step: int


@dataclasses.dataclass(frozen=True)
class Message:
    """A sentence for the user."""

    text: str


@dataclasses.dataclass(frozen=True)
class Finished:
    """The end of a run after a step, with the contents of `summary.json`."""

    step: int
    summary: Summary


Event = Started | Logged | Evaluated | Saved | Message | Finished


class Writer(Protocol):
    """An open sink.  `close` comes last, also when the run `failed` or was stopped by a signal."""

    def write(self, event: Event) -> None: ...

    def close(self, failed: bool) -> None: ...


class Sink(Protocol):
    """A destination for the events of a run, such as a log, a tracking server, a console: opened when training starts.

    A run that is continued opens its sinks anew: a sink must not hold the numbers of a step twice.
    """

    def open(self, started: Started) -> Writer: ...


@runtime_checkable
class NeedsLibrary(Protocol):
    """A sink that needs a library.  `require_installed` raises InputError if it is not there."""

    def require_installed(self) -> None: ...
