"""Ladders: a study at several sizes, with tokens in proportion, and how losses go on with compute.

A size s has s times the width and s times the repeats of each stack, and as many times the tokens as it has parameters,
times each of the multiples of tokens.  In muP with the size 1 as its base, the settings of size 1 serve all others.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from models.depth.stack import Stack
from models.parametrization import width_of
from models.structure import fields
from train.config import load_config
from train.cost.traced import count_parameters
from train.engine.prepared import prepare
from train.engine.requirements import settle
from train.errors import InputError, Json
from train.study.compare import Comparison, Result, enter
from train.study.scaling import Scaling, find_crossing, find_optimum, find_reach, fit_scaling
from train.study.trial import Make
from train.variants import BASELINE, Study

MULTIPLE = 8  # widths are multiples of an eighth of that of size 1, or of this if it is larger
Parametrization = Literal["standard", "mup"]


@dataclasses.dataclass(frozen=True)
class Rung:
    """A size of the ladder: its study, and its place on it.

    `multiple` is that of the tokens that are in proportion to the parameters, `tokens` are those of a run.
    """

    size: float
    multiple: float
    width: int
    steps: int
    tokens: int
    study: Study

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"size_{self.size:g}" + (f"_tokens_{self.multiple:g}" if self.multiple != 1 else "")


@dataclasses.dataclass(frozen=True)
class Point:
    """A structure at a size: parameters and training FLOPs of a run, and its result."""

    rung: Rung
    name: str
    parameters: int
    flops: float
    result: Result


def plan_ladder(
    study: Study, sizes: Sequence[float], tokens: Sequence[float] = (1.0,), parametrization: Parametrization = "mup"
) -> list[Rung]:
    """Plans the sizes of a study, the smallest first.

    Raises InputError for a model that has no width or no stack, and if two sizes are the same structure.
    """
    experiment, _ = load_config(study.config, list(study.overrides), study.files)
    experiment, _ = settle(experiment, experiment.data.open())
    model = experiment.model
    stacks = {field.name: stack for field in fields(model) if isinstance(stack := getattr(model, field.name), Stack)}
    if not stacks:
        raise InputError(f"{type(model).__name__} has no stack whose repeats could follow a size; give another model.")
    try:
        width = width_of(model)
    except ValueError as error:
        raise InputError(str(error)) from None
    parameters, base_steps, batch = _count(study)
    depth = max(stack.depth for stack in stacks.values())
    fixed: tuple[str, ...] = ()
    if parametrization == "mup":
        fixed = ("model.parametrization=mup", f"model.base_width={width}", f"model.base_depth={depth}")
    if experiment.epochs is not None:
        fixed = (*fixed, "epochs=none")
    rungs: list[Rung] = []
    shapes: dict[tuple[object, ...], float] = {}
    step = max(MULTIPLE, width // 8)
    for size in sorted(sizes):
        wide = max(step, round(size * width / step) * step)
        repeats = {name: max(1, round(size * stack.repeats)) for name, stack in stacks.items()}
        shape = (wide, *repeats.values())
        if shape in shapes:
            raise InputError(
                f"The sizes {shapes[shape]:g} and {size:g} are the same structure of width {wide}; give sizes further"
                " apart."
            )
        shapes[shape] = size
        chosen = [f"model.embed.width={wide}", *(f"model.{name}.repeats={count}" for name, count in repeats.items())]
        chosen += [
            f"model.{field.name}.width={wide}"
            for field in fields(model)
            if field.name == "source_embed" and getattr(model, field.name) is not None
        ]
        sized = dataclasses.replace(study, overrides=(*study.overrides, *fixed, *chosen))
        share = _count(sized)[0] / parameters
        for multiple in sorted(tokens):
            steps = max(1, round(base_steps * share * multiple))
            rung = dataclasses.replace(sized, overrides=(*sized.overrides, f"steps={steps}"))
            rungs.append(Rung(size, multiple, wide, steps, steps * batch, rung))
    return rungs


def _count(study: Study) -> tuple[int, int, int]:
    """Counts a study's baseline: its parameters, its steps, and tokens of a batch, or examples if it has none."""
    experiment, _ = load_config(study.config, list(study.overrides), study.files)
    data = experiment.data.open()
    prepared = prepare(settle(experiment, data)[0], data)
    first = prepared.batches[0]
    tokens = first["tokens"].size if "tokens" in first else len(next(iter(first.values())))
    return count_parameters(prepared.shapes), prepared.steps, int(tokens)


