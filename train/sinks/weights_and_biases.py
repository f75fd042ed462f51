"""Weights & Biases: the metrics of a run on wandb.ai, on another server, or in a folder to be synchronised later."""

import dataclasses
import uuid
from typing import TYPE_CHECKING, Literal

from train.disk import explain_failed_writes
from train.errors import InputError
from train.events import Evaluated, Event, Finished, Logged, Started
from train.sinks.library import Memory, load, require_library

if TYPE_CHECKING:
    from wandb import Run


@dataclasses.dataclass(frozen=True)
class WandB:
    """Logs to a project of Weights & Biases: `sinks=(WandB("project"),)`; needs wandb.

    `mode` is "online", "offline" (a folder wandb/ in that of the run, for `wandb sync`), or None for the environment
    variable WANDB_MODE.  A resumed run continues the same W&B run, and metrics are not sent again: wandb.json, beside
    experiment.json, remembers the run and the last steps sent.
    """

    project: str
    entity: str | None = None
    mode: Literal["online", "offline"] | None = None

    def require_installed(self) -> None:
        """Raises InputError if wandb is not installed."""
        require_library("wandb", "WandB", "wandb")

    def open(self, started: Started) -> "WandBWriter":
        """The run on W&B.  Raises InputError if W&B refuses it, as it does without a login."""
        wandb, memory = load("wandb", "WandB", "wandb"), Memory(started.folder, "wandb")
        if memory.run is None:
            memory.begin(uuid.uuid4().hex[:8])
        settings = wandb.Settings(console="off", silent=True, save_code=False, disable_git=True)
        try:
            with explain_failed_writes(started.folder):
                run = wandb.init(
                    project=self.project,
                    entity=self.entity,
                    mode=self.mode,
                    dir=str(started.folder),
                    id=memory.run,
                    resume="allow",
                    name=started.folder.name,
                    config=dict(started.settings),
                    allow_val_change=True,
                    settings=settings,
                )
        except InputError:
            raise
        except Exception as error:  # of many kinds
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            remedy = "run `wandb login`, or give WandB mode='offline'"
            raise InputError(f"Weights & Biases cannot be logged to ({said}); {remedy}.") from None
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return WandBWriter(run, memory)


class WandBWriter:
    """An open run of W&B.  Each row has its step as a metric, since W&B's own step counts rows."""

    def __init__(self, run: "Run", memory: Memory) -> None:
        self.run, self.memory = run, memory

    def write(self, event: Event) -> None:
        """Queues the metrics of an event, which a thread of wandb sends; the final metrics go to the summary."""
        match event:
            case Logged() | Evaluated():
                if not self.memory.is_sent(event.group, event.step):
                    named = {f"{event.group}/{name}": value for name, value in event.values.items()}
                    self.run.log({"step": event.step, **named})
                    self.memory.mark_sent(event.group, event.step)
            case Finished():
                reviewed = {f"review/{name}": value for name, value in event.summary.get("review", {}).items()}
                numbers = {name: value for name, value in event.summary.items() if isinstance(value, int | float)}
                self.run.summary.update(numbers | reviewed)
            case _:
                pass

    def close(self, failed: bool) -> None:
        """Sends the queued rows, and ends the run."""
        self.run.finish(exit_code=int(failed))
