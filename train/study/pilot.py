"""Measured time of training steps: compiled steps of several structures, in turn in one process."""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np

from train.engine.prepared import Prepared

ROUNDS = 9
SECONDS = 0.2  # that a structure's share of a round takes at least, but for slower steps


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The ratio of two step times, the median over rounds, and half the width of its 95 % interval."""

    value: float
    spread: float


def time_steps(prepared: Sequence[Prepared], rounds: int = ROUNDS) -> list[list[float]]:
    """Seconds of a training step, of each structure in each round.

    The structures take turns within a round, so what slows the machine for a while slows them alike.
    """
    running = [(trial, trial.begin().state, trial.parallel.put(trial.batches[0])) for trial in prepared]
    states = [trial.step(state, batch)[0] for trial, state, batch in running]  # compiles
    jax.block_until_ready(states)
    steps = [1] * len(prepared)
    seconds: list[list[float]] = [[] for _ in prepared]
    for turn in range(rounds + 1):  # the first one finds the number of steps
        for index, (trial, _, batch) in enumerate(running):
            began = time.perf_counter()
            for _ in range(steps[index]):
                states[index], _ = trial.step(states[index], batch)
            jax.block_until_ready(states[index])
            spent = (time.perf_counter() - began) / steps[index]
            if turn == 0:
                steps[index] = max(1, round(SECONDS / max(spent, 1e-6)))
            else:
                seconds[index].append(spent)
    return seconds


def compare_times(own: Sequence[float], other: Sequence[float]) -> Ratio:
    """The ratio of two structures' times in the same rounds: the median, and half of a 95 % interval of it.

    The interval is 1.57 times the range between quartiles over the root of the number of rounds to each side (McGill,
    Tukey and Larsen, The American Statistician 32(1), 1978).
    """
    ratios = np.asarray(own) / np.asarray(other)
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return Ratio(float(middle), float(1.57 * (high - low) / np.sqrt(len(ratios))))