def climb(
    rungs: Sequence[Rung],
    folder: Path,
    make: Make,
    look: Callable[[Rung, list[Result], float], None] = lambda *_: None,
) -> list[Point]:
    """Carries out the study of each rung in a folder of its own; what a ledger holds is not done again.

    `look` gets the results at a size, and the share of the FLOPs of all trials that is done.
    """
    entered = [enter(rung.study, alone=True) for rung in rungs]  # before anything is trained
    trials = {
        (rung.name, entry.name): float(entry.cost.flops) * rung.steps
        for rung, entries in zip(rungs, entered, strict=True)
        for entry in entries
        if entry.out is None
    }
    whole = sum(trials.values()) * (rungs[0].study.seeds or 1)
    points: list[Point] = []
    before = 0.0
    for rung, entries in zip(rungs, entered, strict=True):
        target = folder / rung.name
        target.mkdir(parents=True, exist_ok=True)

        def count(results: Sequence[Result], rung: Rung = rung) -> float:
            return sum(trials.get((rung.name, one.entry.name), 0.0) * len(one.losses) for one in results)

        def tell(results: list[Result], *_: int, rung: Rung = rung, before: float = before) -> None:
            look(rung, results, (before + count(results)) / whole)

        results = Comparison(rung.study, target, entries, alone=True).run(make, tell)
        before += count(results)
        points += [
            Point(
                rung,
                result.entry.name,
                result.entry.cost.parameters,
                float(result.entry.cost.flops) * rung.steps,
                result,
            )
            for result in results
        ]
    return points


@dataclasses.dataclass(frozen=True)
class Trend:
    """The law of a structure's loss over compute, and how far it may be extrapolated.

    `crossing` is the compute at which it crosses the baseline's, with its 95 % interval and the share of draws that
    cross; None if the laws do not cross within reach.  `sizes` is the law of parameters and tokens, if both vary;
    `per_token` are the training FLOPs for a parameter and a token, the median of the runs.
    """

    name: str
    law: Scaling
    reach: float
    crossing: tuple[float, float, float, float] | None = None
    sizes: Scaling | None = None
    per_token: float = 6.0


class Run(NamedTuple):
    """A seed of a structure at a size: training FLOPs, parameters, tokens, and the held-out loss."""

    flops: float
    parameters: int
    tokens: int
    loss: float


def collect_runs(points: Sequence[Point]) -> dict[str, list[Run]]:
    """Collects the runs of each structure that was compared, those that diverged left out."""
    runs: dict[str, list[Run]] = {point.name: [] for point in points}
    for point in points:
        if point.result.entry.out is None:
            finite = filter(math.isfinite, point.result.losses)
            runs[point.name] += [Run(point.flops, point.parameters, point.rung.tokens, loss) for loss in finite]
    return runs


def find_trends(runs: Mapping[str, Sequence[Run]]) -> list[Trend]:
    """Fits the laws of each structure that has a loss at three sizes or more, the baseline's first."""
    trends: dict[str, Trend] = {}
    for name, own in runs.items():
        if len({run.flops for run in own}) < 3:
            continue
        losses = [run.loss for run in own]
        law = fit_scaling([[run.flops] for run in own], losses)
        ratios = {round(run.tokens / run.parameters, 6) for run in own}
        both = None
        if len(ratios) > 1 and len({(run.parameters, run.tokens) for run in own}) >= 5:
            both = fit_scaling([[run.parameters, run.tokens] for run in own], losses)
        baseline = trends.get(BASELINE)
        crossing = find_crossing(law, baseline.law) if baseline is not None else None
        per_token = statistics.median(run.flops / run.parameters / run.tokens for run in own)
        trends[name] = Trend(name, law, find_reach(law), crossing, both, per_token)
    return list(trends.values())


def describe_trend(trend: Trend) -> str:
    """Describes a trend in a sentence."""
    (low, high), law = trend.law.find_intervals()[2], trend.law
    text = (
        f"{trend.name}: loss = {law.floor:.3f} + {law.factors[0]:.3g} C^-{law.exponents[0]:.3f}"
        f" ({low:.3f} to {high:.3f}), C in training FLOPs; it may be extrapolated to {trend.reach:.2g}"
    )
    if trend.sizes is not None:
        flops = law.highest[0]
        size, tokens = find_optimum(trend.sizes, flops, trend.per_token)
        text += f"; with {flops:.2g} FLOPs best at {size:.3g} parameters and {tokens:.3g} tokens"
    if trend.name == BASELINE:
        return text
    if trend.crossing is None:
        return f"{text}; it does not cross the baseline within reach"
    compute, low, high, share = trend.crossing
    return f"{text}; it crosses the baseline at {compute:.2g} ({low:.2g} to {high:.2g}, in {share:.0%} of draws)"


def record_ladder(points: Sequence[Point], trends: Sequence[Trend]) -> dict[str, Json]:
    """Records a ladder as JSON values."""
    return {
        "points": [
            {
                "variant": point.name,
                "size": point.rung.size,
                "tokens_multiple": point.rung.multiple,
                "width": point.rung.width,
                "steps": point.rung.steps,
                "parameters": point.parameters,
                "tokens": point.rung.tokens,
                "flops": point.flops,
                "losses": list(point.result.losses),
                "verdict": point.result.verdict.word if point.result.verdict else None,
            }
            for point in points
        ],
        "trends": [
            {
                "variant": trend.name,
                "floor": trend.law.floor,
                "factor": trend.law.factors[0],
                "exponent": trend.law.exponents[0],
                "intervals": [list(ends) for ends in trend.law.find_intervals()],
                "reach": trend.reach,
                "crossing": list(trend.crossing) if trend.crossing else None,
                "sizes": list(map(float, trend.sizes.values)) if trend.sizes else None,
                "sentence": describe_trend(trend),
            }
            for trend in trends
        ],
    }
