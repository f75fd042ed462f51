"""SIGTERM and Ctrl-C as a flag that a run looks at, so that it can save before it stops."""

import signal
from types import FrameType
from typing import Any


class InterruptedRunError(Exception):
    """A signal asked the run to stop, and its state is saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} at step {step}; the state is saved: run the same command to"
            " continue"
        )
        self.number = number

    def _render_traceback_(self) -> list[str]:
        return [f"morphax: {self}"]  # what a notebook shows


class Flag:
    """While entered, remembers the first SIGTERM or SIGINT in `number` instead of dying; a second one interrupts as
    usual.
    """

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Flag":
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
