"""Candidates of a search: what was drawn, how far it came, and what of its gain is confirmed."""

import dataclasses
import math

from train.cost.value import Cost
from train.errors import Json
from train.study.compare import Entry, Result
from train.study.grammar import Edits, read_edits, write_edits
from train.study.ledger import Line


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A structure that was drawn: its edits and parents, what it is after the match, and why it is out, if it is.

    `stage` is "entered", or why it is out: "not built", "breaks a law", "no equal budget", "the same after the match".
    """

    name: str
    generation: int
    edits: Edits
    parents: tuple[str, ...]
    entry: Entry
    stage: str = "entered"

    def record(self) -> dict[str, Json]:
        """The candidate as a line of the ledger."""
        return {
            "kind": "candidate",
            "name": self.name,
            "generation": self.generation,
            "edits": list(write_edits(self.edits)),
            "parents": list(self.parents),
            "stage": self.stage,
            "reason": self.entry.out,
            "overrides": list(self.entry.overrides),
            "matched": list(self.entry.moved),
            "parameters": self.entry.cost.parameters,
            "flops": self.entry.cost.flops,
            "costs": self.entry.cost.record(),
            "tokens": self.entry.tokens,
        }


def read_candidate(line: Line) -> Candidate:
    """Reads a candidate from a line of the ledger."""
    cost = Cost(**line.get("costs", {name: line[name] for name in ("parameters", "flops")}))
    entry = Entry(line["name"], tuple(line["overrides"]), tuple(line["matched"]), cost, line["reason"], line["tokens"])
    edits, parents = read_edits(line["edits"]), tuple(line["parents"])
    return Candidate(line["name"], line["generation"], edits, parents, entry, line["stage"])


@dataclasses.dataclass(frozen=True)
class Standing:
    """A candidate with its mean loss on each rung that it reached; infinite if it could not be trained there."""

    candidate: Candidate
    losses: tuple[float, ...]

    @property
    def rank(self) -> tuple[float, float]:
        """Sorts the best first: by the highest rung, then by its loss."""
        return -len(self.losses), self.losses[-1] if self.losses else math.inf


@dataclasses.dataclass(frozen=True)
class Progress:
    """A look at a search: what it does, the share of its training that is done, and the standings so far."""

    said: str
    share: float
    standings: tuple[Standing, ...]


@dataclasses.dataclass(frozen=True)
class Gain:
    """A winner's gain as a share of the baseline's loss: as the search saw it, and as fresh seeds confirm it."""

    standing: Standing
    result: Result
    seen: float

    @property
    def confirmed(self) -> float:
        """The mean gain on fresh seeds and the verdict part; not a number if there is no verdict."""
        return -self.result.share[0]

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the confidence sequence of the confirmed gain."""
        return -self.result.share[2], -self.result.share[1]

    @property
    def curse(self) -> float:
        """The winner's curse: the gain that the search saw less the one that was confirmed."""
        return self.seen - self.confirmed
