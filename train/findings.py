"""Findings of a review: metrics, pieces of the report, baselines."""

import dataclasses

from train.baselines import Baselines
from train.page import Piece


@dataclasses.dataclass(frozen=True)
class Findings:
    """Metrics by name, pieces of a page by their captions, and baselines by metric."""

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    pictures: dict[str, Piece] = dataclasses.field(default_factory=dict)
    baselines: Baselines = dataclasses.field(default_factory=dict)
