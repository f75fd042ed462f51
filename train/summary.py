"""Results of a run as JSON values: those of `summary.json`, and those of an evaluation."""

import math
from collections.abc import Mapping
from typing import NotRequired, TypedDict

from train.errors import Json


class Measured(TypedDict):
    """A metric and the half width of its 95 % interval; None for a number that is not finite, or no interval."""

    value: float | None
    interval: float | None


class Results(TypedDict):
    """Metrics of the objective and of the review, both by name; a run of an older version lacks all others.

    `baselines` are values without the model by metric and name, `data` the notes of its reader.
    """

    evaluation: dict[str, Measured]
    review: dict[str, float | None]
    run: NotRequired[str]
    baselines: NotRequired[dict[str, dict[str, float | None]]]
    warnings: NotRequired[list[str]]
    data: NotRequired[list[dict[str, Json]]]


class Evaluation(Results):
    """Results of the checkpoint of a step; `changed` tells how the data differs from that of training."""

    step: int
    changed: NotRequired[str]


class Summary(Results):
    """Results and costs of a finished run; `command` is one that goes on with it.

    `privacy` is what a private run spent.
    """

    steps: int
    parameters: int
    flops_per_step: int
    seconds_to_first_step: float | None
    peak_memory_bytes: int
    best_step: NotRequired[int | None]
    examples_per_second: NotRequired[float | None]
    tokens_per_second: NotRequired[float | None]
    mfu: NotRequired[float | None]
    fresh: NotRequired[list[str]]
    unused: NotRequired[list[str]]
    command: NotRequired[str]
    privacy: NotRequired[dict[str, float]]


def drop_nonfinite(value: float | None) -> float | None:
    """Returns a number, and None for one that is not finite, which JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def replace_nonfinite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replaces numbers that are not finite with None."""
    return {name: drop_nonfinite(value) for name, value in values.items()}


def list_measured(measured: Mapping[str, tuple[float, float]]) -> dict[str, Measured]:
    """Lists metrics and their intervals as JSON values, by name."""
    return {
        name: {"value": drop_nonfinite(value), "interval": drop_nonfinite(half)}
        for name, (value, half) in measured.items()
    }
