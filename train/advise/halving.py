"""Successive halving: all models for a short time, the better half for longer, until one is left.

Jamieson and Talwalkar, arXiv:1502.07943.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from train.advise.measured import Deal, Measured, compute_mean
from train.advise.models import FEWEST, Candidate, find_model_terms, prepare_candidate, try_candidate
from train.advise.problem import Problem
from train.errors import InputError
from train.study.pilot import time_steps

LONG = 600  # steps of a whole training, on data of which the config's epochs have fewer
MOST = 0.25  # of the FLOPs of training all candidates as long as their configs do


@dataclasses.dataclass(frozen=True)
class Halving:
    """Trials in their order, why some candidates were not tried, and the FLOPs of training all as their configs do."""

    trials: tuple[Measured, ...] = ()
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    everything: float = 0.0


@dataclasses.dataclass(frozen=True)
class Pace:
    """Seconds and FLOPs of a step, and the most steps: those of the config, or LONG on little data."""

    seconds: float
    work: float
    most: int

    def count_steps(self, seconds: float, work: float) -> int:
        """Counts the steps that so many seconds and FLOPs allow."""
        return int(min(self.most, seconds / self.seconds, work / self.work))


def halve(
    problem: Problem, candidates: Sequence[Candidate], seconds: float, deal: Deal, say: Callable[[str], None]
) -> Halving:
    """Tries candidates for about so many seconds of training, and at most a quarter of the FLOPs of training them all.

    A round has an equal share of both, divided among its candidates.  A trial has its whole schedule; none has more
    steps than the config (or 600, on little data) or fewer than 32: candidates for which that does not last are not
    tried, the last of the list first.
    """
    trials: list[Measured] = []
    paces, refused = _measure_paces(problem, candidates, say)
    everything = sum(pace.work * pace.most for pace in paces.values())
    work = MOST * everything
    left = _select_affordable([candidate for candidate in candidates if candidate.name in paces], paces, seconds, work)
    kept = {candidate.name for candidate in left}
    for name, pace in paces.items():
        if name not in kept:
            refused[name] = f"a step takes {pace.seconds:.3g} s, and there is no time for {FEWEST} of them"
    rounds = count_rounds(len(left))
    done: dict[str, Measured] = {}
    while left:
        parts = rounds * len(left)
        for candidate in left:
            pace = paces[candidate.name]
            steps = max(FEWEST, pace.count_steps(seconds / parts, work / parts))
            before = done.get(candidate.name)
            if before is not None and before.steps >= 0.7 * steps:
                continue  # it has had nearly as many
            say(f"{candidate.name}: {steps} steps, about {steps * pace.seconds:.0f} s")
            began = time.perf_counter()
            trial, step = try_candidate(problem, candidate, steps)
            trials.append(trial)
            done[candidate.name] = trial
            paces[candidate.name] = dataclasses.replace(pace, seconds=step)
            mean, half = compute_mean(deal.pick(trial.scores, "tuning"))
            say(f"    {problem.metric} {mean:.4g} ± {half:.2g}, {time.perf_counter() - began:.0f} s in all")
        if len(left) == 1:
            break
        sign = -1 if problem.greater else 1
        left.sort(key=lambda rival: sign * compute_mean(deal.pick(done[rival.name].scores, "tuning"))[0])
        left = left[: -(-len(left) // 2)]
    return Halving(tuple(trials), refused, everything)


def _measure_paces(
    problem: Problem, candidates: Sequence[Candidate], say: Callable[[str], None]
) -> tuple[dict[str, Pace], dict[str, str]]:
    """Measures the paces of candidates by name, and finds the reasons why others cannot be tried."""
    paces: dict[str, Pace] = {}
    refused: dict[str, str] = {}
    times: dict[tuple[int, str], float] = {}  # of models whose steps have the same FLOPs
    for candidate in candidates:
        try:
            prepared = prepare_candidate(problem, candidate)
        except InputError as error:
            refused[candidate.name] = str(error)
            continue
        if (reason := problem.limits.refuse(find_model_terms(prepared))) is not None:
            refused[candidate.name] = reason
            continue
        alike = prepared.work, candidate.kind
        if alike not in times:
            say(f"{candidate.name}: the time of a step")
            times[alike] = float(np.median(time_steps([prepared], 1)))
        paces[candidate.name] = Pace(times[alike], float(prepared.work), max(prepared.steps, LONG))
    return paces, refused


def count_rounds(candidates: int) -> int:
    """Counts the rounds until one candidate is left."""
    return math.ceil(math.log2(max(1, candidates))) + 1


def _select_affordable(
    candidates: Sequence[Candidate], paces: Mapping[str, Pace], seconds: float, work: float
) -> list[Candidate]:
    """Selects the first candidates, as many as the first round lasts for."""
    left = list(candidates)
    while left:
        parts = count_rounds(len(left)) * len(left)
        slow = [rival for rival in left if paces[rival.name].count_steps(seconds / parts, work / parts) < FEWEST]
        if not slow:
            return left
        left.remove(slow[-1])
    return left
