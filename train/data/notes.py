"""Notes of readers: what they left out, cut, filled in or decided, with counts and names."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

SHOWN = 5  # names in a sentence; the value has all of them


@dataclasses.dataclass(frozen=True)
class Note:
    """What a reader did to some `things` of an origin (a file, a folder, a data set): their names, of how many, and
    what was done.

    Without names it says what was decided for all of the origin.
    """

    origin: str
    done: str  # "cannot be used and are left out"
    things: str = ""  # "pictures"
    names: tuple[str, ...] = ()
    total: int = 0  # of all the things; 0 if nobody counted them

    def __str__(self) -> str:
        if not self.names:
            return f"{self.origin}: {self.done}"
        more = f" and {len(self.names) - SHOWN} more" if len(self.names) > SHOWN else ""
        counted = f"{len(self.names)} of {self.total}" if self.total else f"{len(self.names)}"
        return f"{counted} {self.things} of {self.origin} {self.done}: {', '.join(self.names[:SHOWN])}{more}"

    def record(self) -> dict[str, Any]:
        """The note as summary.json has it."""
        return {
            "said": str(self),
            "origin": self.origin,
            "count": len(self.names),
            "of": self.total,
            "names": list(self.names),
        }


class Notes(list[Note]):
    """The notes of an opened data set, each of them once."""

    def take(self, notes: Iterable[Note]) -> None:
        """Adds notes that are not there yet."""
        self.extend(note for note in notes if note not in self)


@runtime_checkable
class Noted(Protocol):
    """An opened data set whose reader keeps notes."""

    notes: Sequence[Note]


def notes_of(data: object) -> Sequence[Note]:
    """The notes of an opened data set; none if its reader keeps none."""
    return data.notes if isinstance(data, Noted) else ()
