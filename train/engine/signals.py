"""SIGTERM and Ctrl-C as a flag that the loop polls, so that a run saves before it stops."""

import signal
from collections.abc import Callable
from types import FrameType


class InterruptedRunError(Exception):
    """A run stopped by a signal, with its state saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} at step {step}; the state is saved: run the same command to"
            " continue"
        )
        self.number = number

    def _render_traceback_(self) -> list[str]:
        return [f"morphax: {self}"]  # shown by a notebook


class Flag:
    """Records the first SIGTERM or SIGINT in `number` while it is entered; a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

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
