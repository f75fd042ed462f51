"""What a review is, and what it finds."""

import dataclasses
from typing import Any, Protocol, runtime_checkable


@dataclasses.dataclass(frozen=True)
class Findings:
    """Metrics by name, and pieces of a page by their captions."""

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    pictures: dict[str, str] = dataclasses.field(default_factory=dict)


class Review(Protocol):
    """Looks at a trained model (`train.review.trained.Trained`); its metrics must depend on no batch size and no number of devices."""

    def review(self, trained: Any) -> Findings: ...


@runtime_checkable
class Readies(Protocol):
    """A review that looks at the data before anything is compiled.  Raises InputError if the review will lack something."""

    def ready(self, data: Any) -> None: ...
