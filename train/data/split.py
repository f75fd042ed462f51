"""Splits: random access to examples, with their locations for error messages."""

import dataclasses
from collections.abc import Sequence

from models.words import join
from train.contracts import PART
from train.data.notes import Note
from train.data.readers.formats import Example, explain_names, lacks_names
from train.errors import InputError


@dataclasses.dataclass(frozen=True)
class Split:
    """Random access to examples of an `origin`; `names` are the classes of integer columns.

    `places` are the indices of the examples in the data that they are a part of; empty if they are all of it.  `notes`
    are the reader's; `delimiter` separates the cells of a table.
    """

    examples: Sequence[Example]
    origin: str
    names: dict[str, tuple[str, ...]]
    places: Sequence[int] = ()
    notes: tuple[Note, ...] = ()
    delimiter: str = ""

    def where(self, index: int) -> str:
        """The location of an example, for a message."""
        return f"{self.origin}, example {(self.places[index] if self.places else index) + 1}"

    def select(self, tested: Sequence[bool], part: PART) -> "Split":
        """Selects the examples of a part; `tested` has True for each example of the test part."""
        indices = [index for index, test in enumerate(tested) if test == (part == "test")]
        some = [self.examples[index] for index in indices]
        return dataclasses.replace(self, examples=some, origin=f"{self.origin} ({part} part)", places=indices)

    def require(self, **columns: str) -> None:
        """Raises InputError if there is no example or a column is missing; `columns` are keyed by their settings."""
        if not len(self.examples):
            raise InputError(f"{self.origin} is empty; give more data, or another data.holdout.")
        known, settings = self.examples[0], " and ".join(f"data.{name}" for name in columns)
        for column in columns.values():
            if column not in known:
                self.require_names(columns)
                raise InputError(f"{self.origin} has no column {column!r}; it has {join(known)}: set {settings}.")

    def require_names(self, columns: dict[str, str] | None = None) -> None:
        """Raises InputError if the first row of a table is data; `columns` that it should name, by their settings."""
        if self.delimiter and lacks_names(header := list(self.examples[0]), self.examples):
            path = self.origin.removesuffix(" (train part)").removesuffix(" (test part)")
            raise InputError(f"{path} {explain_names(path, header, self.examples, self.delimiter, columns or {})}.")
