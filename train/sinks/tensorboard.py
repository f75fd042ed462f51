"""TensorBoard events of a run's metrics, by tensorboardX."""

import contextlib
import dataclasses
import importlib.util
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from train.disk import explain_failed_writes
from train.events import Evaluated, Event, Logged, Started
from train.sinks.library import require_library

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter


@dataclasses.dataclass(frozen=True)
class TensorBoard:
    """Writes events of scalars below `tensorboard/` in the folder of the run; needs tensorboardX.

    Every run has this sink if tensorboardX is installed.  A resumed run marks the events after the step that it
    continues from as void.
    """

    def require_installed(self) -> None:
        """Raises InputError if tensorboardX is not installed."""
        require_library("tensorboardX", "TensorBoard", "tensorboard")

    def open(self, started: Started) -> "TensorBoardWriter":
        """Another file of events of the run."""
        self.require_installed()
        with explain_failed_writes(started.folder):
            return TensorBoardWriter(started)


class TensorBoardWriter:
    """Writer of events, each written before the call returns, so that a full disk is noticed here."""

    def __init__(self, started: Started) -> None:
        self.started, folder = started, started.folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        self.protocol, self.scalar, writer = _import_library()
        self.writer = writer(str(folder / "events"))
        if started.step:
            start = self.protocol.SessionLog(status=self.protocol.SessionLog.START)
            void = self.protocol.Event(wall_time=time.time(), step=started.step + 1, session_log=start)
            self.writer.write_event(void)
        self.writer.flush()

    def write(self, event: Event) -> None:
        """Writes the metrics of an event as scalars, unless they are of the step that the run continues from."""
        if not isinstance(event, Logged | Evaluated):
            return
        if event.step == self.started.step and event.group in self.started.logged:
            return
        with explain_failed_writes(self.started.folder):
            for name, value in event.values.items():
                summary = self.scalar(f"{event.group}/{name}", value)
                self.writer.write_event(self.protocol.Event(wall_time=time.time(), step=event.step, summary=summary))
            self.writer.flush()

    def close(self, failed: bool) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):
            self.writer.close()


def is_installed() -> bool:
    """Tells if tensorboardX is installed."""
    return importlib.util.find_spec("tensorboardX") is not None


def _import_library() -> tuple[ModuleType, Callable[[str, float], object], "type[EventsWriter]"]:
    """Imports the protocol, the scalar summary and the writer, without PyTorch, whose import takes seconds."""
    modules: Any = sys.modules
    hidden = "torch" not in modules
    if hidden:
        modules["torch"] = None  # makes `import torch` fail, as if it were not installed
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar
    finally:
        if hidden:
            del modules["torch"]
    return event_pb2, scalar, EventsWriter
