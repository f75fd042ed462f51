"""Architecture searches: candidates of a grammar, bred over generations, halved over rungs, and confirmed apart.

In each generation candidates are drawn from the best of the generations before by tournaments, and older ones die:
regularized evolution (arXiv:1802.01548).  A generation climbs rungs of growing training, of which each keeps the best
share: successive halving (arXiv:1502.07943).  Ranks are by the highest rung reached, then by the loss there.

The best of many noisy losses is lower than what its structure gives: the winner's curse.  So nothing of the search
counts as a gain.  The winners are compared with the baseline on seeds and examples that the search never saw, and the
curse is measured: the gain that the search saw less the gain that was confirmed.
"""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from train.errors import InputError
from train.study.candidates import Candidate, Gain, Progress, Standing, read_candidate
from train.study.compare import Comparison, Entry, Result, enter, enter_variant
from train.study.grammar import Edits, Grammar, read_edits, write_edits
from train.study.rungs import Rung, count_rungs, count_steps, halve
from train.study.sources import find_sources
from train.study.trial import Make, Unit, describe_error
from train.study.trials import Trials
from train.variants import BASELINE, Search

SEARCH_SEED = 20_000_000  # the first of the seeds of a search, which no comparison has
AGE = 2  # generations for which a candidate may be a parent
TOURNAMENT = 3  # candidates of which the best becomes a parent
DRAWS = 40  # at most, for each candidate that enters
SHARE = 0.6  # of the minutes, after which no generation begins
WINNERS = "winners"  # folder of the comparison
Check = Callable[[str, Edits], Entry]  # tests and matches a candidate; raises InputError if it cannot be trained


