"""Origins of data that a run records: a data set by its name, or files of the user."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Named(Protocol):
    """Data of a `dataset` by its name, unless the user gives files of their own."""

    @property
    def dataset(self) -> str: ...


@runtime_checkable
class ReadsFiles(Protocol):
    """Data that reads the user's file or folder at `path`, if that is not None."""

    @property
    def path(self) -> str | None: ...
