"""Faults of one line, each with the tests that should see it."""

from typing import NamedTuple


class Fault(NamedTuple):
    """In `file`, the text `old`, which stands there once, becomes `new`; `tests` are what pytest is given."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


FAULTS: tuple[Fault, ...] = ()
