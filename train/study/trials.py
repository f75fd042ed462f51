"""The trials of a study: what its ledger holds, and those that are made and added to it."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from train.errors import InputError
from train.study.cluster import Cluster
from train.study.ledger import Ledger, Line
from train.study.trial import Make, Outcome, Unit
from train.study.workers import describe_machine
from train.variants import BASELINE


@runtime_checkable
class Chooses(Protocol):
    """A maker of trials in a way that is chosen once for a study, and noted in its ledger."""

    def __call__(self, units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome | str]]: ...

    def choose(self, ledger: Ledger, units: Sequence[Unit]) -> None: ...


class Trials:
    """Outcomes of trials by their key, and errors by the name of the structure, as the ledger of a folder holds them.

    A structure of which one trial failed is trained no more.
    """

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder)
        self.outcomes: dict[tuple[str, tuple[str, ...], int, str], Outcome] = {}
        self.failures: dict[str, str] = {}
        self.machines: set[str | None] = set()
        for line in self.ledger.lines:
            if line["kind"] == "trial":
                self._take(line)

    def _take(self, line: Line) -> None:
        key = (line["variant"], tuple(line["overrides"]), line["seed"], line["part"])
        self.machines.add(line.get("machine"))
        if line["error"] is not None:
            self.failures[key[0]] = line["error"]
            return
        loss = math.inf if line["loss"] is None else line["loss"]
        curve = tuple((step, math.inf if value is None else value) for step, value in line["curve"])
        self.outcomes[key] = Outcome(loss, curve, line["seconds"], line.get("accuracy"), line.get("memory"))

    def carry_out(self, units: Sequence[Unit], make: Make, done: Callable[[], None] = lambda: None) -> None:
        """Makes the trials that the ledger does not hold, each a line of it when it ends.

        Raises InputError if the baseline cannot be trained.
        """
        left = [unit for unit in units if unit.key not in self.outcomes and unit.variant not in self.failures]
        if left and isinstance(make, Chooses):
            make.choose(self.ledger, left)
        for unit, outcome in make(left):
            failed = isinstance(outcome, str)
            line = {
                "kind": "trial",
                "variant": unit.variant,
                "overrides": list(unit.overrides),
                "seed": unit.seed,
                "part": unit.part,
                "error": outcome if failed else None,
                "loss": None if failed else _finite(outcome.loss),
                "curve": [] if failed else [[step, _finite(loss)] for step, loss in outcome.curve],
                "seconds": None if failed else outcome.seconds,
                "accuracy": None if failed else outcome.accuracy,
                "memory": None if failed else outcome.memory,
                "machine": None if isinstance(make, Cluster) else describe_machine(),
            }
            self.ledger.add(line)
            self._take(line)
            if BASELINE in self.failures:
                raise InputError(f"The baseline cannot be trained: {self.failures[BASELINE]}.")
            done()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
