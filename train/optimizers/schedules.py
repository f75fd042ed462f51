"""Learning-rate schedules as values over optax."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import optax


def _count_steps(part: float, steps: int) -> int:
    """Counts the steps of a phase that is a fraction of training (below 1) or a number of steps."""
    return round(part * steps) if part < 1 else round(part)


def require_values(value: object, least: float, below: float, *names: str) -> None:
    """Raises ValueError, naming the field, if a field is below `least`, not below `below`, or not a number."""
    for name in names:
        if not least <= (number := getattr(value, name)) < below:
            bound = f" and below {below:g}" if below < math.inf else ", and finite"
            raise ValueError(f"{type(value).__name__}.{name} is {number}; it must be {least:g} or above{bound}.")


def describe_unreached(rate: object, steps: int) -> str:
    """Describes the phase of a schedule that `steps` steps do not reach, in a sentence; empty if all are reached."""
    known = {name: getattr(rate, name, None) for name in ("warmup", "decay")}
    phases = {name: _count_steps(part, steps) for name, part in known.items() if isinstance(part, int | float)}
    warmup, total = phases.get("warmup", 0), sum(phases.values())
    if warmup >= max(steps, 2):
        return (
            f"optimizer.rate.warmup is {warmup} steps and training has {steps}, so the rate never reaches its peak;"
            " lower optimizer.rate.warmup (below 1 it is a part of training) or train for more steps"
        )
    if "decay" in phases and total > steps:
        return (
            f"optimizer.rate.warmup and optimizer.rate.decay are {total} steps and training has {steps}, so the rate"
            " falls before it is at its peak; lower one of them (below 1 each is a part of training)"
        )
    return ""


@runtime_checkable
class Peaked(Protocol):
    """A schedule whose largest rate is a field."""

    @property
    def peak(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Constant:
    """Constant peak after `warmup` of linear rise (a fraction of training if below 1, otherwise steps)."""

    peak: float = 1e-3
    warmup: float = 0.0

    def __post_init__(self) -> None:
        require_values(self, 0, math.inf, "peak", "warmup")

    def build(self, steps: int) -> optax.Schedule:
        """Step -> rate."""
        return _warm_up(self.peak, _count_steps(self.warmup, steps), optax.constant_schedule(self.peak))


@dataclasses.dataclass(frozen=True)
class Linear:
    """Linear rise to peak over `warmup`, then linear fall to `end * peak` at the last step."""

    peak: float = 1e-3
    warmup: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        require_values(self, 0, math.inf, "peak", "warmup", "end")

    def build(self, steps: int) -> optax.Schedule:
        """Step -> rate."""
        warmup = _count_steps(self.warmup, steps)
        return _warm_up(
            self.peak, warmup, optax.linear_schedule(self.peak, self.end * self.peak, max(steps - warmup, 1))
        )


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Linear rise to peak over `warmup`, then peak * (end + (1 - end) * (1 + cos(pi p)) / 2).  arXiv:1608.03983.

    p goes from 0 to 1 over the rest of training.
    """

    peak: float = 1e-3
    warmup: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        require_values(self, 0, math.inf, "peak", "warmup", "end")

    def build(self, steps: int) -> optax.Schedule:
        """Step -> rate."""
        warmup = _count_steps(self.warmup, steps)
        return _warm_up(self.peak, warmup, optax.cosine_decay_schedule(self.peak, max(steps - warmup, 1), self.end))


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay:
    """Linear rise over `warmup`, peak, then linear fall to `end * peak` over `decay`.  MiniCPM, arXiv:2404.06395."""

    peak: float = 1e-3
    warmup: float = 0.05
    decay: float = 0.2
    end: float = 0.0

    def __post_init__(self) -> None:
        require_values(self, 0, math.inf, "peak", "warmup", "decay", "end")

    def build(self, steps: int) -> optax.Schedule:
        """Step -> rate."""
        warmup, decay = _count_steps(self.warmup, steps), max(_count_steps(self.decay, steps), 1)
        fall = optax.linear_schedule(self.peak, self.end * self.peak, decay)
        stable = optax.join_schedules([optax.constant_schedule(self.peak), fall], [max(steps - warmup - decay, 0)])
        return _warm_up(self.peak, warmup, stable)


def _warm_up(peak: float, warmup: int, after: optax.Schedule) -> optax.Schedule:
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup]) if warmup else after
