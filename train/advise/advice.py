"""The recommendation: the simplest kind of method that is not shown to be worse than the best."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from train.advise.grams import measure_grams
from train.advise.halving import halve
from train.advise.measured import Deal, Measured, compute_mean, is_shown_worse
from train.advise.models import list_candidates, open_data, prepare_candidate
from train.advise.problem import Problem
from train.advise.simple import measure_simple
from train.advise.tables import measure_table
from train.contracts import Dataset
from train.data.notes import get_notes
from train.data.tasks.corpus import OpenedCorpus
from train.data.tasks.series import OpenedSeries
from train.errors import InputError, Json

ORDER = ("simple", "frozen", "fine-tuned", "from scratch")  # of methods that are equally good
SHARES = (0.25, 0.5, 1.0)  # of the examples that simple methods learn from


@dataclasses.dataclass(frozen=True, eq=False)
class Advice:
    """Measured methods of a problem, the last trial of each, and what is recommended.

    `refused` are models that could not be tried, with the reason; `notes` are about the data.
    """

    problem: Problem
    deal: Deal
    methods: tuple[Measured, ...]
    chosen: Measured
    best: Measured
    smaller: tuple[Measured, ...] = ()  # simple methods on a part of the examples
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def greater(self) -> bool:
        """True if larger scores are better."""
        return self.problem.greater


def advise(problem: Problem, seconds: float, say: Callable[[str], None]) -> Advice:
    """Measures simple methods and models on a problem, and chooses one.

    Models are trained for about so many seconds; none is tried if that is 0.
    """
    if problem.task == "table":
        simple = list(measure_table(problem, say))
        return choose(problem, Deal(len(simple[0].scores)), simple)
    candidates = list_candidates(problem)
    data = open_data(prepare_candidate(problem, candidates[0]).experiment.data)
    say(f"{problem.task}; simple methods first")
    measured = list(measure_methods(problem, data, say))
    if not measured:
        raise InputError(f"{problem.path} has no example that a simple method can be measured on.")
    deal = deal_examples(data, len(measured[0].scores))
    trials, refused = halve(problem, candidates, seconds, deal, say) if seconds else ([], {})
    whole = [method for method in measured if method.share == 1]
    smaller = [method for method in measured if method.share < 1]
    last = {trial.name: trial for trial in trials}
    notes = tuple(str(note) for note in get_notes(data))
    return choose(problem, deal, [*whole, *last.values()], smaller, refused, notes)


def measure_methods(problem: Problem, data: Dataset, say: Callable[[str], None]) -> Iterator[Measured]:
    """Measures the simple methods of a problem, those of scikit-learn also on a part of the examples."""
    if isinstance(data, OpenedCorpus):
        yield from measure_grams(data)
        return
    yield from measure_simple(problem.task, data, say, SHARES)


def deal_examples(data: Dataset, count: int) -> Deal:
    """Deals held-out examples out: windows of a series overlap, so that they go by blocks of a horizon."""
    return Deal(count, data.spec.horizon if isinstance(data, OpenedSeries) else 1)


def choose(
    problem: Problem,
    deal: Deal,
    methods: Sequence[Measured],
    smaller: Sequence[Measured] = (),
    refused: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Advice:
    """Chooses by the tuning part: of the methods not shown worse than the best those of the simplest kind, of which
    the best.
    """
    sign = -1 if problem.greater else 1
    scores = {method.name: deal.pick(method.scores, "tuning") for method in methods}
    usable = [method for method in methods if math.isfinite(compute_mean(scores[method.name])[0])]
    if not usable:
        raise InputError(f"{problem.path} has too few held-out examples to measure anything; give more data.")
    best = min(usable, key=lambda method: sign * compute_mean(scores[method.name])[0])
    equal = [method for method in usable if not is_shown_worse(scores[method.name], scores[best.name], problem.greater)]
    chosen = min(equal, key=lambda method: (ORDER.index(method.kind), sign * compute_mean(scores[method.name])[0]))
    return Advice(problem, deal, tuple(methods), chosen, best, tuple(smaller), refused or {}, tuple(notes))


def measure(advice: Advice, method: Measured) -> tuple[float, float]:
    """The metric of a method on the part on which nothing was chosen, and half of its interval."""
    return compute_mean(advice.deal.pick(method.scores, "verdict"))


def format_value(advice: Advice, method: Measured) -> str:
    """Formats the metric of a method with its interval."""
    mean, half = measure(advice, method)
    return f"{mean:.3f} ± {half:.3f}" if advice.greater else f"{mean:.4g} ± {half:.2g}"


def describe_advice(advice: Advice) -> list[str]:
    """Describes what is recommended, why, and what would change it, in sentences."""
    chosen, best, metric = advice.chosen, advice.best, advice.problem.metric.replace("_", " ")
    count = len(advice.deal.pick(chosen.scores, "verdict"))
    unit = "blocks of a horizon" if advice.deal.block > 1 else "examples"
    where = f"on {count} held-out {unit} on which nothing was chosen"
    said = [f"Recommended: {chosen.name} ({chosen.kind}), {metric} {format_value(advice, chosen)} {where}."]
    if chosen is not best:
        said.append(
            f"{best.name} was best on the others, and is not shown to be better: {format_value(advice, best)} here."
        )
    models = [method for method in advice.methods if method.kind != "simple"]
    if chosen.kind == "simple" and models:
        said.append("No model that was tried is shown to be better than this simple method.")
    elif chosen.kind != "simple":
        simple = _find_best(advice, [method for method in advice.methods if method.kind == "simple"])
        said.append(f"The best simple method, {simple.name}, has {format_value(advice, simple)}.")
    if (growth := _describe_growth(advice)) is not None:
        said.append(growth)
    return said


def _find_best(advice: Advice, methods: Sequence[Measured]) -> Measured:
    sign = -1 if advice.greater else 1
    return min(methods, key=lambda method: sign * compute_mean(advice.deal.pick(method.scores, "tuning"))[0])


def _describe_growth(advice: Advice) -> str | None:
    """Describes if more data would pay, by the best simple method on half of the examples and on all."""
    halves = {method.name: method for method in advice.smaller if method.share == 0.5}
    known = [method for method in advice.methods if method.name in halves]
    if not known:
        return None
    whole = _find_best(advice, known)
    half = halves[whole.name]
    pays = is_shown_worse(half.scores, whole.scores, advice.greater)
    change = f"{whole.name} goes from {compute_mean(half.scores)[0]:.4g} to {compute_mean(whole.scores)[0]:.4g}"
    said = "more examples pay" if pays else "it is not shown that more examples pay"
    return f"With twice the examples to train on, {change}: {said}."


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
            "steps": method.steps,
            "parameters": method.parameters,
            "share": method.share,
            "command": method.command,
        }

    return {
        "task": advice.problem.task,
        "metric": advice.problem.metric,
        "recommended": advice.chosen.name,
        "best": advice.best.name,
        "sentences": list(describe_advice(advice)),
        "seen": list(advice.problem.seen),
        "methods": [record(method) for method in (*advice.methods, *advice.smaller)],
        "refused": dict(advice.refused),
        "data": list(advice.notes),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
