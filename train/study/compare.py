"""Comparisons: variants against a baseline at an equal budget, on paired seeds, until a verdict is reached."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from models.parametrization import width_of
from train.config import load_config
from train.cost.value import Cost
from train.data.notes import get_notes
from train.engine.folder import collect_versions
from train.engine.prepared import Prepared, prepare
from train.engine.requirements import settle
from train.errors import InputError
from train.study.costs import load_cost, read_cost, read_whole_cost
from train.study.curves import average_curves, find_share_of_steps
from train.study.leaks import find_leak
from train.study.match import UnmatchedError, match, match_time
from train.study.sources import find_sources, record_study
from train.study.trial import Make, Outcome, Part, Unit
from train.study.trials import Trials
from train.study.tuning import Tuned
from train.study.verdict import Verdict, judge
from train.variants import BASELINE, FIRST, Study


@runtime_checkable
class Wide(Protocol):
    """A maker of trials that makes several seeds side by side."""

    def __call__(self, units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome | str]]: ...

    def count_seeds(self, structures: int) -> int: ...


def count_places(make: Make) -> int:
    """Counts the trials of one structure that a maker makes side by side."""
    return make.count_seeds(1) if isinstance(make, Wide) else 1


TUNING_SEED = 1_000_000  # the first of the seeds on which settings are chosen


@dataclasses.dataclass(frozen=True)
class Entry:
    """The baseline or a variant as it takes part: its overrides, its cost, and why it does not if it is out."""

    name: str
    overrides: tuple[str, ...]
    moved: tuple[str, ...] = ()  # overrides that the match added
    cost: Cost = Cost(0, 0)
    out: str | None = None
    tokens: int = 0  # of a step; 0 if the data has none


@dataclasses.dataclass(frozen=True)
class Result:
    """The verdict on a variant's losses, and the ratios of its costs and times to the baseline's.

    `share` is the mean difference as a share of the baseline's mean loss, with the confidence sequence.  `compute` is
    the share of its own steps after which the better one of the two has the last loss of the other, on their mean
    curves; None if the curves do not say.  `losses` are by seed, `differences` those of seeds that both have.
    `curves` are by seed, `step_seconds` the median time of a step, NaN unless all trials are of one machine, `memory`
    the median bytes of a compiled step, None if a compiler did not tell.  `pilot`
    are differences as shares of the baseline's loss, from which seeds are planned: those of the tuning if it has three
    seeds or more, otherwise those of the first three.  `tuned` is the setting that was chosen, if there is a grid.
    """

    entry: Entry
    verdict: Verdict | None
    loss: float = math.nan
    share: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    parameters: float = math.nan
    flops: float = math.nan
    seconds: float = math.nan
    compute: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    losses: tuple[float, ...] = ()
    differences: tuple[float, ...] = ()
    accuracies: tuple[float, ...] = ()
    curves: tuple[tuple[tuple[int, float], ...], ...] = ()
    step_seconds: float = math.nan
    memory: float | None = None
    pilot: tuple[float, ...] = ()
    tuned: Tuned | None = None


def enter(
    study: Study,
    say: Callable[[str], None] = lambda _: None,
    target: Cost | None = None,
    alone: bool = False,
) -> list[Entry]:
    """Checks the baseline and every variant before anything is trained: laws, and the match of budgets.

    Budgets are matched to `target`, by default the baseline's.  Raises InputError if there is nothing to compare and
    the baseline is not to be measured `alone`, or if a structure cannot be trained at all.
    """
    if not study.variants and not alone:
        raise InputError("A study has nothing to compare; give --vary NAME=path=value.")
    prepared = _prepare(study, study.overrides)
    if leak := find_leak(prepared):
        raise InputError(f"The baseline breaks a law, and nothing can be compared with it: {leak}.")
    baseline = Entry(BASELINE, study.overrides, cost=read_whole_cost(prepared), tokens=count_tokens(prepared))
    for note in get_notes(prepared.data):
        say(str(note))
    aim = target or baseline.cost
    return [baseline, *(enter_variant(study, name, settings, aim) for name, settings in study.variants.items())]


def count_tokens(prepared: Prepared) -> int:
    """Counts the tokens of a step, padding included; 0 if the data has none."""
    first = prepared.batches[0]
    return int(first["tokens"].size) if "tokens" in first else 0


def _prepare(study: Study, overrides: tuple[str, ...]) -> Prepared:
    experiment, _ = load_config(study.config, list(overrides), study.files)
    data = experiment.data.open()
    return prepare(settle(experiment, data)[0], data)


def enter_variant(study: Study, name: str, settings: Sequence[str], target: Cost) -> Entry:
    """Checks a variant by the laws and matches its budget to `target`; the entry says why it is out, if it is.

    Raises InputError if it cannot be trained at all.
    """
    overrides = (*study.overrides, *settings)
    prepared = _prepare(study, overrides)
    if leak := find_leak(prepared):
        return Entry(name, overrides, cost=read_cost(prepared), out=leak)
    width, tokens = width_of(prepared.experiment.model), count_tokens(prepared)
    try:
        if study.budget == "time":
            baseline = _prepare(study, study.overrides)
            matched = match_time(study.config, overrides, study.free, baseline, width, study.files)
        else:
            matched = match(study.config, overrides, study.free, study.budget, target, width, files=study.files)
    except UnmatchedError as error:
        cost = load_cost(study.config, overrides, study.files)
        return Entry(name, overrides, cost=cost, out=f"{name} {error}", tokens=tokens)
    if matched.overrides:
        prepared = _prepare(study, (*overrides, *matched.overrides))
    cost = read_whole_cost(prepared)
    return Entry(name, (*overrides, *matched.overrides), matched.overrides, cost, tokens=tokens)


class Comparison:
    """A study that is carried out in a folder; what its ledger holds is not done again.

    Seeds are counted from `first_seed`.  The baseline is trained for variants, or `alone` on a fixed number of seeds.
    """

    def __init__(
        self, study: Study, folder: Path, entries: Sequence[Entry], first_seed: int = 0, alone: bool = False
    ) -> None:
        self.study, self.entries, self.trials = study, list(entries), Trials(folder)
        self.first_seed, self.alone = first_seed, alone
        self.outcomes, self.failures, self.machines = self.trials.outcomes, self.trials.failures, self.trials.machines
        self.tuned: dict[str, Tuned] = {}
        self.began = time.monotonic()
        first = next(iter(self.trials.ledger.lines), None)
        if first is None:
            self.trials.ledger.add({"kind": "study", **record_study(study), "versions": dict(collect_versions())})
        elif {name: first.get(name) for name in study.record()} != study.record():
            raise InputError(f"{folder} holds another study; name another folder with --to.")
        elif first.get("sources", {}) != find_sources(study):
            raise InputError(
                f"{study.config} or a file beside it has changed since the study in {folder} began, so that its trials"
                " are of other structures; name another folder with --to."
            )

    def run(
        self,
        make: Make,
        look: Callable[[list[Result], int, int], None] = lambda *_: None,
        enough: Callable[[Result], bool] | None = None,
    ) -> list[Result]:
        """Tunes, then adds seeds until each variant is decided; `look` gets results, and trials done and planned.

        A round adds as many seeds as `make` makes side by side; a fixed number of seeds is one round, if nothing may
        end it.  No seeds are added to an undecided variant of which there is `enough`.
        """
        chosen = self._tune(make, look)
        count = 0
        while True:
            results = self.results(chosen, count)
            look(results, len(self.outcomes), len(self.outcomes))
            waiting = [
                result.entry.name
                for result in results[0 if self.alone else 1 :]
                if result.entry.out is None and not self._is_decided(result, count) and not (enough and enough(result))
            ]
            if not waiting or self._is_over(count):
                return results
            names = {BASELINE, *waiting}
            if self.study.seeds and self.study.minutes is None and enough is None:
                count = self.study.seeds
            else:
                more = make.count_seeds(len(names)) if isinstance(make, Wide) else 1
                count = min(max(count + more, FIRST), self.study.seeds or self.study.most)
            units = [
                self.plan(entry.name, chosen[entry.name], seed, "verdict")
                for seed in self._seeds(count)
                for entry in self.entries
                if entry.name in names and entry.out is None
            ]
            self.carry_out(
                units, make, lambda seeds=count: look(self.results(chosen, seeds), len(self.outcomes), seeds)
            )

    def _is_decided(self, result: Result, count: int) -> bool:
        if result.entry.name in self.failures:
            return True
        if self.study.seeds is not None:
            return count >= self.study.seeds
        return count >= FIRST and result.verdict is not None and result.verdict.is_decided

    def _is_over(self, count: int) -> bool:
        spent = (time.monotonic() - self.began) / 60
        late = self.study.minutes is not None and spent > self.study.minutes and count >= FIRST
        return late or count >= (self.study.seeds or self.study.most)

    def _tune(self, make: Make, look: Callable[[list[Result], int, int], None]) -> dict[str, tuple[str, ...]]:
        """The overrides of every entry with the setting of the grid that was best for it on the tuning part."""
        plain = {entry.name: entry.overrides for entry in self.entries}
        if not self.study.grid:
            return plain
        seeds = range(TUNING_SEED, TUNING_SEED + self.study.tuning_seeds)
        tried = {
            (entry.name, setting): [
                self.plan(entry.name, (*entry.overrides, setting), seed, "tuning") for seed in seeds
            ]
            for entry in self.entries
            if entry.out is None
            for setting in self.study.grid
        }
        units = [unit for group in tried.values() for unit in group]
        self.carry_out(units, make, lambda: look([], len(self.outcomes), len(units)))
        for entry in self.entries:
            if entry.out is None and entry.name not in self.failures:
                losses = {
                    setting: float(np.mean([self.outcomes[unit.key].loss for unit in tried[entry.name, setting]]))
                    for setting in self.study.grid
                }
                tuned = self.tuned[entry.name] = Tuned(losses)
                plain[entry.name] = (*entry.overrides, tuned.best)
        return plain

    def _seeds(self, count: int) -> range:
        return range(self.first_seed, self.first_seed + count)

    def plan(self, name: str, overrides: tuple[str, ...], seed: int, part: Part) -> Unit:
        """Plans a trial of this study."""
        return Unit(name, self.study.config, overrides, seed, part, self.study.files)

    def carry_out(self, units: Sequence[Unit], make: Make, done: Callable[[], None] = lambda: None) -> None:
        """Makes the trials that the ledger does not hold, each a line of it when it ends."""
        self.trials.carry_out(units, make, done)

    def results(self, chosen: Mapping[str, tuple[str, ...]], count: int) -> list[Result]:
        """Results of all entries over the seeds that both they and the baseline have."""
        by_seed = {
            entry.name: {
                seed: outcome
                for seed in self._seeds(count)
                if (outcome := self.outcomes.get((entry.name, chosen[entry.name], seed, "verdict"))) is not None
            }
            for entry in self.entries
        }
        base = by_seed[BASELINE]
        differences = {
            entry.name: [
                by_seed[entry.name][seed].loss - base[seed].loss for seed in base if seed in by_seed[entry.name]
            ]
            for entry in self.entries
            if entry.name != BASELINE and entry.out is None and entry.name not in self.failures
        }
        finite = {name: x for name, x in differences.items() if all(map(math.isfinite, x))}
        for name in differences.keys() - finite.keys():
            self.failures[name] = "its loss is not finite on some seed"
        loss = float(np.mean([outcome.loss for outcome in base.values()])) if base else math.nan
        verdicts = judge(finite, self.study.alpha, self.study.smallest * loss if base else 0.0)
        return [
            dataclasses.replace(
                self._result(entry, by_seed[entry.name], base, verdicts.get(entry.name), loss),
                pilot=self._find_pilot(chosen[entry.name], entry.name, chosen[BASELINE]),
                tuned=self.tuned.get(entry.name),
            )
            for entry in self.entries
        ]

    def _find_pilot(self, overrides: tuple[str, ...], name: str, base: tuple[str, ...]) -> tuple[float, ...]:
        """Differences as shares of the baseline's loss, on the tuning's seeds or on the first ones."""
        tuned = self.study.tuning_seeds >= FIRST and self.study.grid
        seeds = range(TUNING_SEED, TUNING_SEED + self.study.tuning_seeds) if tuned else self._seeds(FIRST)
        part = "tuning" if tuned else "verdict"
        pairs = [
            (own.loss, other.loss)
            for seed in seeds
            if (own := self.outcomes.get((name, overrides, seed, part)))
            and (other := self.outcomes.get((BASELINE, base, seed, part)))
        ]
        mean = float(np.mean([other for _, other in pairs])) if pairs else math.nan
        return tuple((own - other) / mean for own, other in pairs)

    def _result(
        self,
        entry: Entry,
        own: Mapping[int, Outcome],
        base: Mapping[int, Outcome],
        verdict: Verdict | None,
        loss: float,
    ) -> Result:
        out = entry.out or self.failures.get(entry.name)
        entry = dataclasses.replace(entry, out=out)
        target = self.entries[0].cost
        ratios = entry.cost.parameters / target.parameters, entry.cost.flops / target.flops
        if not own or out:
            return Result(entry, None, parameters=ratios[0], flops=ratios[1])
        curve, other = (average_curves([result.curve for result in group.values()]) for group in (own, base))
        both = sorted(own.keys() & base.keys())
        seconds = float(np.median([own[seed].seconds / base[seed].seconds for seed in both])) if both else math.nan
        memories = [outcome.memory for outcome in own.values() if outcome.memory is not None]
        share = (math.nan, math.nan, math.nan)
        if verdict is not None:
            share = verdict.mean / loss, verdict.low / loss, verdict.high / loss
        return Result(
            entry,
            verdict,
            float(np.mean([outcome.loss for outcome in own.values()])),
            share,
            *ratios,
            seconds,
            find_share_of_steps(curve, other),
            curve,
            tuple(own[seed].loss for seed in sorted(own)),
            tuple(own[seed].loss - base[seed].loss for seed in both),
            tuple(value for seed in sorted(own) if (value := own[seed].accuracy) is not None),
            tuple(own[seed].curve for seed in sorted(own)),
            float(np.median([outcome.seconds for outcome in own.values()])) if self._has_one_machine() else math.nan,
            float(np.median(memories)) if len(memories) == len(own) else None,
        )

    def _has_one_machine(self) -> bool:
        return len(self.machines) == 1 and None not in self.machines
