"""Weights & Biases: the numbers of a run on wandb.ai, on another server, or in a folder to be synchronised later."""

import dataclasses
import uuid
from typing import Any, Literal

from train.disk import explain_failed_writes
from train.errors import InputError
from train.events import Evaluated, Event, Finished, Logged, Started
from train.sinks.library import Memory, load, require_library


@dataclasses.dataclass(frozen=True)
class WandB:
    """Logs to a project of Weights & Biases: `sinks=(WandB("project"),)`; needs wandb.

    `mode` is "online", "offline" (a folder wandb/ in that of the run, for `wandb sync`), or None for the environment
    variable WANDB_MODE.  A run that is continued goes on in the same W&B run, and what was sent is not sent again:
    wandb.json, beside experiment.json, remembers both.
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
    """An open run of W&B.  Rows have their step as a number of their own, since W&B's counts rows."""

    def __init__(self, run: Any, memory: Memory) -> None:
        self.run, self.memory = run, memory

    def write(self, event: Event) -> None:
        """Queues the numbers of an event; a thread of wandb sends them.  The summary gets what a run ends with."""
        match event:
            case Logged() | Evaluated():
                if not self.memory.is_sent(event.group, event.step):
                    named = {f"{event.group}/{name}": value for name, value in event.values.items()}
                    self.run.log({"step": event.step, **named})
                    self.memory.sent(event.group, event.step)
            case Finished():
                reviewed = {f"review/{name}": value for name, value in event.summary.get("review", {}).items()}
                numbers = {name: value for name, value in event.summary.items() if isinstance(value, int | float)}
                self.run.summary.update(numbers | reviewed)
            case _:
                pass

    def close(self, failed: bool) -> None:
        """Sends what is queued, and ends the run."""
        self.run.finish(exit_code=int(failed))
