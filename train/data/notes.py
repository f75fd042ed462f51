"""Notes of readers on the rows or files that they left out, cut or filled in, with counts and names."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from train.errors import Json

SHOWN = 5  # names in a sentence; the note itself has all


@dataclasses.dataclass(frozen=True)
class Note:
    """A reader's action on `things` of an origin (a file, a folder, a data set): their names, their total, the action.

    A note without names is a decision for the whole origin.
    """

    origin: str
    done: str  # "cannot be used and are left out"
    things: str = ""  # "pictures"
    names: tuple[str, ...] = ()
    total: int = 0  # number of all the things; 0 if unknown

    def __str__(self) -> str:
        if not self.names:
            return f"{self.origin}: {self.done}"
        more = f" and {len(self.names) - SHOWN} more" if len(self.names) > SHOWN else ""
        counted = f"{len(self.names)} of {self.total}" if self.total else f"{len(self.names)}"
        return f"{counted} {self.things} of {self.origin} {self.done}: {', '.join(self.names[:SHOWN])}{more}"

    def record(self) -> dict[str, Json]:
        """The note as a dictionary for summary.json."""
        return {
            "said": str(self),
            "origin": self.origin,
            "count": len(self.names),
            "of": self.total,
            "names": list(self.names),
        }


class Notes(list[Note]):
    """The notes of an opened data set, without repeats."""

    def take(self, notes: Iterable[Note]) -> None:
        """Adds notes that are not in it yet."""
        self.extend(note for note in notes if note not in self)


@runtime_checkable
class Noted(Protocol):
    """An opened data set that has notes of its reader."""

    notes: Sequence[Note]


def get_notes(data: object) -> Sequence[Note]:
    """The notes of an opened data set; empty unless it is `Noted`."""
    return data.notes if isinstance(data, Noted) else ()