class Evolution:
    """A search that is carried out in a folder; what its ledger holds is not drawn, checked or trained again.

    Draws depend on the search's seed and on losses alone, so that a search that was stopped goes on to the same end.
    Once winners are named the search is closed: examples of the verdict have been looked at.
    """

    def __init__(
        self, search: Search, folder: Path, grammar: Grammar, baseline: Entry, rungs: Sequence[Rung], check: Check
    ) -> None:
        self.search, self.folder, self.grammar, self.check = search, folder, grammar, check
        self.baseline, self.rungs, self.trials = baseline, list(rungs), Trials(folder)
        self.candidates: list[Candidate] = []
        self.repeated = 0
        self.seen: set[str] = set()
        self.began = time.monotonic()
        head = {"kind": "search", **search.record(), "sources": find_sources(search.study)}
        lines = self.trials.ledger.lines
        if not lines:
            self.trials.ledger.add(head)
        elif {name: lines[0].get(name) for name in head} != head:
            raise InputError(
                f"{folder} holds another search, or its config has changed since; name another folder with --to."
            )
        self.known = {tuple(line["edits"]): read_candidate(line) for line in lines if line["kind"] == "candidate"}
        self.closed: int | None = next((line["generation"] for line in lines if line["kind"] == "winners"), None)

    def run(self, make: Make, look: Callable[[Progress], None] = lambda _: None) -> list[Standing]:
        """Carries out the search; gives the baseline's standing, then those of candidates in the order of draws."""
        root = Candidate(BASELINE, 0, (), (), self.baseline)
        self.seen = {self.grammar.identify(())}
        standings = [Standing(root, tuple(self._train([root], rung, make, look, [])[BASELINE] for rung in self.rungs))]
        if not math.isfinite(standings[0].losses[-1]):
            raise InputError("The loss of the baseline is not finite, and nothing can be compared with it.")
        generation = entered = 0
        spent = 0.0
        while entered < self.search.candidates and not self._is_over(generation, spent):
            since = time.monotonic()
            generation += 1
            count = min(self.search.population, self.search.candidates - entered)
            young = self._breed(generation, count, standings, look)
            if not young:
                break
            entered += len(young)
            standings += self._climb(young, make, look, standings)
            spent = time.monotonic() - since
        if self.closed is None:
            names: list[str] = [winner.candidate.name for winner in self.choose(standings)]
            self.trials.ledger.add({"kind": "winners", "names": names, "generation": generation})
            self.closed = generation
        return standings

    def _is_over(self, generation: int, spent: float) -> bool:
        """Tells if no further generation begins: it would end after the search's share of the minutes."""
        if self.closed is not None:
            return generation >= self.closed
        minutes = self.search.minutes
        if minutes is None or not generation:
            return False
        return time.monotonic() - self.began + spent > SHARE * minutes * 60

    def _breed(
        self, generation: int, count: int, standings: Sequence[Standing], look: Callable[[Progress], None]
    ) -> list[Candidate]:
        """Draws candidates until `count` of them have entered, or there are no new ones to be found."""
        generator = np.random.default_rng([self.search.seed, generation])
        alive = [standing for standing in standings if standing.candidate.generation >= generation - AGE]
        young: list[Candidate] = []
        shown = tuple(standings)
        for _ in range(count * DRAWS):
            if len(young) == count:
                break
            look(Progress(f"generation {generation}: {len(young)} of {count} candidates", self.count_share(), shown))
            edits, parents = self._draw(alive, generator)
            candidate = self._enter(edits, parents, generation)
            if candidate is not None:
                self.candidates.append(candidate)
                if candidate.entry.out is None:
                    young.append(candidate)
        return young

    def _draw(self, alive: Sequence[Standing], generator: np.random.Generator) -> tuple[Edits, tuple[str, ...]]:
        """Edits of a new candidate with the names of its parents: a crossover of two, or a mutation of one."""
        first, second = (self._select(alive, generator) for _ in range(2))
        if generator.random() < self.search.crossover and first.edits and second.edits and first != second:
            edits = self.grammar.cross(first.edits, second.edits)
            if set(edits) not in (set(first.edits), set(second.edits)):
                return edits, (first.name, second.name)
        try:
            return self.grammar.mutate(first.edits, generator), (first.name,)
        except InputError:  # an edit of the parent took away what may be edited
            return self.grammar.mutate((), generator), (BASELINE,)

    def _select(self, alive: Sequence[Standing], generator: np.random.Generator) -> Candidate:
        drawn = [alive[int(index)] for index in generator.integers(len(alive), size=TOURNAMENT)]
        return min(drawn, key=lambda standing: standing.rank).candidate

    def _enter(self, edits: Edits, parents: tuple[str, ...], generation: int) -> Candidate | None:
        """Checks a candidate, each one once; None if its structure was drawn before."""
        if (name := self._identify(edits)) in self.seen:
            self.repeated += 1
            return None
        self.seen.add(name)
        candidate = self.known.get(write_edits(edits))
        if candidate is None:
            number = len(self.candidates) + 1
            candidate = self._check(Candidate(f"c{number}", generation, edits, parents, self.baseline))
            self.trials.ledger.add(candidate.record())
        after = self._identify((*edits, *read_edits(candidate.entry.moved)))
        if candidate.entry.out is None and after != name and after in self.seen:
            stage = "the same after the match"
            entry = dataclasses.replace(candidate.entry, out="the match of budgets makes it one that was drawn before")
            return dataclasses.replace(candidate, entry=entry, stage=stage)
        self.seen.add(after)
        return candidate

    def _identify(self, edits: Edits) -> str:
        try:
            return self.grammar.identify(edits)
        except InputError:  # which `check` says again, as the reason
            return str(sorted(write_edits(edits)))

    def _check(self, drawn: Candidate) -> Candidate:
        """Checks a candidate that was drawn; its stage and its entry say why it is out, if it is."""
        name = drawn.name
        entry = Entry(name, (*self.search.overrides, *write_edits(drawn.edits)))
        try:
            entry = self.check(name, drawn.edits)
        except InputError as error:
            return dataclasses.replace(drawn, entry=dataclasses.replace(entry, out=str(error)), stage="not built")
        except Exception as error:  # whatever a user's class raises
            said = describe_error(error)
            return dataclasses.replace(drawn, entry=dataclasses.replace(entry, out=said), stage="not built")
        if entry.out is None:
            return dataclasses.replace(drawn, entry=entry)
        stage = "no equal budget" if entry.out.startswith(f"{name} ") else "breaks a law"
        entry = dataclasses.replace(entry, out=entry.out.removeprefix(f"{name} "))
        return dataclasses.replace(drawn, entry=entry, stage=stage)

    def _climb(
        self, young: list[Candidate], make: Make, look: Callable[[Progress], None], standings: Sequence[Standing]
    ) -> list[Standing]:
        """Trains a generation rung by rung, the best share of each on the next one."""
        losses: dict[str, tuple[float, ...]] = {candidate.name: () for candidate in young}
        counts = count_rungs(len(young), len(self.rungs), self.search.keep)
        left = young
        for rung, count in zip(self.rungs, counts, strict=True):
            chosen = set(halve({member.name: losses[member.name] for member in left}, count))
            left = [member for member in left if member.name in chosen]
            now = [Standing(member, losses[member.name]) for member in young]
            for name, loss in self._train(left, rung, make, look, [*standings, *now]).items():
                losses[name] = (*losses[name], loss)
        return [Standing(member, losses[member.name]) for member in young]

    def _train(
        self,
        chosen: Sequence[Candidate],
        rung: Rung,
        make: Make,
        look: Callable[[Progress], None],
        standings: Sequence[Standing],
    ) -> dict[str, float]:
        """Trains candidates on a rung, on the search's seeds and the tuning part; gives their mean losses by name."""
        study = self.search.study
        units = {
            candidate.name: [
                Unit(
                    candidate.name,
                    study.config,
                    rung.extend(candidate.entry.overrides),
                    SEARCH_SEED + seed,
                    "tuning",
                    study.files,
                )
                for seed in range(self.search.seeds)
            ]
            for candidate in chosen
        }
        every = [unit for group in units.values() for unit in group]
        generation = max((candidate.generation for candidate in chosen), default=0)
        where = f"generation {generation}, {rung.name}" if generation else f"{BASELINE}, {rung.name}"

        def done() -> None:
            made = sum(unit.key in self.trials.outcomes or unit.variant in self.trials.failures for unit in every)
            look(Progress(f"{where}: {made} of {len(every)} trials", self.count_share(), tuple(standings)))

        done()
        self.trials.carry_out(every, make, done)
        return {name: self._mean(group) for name, group in units.items()}

    def _mean(self, units: Sequence[Unit]) -> float:
        outcomes = [self.trials.outcomes.get(unit.key) for unit in units]
        losses = [math.inf if outcome is None else outcome.loss for outcome in outcomes]
        return sum(losses) / len(losses)

    def count_share(self) -> float:
        """Counts the share of the search's training that is done, by steps."""
        steps = {rung.extend(()): rung.steps for rung in self.rungs}
        made = sum(
            next((count for extra, count in steps.items() if extra and key[1][-len(extra) :] == extra), None)
            or self.rungs[-1].steps
            for key in self.trials.outcomes
        )
        return min(1.0, made / count_steps(self.search, self.rungs))

    def find_seconds(self) -> float:
        """Finds the seconds of a step of the baseline; 0 before it was trained."""
        seconds = [outcome.seconds for key, outcome in self.trials.outcomes.items() if key[0] == BASELINE]
        return seconds[-1] if seconds else 0.0

    def choose(self, standings: Sequence[Standing]) -> list[Standing]:
        """Chooses the winners: the best on the last rung, of those with a lower loss than the baseline's."""
        base, *others = standings
        reached = [
            standing
            for standing in others
            if len(standing.losses) == len(self.rungs) and standing.losses[-1] < base.losses[-1]
        ]
        return sorted(reached, key=lambda standing: standing.rank)[: self.search.winners]

    def confirm(
        self,
        standings: Sequence[Standing],
        make: Make,
        look: Callable[[list[Result], int, int], None] = lambda *_: None,
    ) -> list[Gain]:
        """Compares the winners with the baseline on fresh seeds and the verdict part of the held-out data."""
        winners = self.choose(standings)
        if not winners:
            return []
        folder = self.folder / WINNERS
        folder.mkdir(parents=True, exist_ok=True)
        entries = [self.baseline, *(winner.candidate.entry for winner in winners)]
        study = dataclasses.replace(
            self.search.study,
            variants={winner.candidate.name: write_edits(winner.candidate.edits) for winner in winners},
            minutes=self._find_minutes(),
        )
        _, *results = Comparison(study, folder, entries).run(make, look)
        base = standings[0].losses[-1]
        return [
            Gain(winner, result, 1 - winner.losses[-1] / base) for winner, result in zip(winners, results, strict=True)
        ]

    def _find_minutes(self) -> float | None:
        """The minutes that are left for the comparison."""
        if self.search.minutes is None:
            return None
        return max(0.0, self.search.minutes - (time.monotonic() - self.began) / 60)

    def count_dropped(self) -> Counter[tuple[str, str]]:
        """Counts candidates that are out by stage and reason, and draws that were a structure once more."""
        dropped = Counter(
            (candidate.stage, candidate.entry.out) for candidate in self.candidates if candidate.entry.out is not None
        )
        if self.repeated:
            dropped["drawn before", "the same structure once more"] = self.repeated
        return dropped


def open_search(
    search: Search, folder: Path, rungs: Sequence[Rung], say: Callable[[str], None] = lambda _: None
) -> Evolution:
    """Opens a search in a folder: its grammar, its baseline with its cost, and the checks that `morphax compare` has.

    Raises InputError if the baseline breaks a law or cannot be trained, and for a path that cannot be edited.
    """
    grammar = Grammar(search.config, search.overrides, search.at, search.files, search.budget, search.free)
    if not grammar.list_edits():
        raise InputError(f"There is nothing to edit at {', '.join(grammar.at)}; give another --at PATH.")
    (baseline,) = enter(search.study, say, alone=True)

    def check(name: str, edits: Edits) -> Entry:
        return enter_variant(search.study, name, write_edits(edits), baseline.cost)

    return Evolution(search, folder, grammar, baseline, rungs, check)
