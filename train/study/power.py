"""Power of a study: how many seeds the smallest difference of interest needs, told from the first ones.

A difference d of the loss is found at the first seed n at which E(0) reaches 1 / alpha (train.study.verdict).  For
paired differences of N(d, sigma^2) the chance of that within n seeds is simulated.  sigma is not known but from a pilot
of m differences with the sum of squares S around their mean: each simulated study has a sigma of its own, drawn from
S / sigma^2 ~ chi^2 with m - 1 degrees of freedom, so that a small pilot promises less.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from train.errors import Json
from train.study.compare import Result
from train.study.verdict import log_e_values
from train.study.words import record
from train.variants import BASELINE, FIRST, Study

POWER = 0.8
HORIZONS = (12, 50, 200)  # seeds that are simulated, more only if these are too few
MOST = HORIZONS[-1]
DRAWS = 2000
ROUNDING = 1e-9  # of differences; a smaller spread is none


@dataclasses.dataclass(frozen=True)
class Plan:
    """Seeds that find a difference `smallest`, a share of the loss, with a chance of 80 %; None if MOST are too few.

    `spread` is the standard deviation of the pilot's `seeds` paired differences, as a share of the loss.  `found` is
    a difference that `most` seeds find with that chance: `smallest` if they do, otherwise the least, None if none is.
    """

    smallest: float
    spread: float
    seeds: int
    needed: int | None
    most: int
    found: float | None


def plan_seeds(pilot: Sequence[float], study: Study, variants: int) -> Plan | None:
    """Plans the seeds of a variant from a pilot of paired differences, which are shares of the baseline's loss.

    The level is alpha over the number of variants.  None for a pilot of less than 3 seeds or without a spread.
    """
    if len(pilot) < FIRST or not all(map(math.isfinite, pilot)):
        return None
    spread = float(np.std(pilot, ddof=1))
    if spread <= ROUNDING * max(map(abs, pilot)):
        return None
    chances = np.random.default_rng(0)
    spreads = spread * np.sqrt((len(pilot) - 1) / chances.chisquare(len(pilot) - 1, DRAWS))
    noise = chances.normal(size=(DRAWS, MOST))
    level = study.alpha / variants
    most = study.seeds or study.most
    needed = _count_seeds(noise + (study.smallest / spreads)[:, None], level) if study.smallest else None
    is_enough = needed is not None and needed <= most
    detectable = study.smallest if is_enough else _find_difference(noise[:, :most], spreads, level)
    return Plan(study.smallest, spread, len(pilot), needed, most, detectable)


def _count_seeds(differences: np.ndarray, alpha: float) -> int | None:
    """Seeds after which 80 % of the draws are decided, looked for among the first few before all."""
    rank = math.ceil(POWER * DRAWS) - 1
    for count in HORIZONS:
        stops = np.sort(find_stops(differences[:, :count], alpha))
        if stops[rank] <= count:
            return int(stops[rank])
    return None


def find_stops(differences: np.ndarray, alpha: float) -> np.ndarray:
    """Seeds (draws,) after which differences (draws, n) are decided, at least 3; n + 1 if they are not."""
    reached = np.maximum.accumulate(log_e_values(differences), axis=-1) >= -math.log(alpha)
    reached[:, : FIRST - 1] = False
    return np.where(reached.any(-1), reached.argmax(-1) + 1, differences.shape[-1] + 1)


def _find_difference(noise: np.ndarray, spreads: np.ndarray, alpha: float) -> float | None:
    """The difference that is found in all seeds of `noise` with a chance of 80 %, by bisection of its logarithm."""
    count = noise.shape[-1]

    def is_found(log_size: float) -> bool:
        stops = find_stops(noise + (math.exp(log_size) / spreads)[:, None], alpha)
        return float(np.mean(stops <= count)) >= POWER

    middle = math.log(float(np.median(spreads)))
    low, high = middle - 6, middle + 9
    if not is_found(high):
        return None
    for _ in range(14):
        half = (low + high) / 2
        low, high = (low, half) if is_found(half) else (half, high)
    return math.exp(high)


def extend_pilot(result: Result) -> Result:
    """Extends a variant's pilot to all of its seeds."""
    loss = result.loss - sum(result.differences) / max(len(result.differences), 1)  # the baseline's
    return dataclasses.replace(result, pilot=tuple(value / loss for value in result.differences))


def describe_plan(name: str, plan: Plan) -> str:
    """Describes a plan in a sentence."""
    parts: list[str] = []
    if plan.smallest:
        size = f"a difference of {_format_share(plan.smallest)} of the loss would"
        within = f" be found within about {plan.needed} seeds" if plan.needed else f" take more than {MOST} seeds"
        parts.append(size + within)
    if plan.found is None:
        parts.append(f"{plan.most} seeds find none")
    elif plan.needed is None or plan.needed > plan.most or not plan.smallest:
        parts.append(f"{plan.most} seeds find one of {_format_share(plan.found)}")
    return f"{name}: {', '.join(parts)} (chance {POWER:.0%}, by the spread of {plan.seeds} seeds)"


def describe_plans(study: Study, results: Sequence[Result], only: str | None = None) -> list[str]:
    """Describes the plans of the variants that have a pilot, or of one variant alone."""
    variants = [result for result in results if result.entry.name != BASELINE]
    chosen = [result for result in variants if only in (None, result.entry.name)]
    plans = ((result.entry.name, plan_seeds(result.pilot, study, len(variants))) for result in chosen)
    return [describe_plan(name, plan) for name, plan in plans if plan is not None]


def record_results(study: Study, results: Sequence[Result]) -> list[Json]:
    """Results as JSON values; `plans` of a variant are by the spread of its pilot, and of all its seeds."""
    variants = sum(result.entry.name != BASELINE for result in results)

    def record_plans(result: Result) -> dict[str, Json]:
        made = {"pilot": plan_seeds(result.pilot, study, variants)}
        made["all"] = plan_seeds(extend_pilot(result).pilot, study, variants)
        return {name: dataclasses.asdict(plan) if plan else None for name, plan in made.items()}

    return [
        record(result) | ({} if result.entry.name == BASELINE else {"plans": record_plans(result)})
        for result in results
    ]


def _format_share(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 1 else f"{100 * share:.0f}%"
