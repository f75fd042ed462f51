"""What a review is, and what it finds."""

import dataclasses
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class Findings:
    """Metrics by name, and pieces of a page by their captions."""

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    pictures: dict[str, str] = dataclasses.field(default_factory=dict)


class Review(Protocol):
    """Looks at a trained model (`train.review.trained.Trained`); its metrics must depend on no batch size and no number of devices.

    A method `ready(data)` may be left out: it raises InputError, before anything is compiled, where the review will lack something.
    """

    def review(self, trained: Any) -> Findings: ...
