"""Successive halving: all models for a short time, the better half for longer, until one is left.

Jamieson and Talwalkar, arXiv:1502.07943.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from train.advise.measured import Deal, Measured, compute_mean
from train.advise.models import FEWEST, Candidate, prepare_candidate, try_candidate
from train.advise.problem import Problem
from train.errors import InputError
from train.study.pilot import time_steps


def halve(
    problem: Problem, candidates: Sequence[Candidate], seconds: float, deal: Deal, say: Callable[[str], None]
) -> tuple[list[Measured], dict[str, str]]:
    """Tries candidates for about so many seconds of training; their trials, and why some were not tried.

    A round has an equal share of the time, divided among its candidates.  A trial has its whole schedule; none has
    more steps than the config, or fewer than 50: candidates for which the time does not last are not tried, the last
    of the list first.
    """
    trials: list[Measured] = []
    refused: dict[str, str] = {}
    each: dict[str, tuple[float, int]] = {}  # seconds of a step, and the most steps
    times: dict[tuple[int, str], float] = {}  # of models whose steps have the same FLOPs
    for candidate in candidates:
        try:
            prepared = prepare_candidate(problem, candidate)
        except InputError as error:
            refused[candidate.name] = str(error)
            continue
        alike = prepared.work, candidate.kind
        if alike not in times:
            say(f"{candidate.name}: the time of a step")
            times[alike] = float(np.median(time_steps([prepared], 1)))
        each[candidate.name] = times[alike], prepared.steps
    left = _select_affordable([candidate for candidate in candidates if candidate.name in each], each, seconds)
    kept = {candidate.name for candidate in left}
    for name in each:
        if name not in kept:
            refused[name] = f"a step takes {each[name][0]:.3g} s, and --hours leave no time for {FEWEST} of them"
    rounds = count_rounds(len(left))
    done: dict[str, Measured] = {}
    while left:
        share = seconds / rounds / len(left)
        for candidate in left:
            spent, most = each[candidate.name]
            steps = max(min(FEWEST, most), min(most, int(share / spent)))
            before = done.get(candidate.name)
            if before is not None and before.steps >= 0.7 * steps:
                continue  # it has had nearly as many
            say(f"{candidate.name}: {steps} steps, about {steps * spent:.0f} s")
            began = time.perf_counter()
            trial, step = try_candidate(problem, candidate, steps)
            trials.append(trial)
            done[candidate.name], each[candidate.name] = trial, (step, most)
            mean, half = compute_mean(deal.pick(trial.scores, "tuning"))
            say(f"    {problem.metric} {mean:.4g} ± {half:.2g}, {time.perf_counter() - began:.0f} s in all")
        if len(left) == 1:
            break
        sign = -1 if problem.greater else 1
        left.sort(key=lambda rival: sign * compute_mean(deal.pick(done[rival.name].scores, "tuning"))[0])
        left = left[: -(-len(left) // 2)]
    return trials, refused


def count_rounds(candidates: int) -> int:
    """Counts the rounds until one candidate is left."""
    return math.ceil(math.log2(max(1, candidates))) + 1


def _select_affordable(
    candidates: Sequence[Candidate], each: Mapping[str, tuple[float, int]], seconds: float
) -> list[Candidate]:
    """Selects the first candidates, as many as the first round has time for."""
    left = list(candidates)
    while left:
        share = seconds / count_rounds(len(left)) / len(left)
        slow = [rival for rival in left if share < each[rival.name][0] * min(FEWEST, each[rival.name][1])]
        if not slow:
            return left
        left.remove(slow[-1])
    return left
