"""Random access to examples, with what a message says of them."""

import dataclasses
from collections.abc import Sequence

from models.words import join
from train.contracts import PART
from train.data.notes import Note
from train.data.readers.formats import Example, names_missing, unnamed
from train.errors import InputError


@dataclasses.dataclass(frozen=True)
class Split:
    """Random access to examples; `where` says for an index what a person can look up, `names` are the classes of
    integer columns.

    `places` are those of the examples in what they are a part of; none, they are all of it.  `notes` say what the
    reader left out or decided; `delimiter` lies between the cells of a table.
    """

    examples: Sequence[Example]
    origin: str
    names: dict[str, tuple[str, ...]]
    places: Sequence[int] = ()
    notes: tuple[Note, ...] = ()
    delimiter: str = ""

    def where(self, index: int) -> str:
        """The place of an example, for a message."""
        return f"{self.origin}, example {(self.places[index] if self.places else index) + 1}"

    def parted(self, tested: Sequence[bool], part: PART) -> "Split":
        """The examples of a part, where `tested` says of each whether it is to test on."""
        places = [place for place, test in enumerate(tested) if test == (part == "test")]
        some = [self.examples[place] for place in places]
        return dataclasses.replace(self, examples=some, origin=f"{self.origin} ({part} part)", places=places)

    def require(self, **columns: str) -> None:
        """Raises InputError where there is no example or no such column; `columns` are named by the settings that
        choose them.
        """
        if not len(self.examples):
            raise InputError(f"{self.origin} is empty; give more data, or another data.holdout.")
        known, settings = self.examples[0], " and ".join(f"data.{name}" for name in columns)
        for column in columns.values():
            if column not in known:
                self.require_names(columns)
                raise InputError(f"{self.origin} has no column {column!r}; it has {join(known)}: set {settings}.")

    def require_names(self, columns: dict[str, str] | None = None) -> None:
        """Raises InputError if the first row of a table is data; `columns` that it should name are given by their
        settings.
        """
        if self.delimiter and unnamed(header := list(self.examples[0]), self.examples):
            path = self.origin.removesuffix(" (train part)").removesuffix(" (test part)")
            raise InputError(f"{path} {names_missing(path, header, self.examples, self.delimiter, columns or {})}.")
