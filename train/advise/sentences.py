"""Sentences about what is recommended, why, and what would change it, and the same as JSON values."""

import math
from collections.abc import Iterator

from train.advise.advice import Advice, find_best
from train.advise.growth import Growth
from train.advise.measured import Measured, compute_mean, is_shown_worse
from train.advise.terms import Limits
from train.errors import Json

LARGER = 1.5  # times the parameters


def measure(advice: Advice, method: Measured) -> tuple[float, float]:
    """The metric of a method on the part on which nothing was chosen, and half of its interval."""
    return compute_mean(advice.deal.pick(method.scores, "verdict"))


def format_value(advice: Advice, method: Measured) -> str:
    """Formats the metric of a method with its interval."""
    mean, half = measure(advice, method)
    return f"{mean:.3f} ± {half:.3f}" if advice.greater else f"{mean:.4g} ± {half:.2g}"


def describe_advice(advice: Advice) -> list[str]:
    """Describes what is recommended, why, and what would change it, in sentences."""
    return list(_describe(advice))


def _describe(advice: Advice) -> Iterator[str]:
    chosen, best, metric = advice.chosen, advice.best, advice.problem.metric.replace("_", " ")
    count = len(advice.deal.pick(chosen.scores, "verdict"))
    unit = "blocks of a horizon" if advice.deal.block > 1 else "examples"
    where = f"on {count} held-out {unit} on which nothing was chosen"
    yield f"Recommended: {chosen.name} ({chosen.kind}), {metric} {format_value(advice, chosen)} {where}."
    if chosen.kind == "baseline":
        yield "Nothing that was tried is shown to be better than this baseline."
    if chosen is not best:
        yield f"{best.name} was best on the others, and is not shown to be better: {format_value(advice, best)} here."
    cheap = [method for method in advice.methods if method.kind in ("baseline", "simple")]
    if chosen.kind == "simple" and len(cheap) < len(advice.methods):
        yield "No model that was tried is shown to be better than this simple method."
    elif chosen not in cheap and (simple := find_best(advice, cheap)) is not None:
        yield f"The best simple method, {simple.name}, has {format_value(advice, simple)}."
    if advice.problem.limits != Limits():
        yield f"It keeps {chosen.terms.kept}; its answers are explained by {chosen.terms.explained}."
    yield from (describe_growth(growth, metric) for growth in advice.growth)
    if (larger := describe_larger(advice)) is not None:
        yield larger


def describe_growth(growth: Growth, metric: str) -> str:
    """Describes a learning curve, and if twice the size pays."""
    curve = ", ".join(f"{mean:.4g} with {size:,}" for size, mean in zip(growth.sizes, growth.means, strict=True))
    low, high = growth.interval
    said = f"{growth.unit} pay" if growth.pays else f"it is not shown that more {growth.unit} pay"
    return (
        f"{growth.name} has {metric} {curve} {growth.unit}; with {2 * growth.sizes[-1]:,}, {growth.twice:.4g} is"
        f" expected ({low:.4g} to {high:.4g}): {f'more {said}' if growth.pays else said}."
    )


def describe_larger(advice: Advice) -> str | None:
    """Describes if a larger model pays, by the first trials, of equal cost; None if no model was tried."""
    first: dict[str, Measured] = {}
    for trial in advice.trials:
        first.setdefault(trial.name, trial)
    best = find_best(advice, list(first.values()))
    if best is None:
        return None
    alike = sorted((trial for trial in first.values() if trial.kind == best.kind), key=lambda trial: trial.parameters)
    small, large = alike[0], alike[-1]
    if large.parameters < LARGER * small.parameters:
        return f"Models of one size were tried ({small.parameters:,} parameters); of larger ones nothing is known."
    pays = is_shown_worse(advice.deal.pool(small.scores), advice.deal.pool(large.scores), advice.greater)
    values = " and ".join(f"{compute_mean(advice.deal.pool(trial.scores))[0]:.4g}" for trial in (large, small))
    return (
        f"At equal cost the larger {large.name} ({large.parameters:,} parameters) is {'' if pays else 'not '}shown to"
        f" be better than {small.name} ({small.parameters:,}): {values}."
    )


def record_advice(advice: Advice) -> dict[str, Json]:
    """The advice as JSON values."""

    def record(method: Measured) -> dict[str, Json]:
        (tuning, wide), (value, half) = compute_mean(advice.deal.pick(method.scores, "tuning")), measure(advice, method)
        return {
            "method": method.name,
            "kind": method.kind,
            "value": _finite(value),
            "interval": _finite(half),
            "tuning": _finite(tuning),
            "tuning_interval": _finite(wide),
            "seconds": method.seconds,
            "seconds_an_answer": _finite(method.answering),
            "bytes": method.memory,
            "steps": method.steps,
            "parameters": method.parameters,
            "flops": method.work,
            "keeps": method.terms.kept,
            "explained_by": method.terms.explained,
            "command": method.command,
        }

    def record_growth(growth: Growth) -> dict[str, Json]:
        return {
            "method": growth.name,
            "unit": growth.unit,
            "sizes": list(growth.sizes),
            "values": list(growth.means),
            "at_twice": growth.twice,
            "interval": list(growth.interval),
            "pays": growth.pays,
        }

    return {
        "task": advice.problem.task,
        "metric": advice.problem.metric,
        "recommended": advice.chosen.name,
        "kind": advice.chosen.kind,
        "best": advice.best.name,
        "sentences": list(describe_advice(advice)),
        "seen": list(advice.problem.seen),
        "methods": [record(method) for method in advice.methods],
        "trials": [record(trial) for trial in advice.trials],
        "growth": [record_growth(growth) for growth in advice.growth],
        "flops_of_trials": sum(trial.work for trial in advice.trials),
        "flops_of_everything": advice.everything,
        "refused": dict(advice.refused),
        "data": list(advice.notes),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
