"""The recommendation: the simplest kind of method that is not shown to be worse than the best."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from train.advise.examples import Examples, measure_estimators
from train.advise.frozen import measure_frozen
from train.advise.grams import ORDERS, find_gram_terms, measure_grams
from train.advise.growth import Growth, fit_growth
from train.advise.halving import Halving, halve
from train.advise.measured import Deal, Kind, Measured, compute_mean, is_shown_worse
from train.advise.models import list_candidates, open_task
from train.advise.problem import Problem
from train.advise.simple import collect, measure_simple
from train.advise.tables import fold_table, list_table_estimators, read_table
from train.contracts import Dataset
from train.data.notes import get_notes
from train.data.tasks.corpus import OpenedCorpus
from train.data.tasks.series import OpenedSeries
from train.errors import InputError

ORDER: tuple[Kind, ...] = ("baseline", "simple", "frozen", "fine-tuned", "from scratch")  # of methods equally good
FEWEST = 10  # examples that a method is fitted to
SHARES = (0.125, 0.25, 0.5)  # of the examples to train on, of learning curves


@dataclasses.dataclass(frozen=True, eq=False)
class Advice:
    """Measured methods of a problem, and what is recommended.

    `trials` are all trials of models, of which `methods` have the last of each.  `growth` are learning curves over
    examples and over steps, `refused` the methods that were not tried, with the reason; `notes` are about the data.
    `everything` is the FLOPs of training all models as long as their configs do.
    """

    problem: Problem
    deal: Deal
    methods: tuple[Measured, ...]
    chosen: Measured
    best: Measured
    trials: tuple[Measured, ...] = ()
    growth: tuple[Growth, ...] = ()
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    everything: float = 0.0

    @property
    def greater(self) -> bool:
        """True if larger scores are better."""
        return self.problem.greater


def advise(problem: Problem, seconds: float, say: Callable[[str], None]) -> Advice:
    """Measures simple methods and models on a problem, and chooses one.

    Models are trained for about so many seconds, at most; none is tried if that is 0.
    """
    if problem.task == "table":
        table = read_table(problem, say)
        folds = fold_table(problem, table)
        estimators = list_table_estimators(problem.greater, table.classes, len(problem.features))
        simple, refused = measure_estimators(problem, folds, estimators, say)
        return add_growth(choose(problem, Deal(len(table.targets)), simple, refused), {"simple": folds}, say)
    problem, experiment, data = open_task(problem)
    say(f"{problem.task}; simple methods first")
    if isinstance(data, OpenedCorpus):
        simple, refused = _measure_grams(problem, data)
        examples: dict[Kind, Examples] = {}
    else:
        held = collect(problem.task, data)
        simple, refused = measure_simple(problem, data, held, say)
        examples = {"simple": held}
        if seconds and problem.task.startswith("text"):
            heads, reasons, features = measure_frozen(problem, experiment, data, held, seconds / 4, say)
            simple, refused = [*simple, *heads], refused | reasons
            seconds -= sum(head.seconds for head in heads)
            examples |= {"frozen": features} if features else {}
    deal = deal_examples(data, len(simple[0].scores))
    halving = halve(problem, list_candidates(problem), seconds, deal, say) if seconds > 0 else Halving()
    last = {trial.name: trial for trial in halving.trials}
    notes = tuple(str(note) for note in get_notes(data))
    found = choose(problem, deal, [*simple, *last.values()], refused | dict(halving.refused), notes)
    found = dataclasses.replace(found, trials=halving.trials, everything=halving.everything)
    return add_growth(found, examples, say, data)


def _measure_grams(problem: Problem, data: OpenedCorpus) -> tuple[list[Measured], dict[str, str]]:
    reasons = {order: problem.limits.refuse(find_gram_terms(order)) for order in ORDERS}
    refused = {f"{order}-grams": reason for order, reason in reasons.items() if reason is not None}
    return list(measure_grams(data, [order for order in ORDERS if reasons[order] is None])), refused


def deal_examples(data: Dataset, count: int) -> Deal:
    """Deals held-out examples out: windows of a series overlap, so that they go by blocks of a horizon."""
    return Deal(count, data.spec.horizon if isinstance(data, OpenedSeries) else 1)


def choose(
    problem: Problem,
    deal: Deal,
    methods: Sequence[Measured],
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
        reasons = "; ".join(f"{name}: {reason}" for name, reason in (refused or {}).items())
        raise InputError(
            f"{problem.path} has too few held-out examples to measure anything, or no method is allowed; give more"
            f" data, or fewer limits{f' ({reasons})' if reasons else ''}."
        )
    best = min(usable, key=lambda method: sign * compute_mean(scores[method.name])[0])
    equal = [method for method in usable if not is_shown_worse(scores[method.name], scores[best.name], problem.greater)]
    chosen = min(equal, key=lambda method: (ORDER.index(method.kind), sign * compute_mean(scores[method.name])[0]))
    return Advice(problem, deal, tuple(methods), chosen, best, (), (), refused or {}, tuple(notes))


def find_best(advice: Advice, methods: Sequence[Measured]) -> Measured | None:
    """The best of some methods by the tuning part; None of none."""
    sign = -1 if advice.greater else 1
    known = [method for method in methods if not math.isnan(_tuning(advice, method))]
    return min(known, key=lambda method: sign * _tuning(advice, method), default=None)


def _tuning(advice: Advice, method: Measured) -> float:
    return compute_mean(advice.deal.pick(method.scores, "tuning"))[0]


def add_growth(
    advice: Advice, examples: Mapping[Kind, Examples], say: Callable[[str], None], data: Dataset | None = None
) -> Advice:
    """Adds the learning curve of the best method that learns, over examples, and that of a model over steps.

    The former is that of the recommended method if it is cheap, or else of the best cheap one.
    """
    cheap = [method for method in advice.methods if method.kind in ("simple", "frozen")]
    learner = advice.chosen if advice.chosen in cheap else find_best(advice, cheap)
    parts: list[Measured] = []
    for share in SHARES if learner is not None else ():
        assert learner is not None
        say(f"{learner.name}, on {share:.0%} of the examples")
        if isinstance(data, OpenedCorpus):
            parts += [gram for gram in measure_grams(data, share=share) if gram.name == learner.name]
        elif learner.estimator is not None and round(share * learner.examples) >= FEWEST:
            parts.append(examples[learner.kind].measure(learner.name, learner.estimator, share))
    found: list[Growth | None] = []
    if learner is not None:
        unit = "tokens" if isinstance(data, OpenedCorpus) else "examples"
        found.append(_fit(advice, unit, [*parts, learner], [part.examples for part in (*parts, learner)]))
    model = advice.chosen if advice.chosen in advice.trials else find_best(advice, advice.trials)
    if model is not None:
        trials = [trial for trial in advice.trials if trial.name == model.name]
        found.append(_fit(advice, "steps", trials, [trial.steps for trial in trials]))
    return dataclasses.replace(advice, growth=tuple(growth for growth in found if growth is not None))


def _fit(advice: Advice, unit: str, parts: Sequence[Measured], sizes: Sequence[int]) -> Growth | None:
    scores = [advice.deal.pool(part.scores) for part in parts]
    return fit_growth(parts[-1].name, unit, sizes, scores, advice.greater)
