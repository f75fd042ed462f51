"""The referee: proposals are judged one after the other, each against the best structure so far.

A campaign is a sequence of proposals.  The t-th that reaches the test is kept if its e-value reaches 1 / alpha_t with

    alpha_t = alpha gamma_t (k + 1),    gamma_t = t^-1.1 / zeta(1.1),

k the number of those kept before: e-LOND (arXiv:2311.06412).  The expected share of false ones among the kept is at
most alpha after every proposal, whatever was proposed and however the verdicts before it were used.  Each e-value is of
seeds of its own, so that nobody can propose what suits the seeds.

Before the test a proposal is screened, refused if a law is broken or the budget cannot be had, and set aside if it is
no better than the best on other seeds and the other part of the held-out data.  These cost no part of alpha.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.special import zeta

from train.disk import explain_failed_writes
from train.errors import InputError, Json
from train.study.compare import Comparison, Make, Result, enter
from train.study.costs import load_cost
from train.study.ledger import Ledger
from train.study.proposal import Proposal
from train.study.sources import find_sources
from train.study.trial import Unit, describe_error
from train.study.verdict import find_interval
from train.variants import BASELINE, Study

POWER = 1.1  # of the weights gamma
SCREEN = 2  # seeds of the screening
SEEDS = 1000  # apart from one proposal's first seed to the next one's
SCREENING_SEED = 10_000_000
Stage = Literal["refused", "disqualified", "screened out", "not kept", "kept"]


def find_level(tested: int, kept: int, alpha: float) -> float:
    """The level alpha_t of the test number `tested` + 1, after `kept` proposals were kept."""
    t = tested + 1
    return alpha * t**-POWER / float(zeta(POWER)) * (kept + 1)


@dataclasses.dataclass(frozen=True)
class Ruling:
    """A verdict on a proposal, a line of the campaign's ledger.

    `difference` is the mean of the loss over seeds less that of the best so far, as a share of the latter, with its
    confidence sequence at the level of the test; costs are over those of the campaign's baseline.
    """

    number: int
    proposal: str
    digest: str
    stage: Stage
    sentence: str
    overrides: tuple[str, ...] = ()
    level: float | None = None
    p: float | None = None
    seeds: int = 0
    difference: float | None = None
    interval: tuple[float | None, float | None] = (None, None)
    parameters: float | None = None
    flops: float | None = None
    seconds: float | None = None

    def record(self) -> dict[str, Json]:
        """Fields as JSON values."""
        fields = dataclasses.asdict(self)
        return {"kind": "proposal", **fields, "overrides": list(self.overrides), "interval": list(self.interval)}


class Referee:
    """A campaign in a folder: its study, whose variants are not used, and the proposals that it has seen."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.folder, self.ledger = folder, Ledger(folder)
        self.study = dataclasses.replace(study, variants={}, grid=(), seeds=None)
        self.target = load_cost(study.config, study.overrides, study.files, study.budget)
        head = {"kind": "campaign", **self.study.record(), "sources": find_sources(self.study)}
        if not self.ledger.lines:
            self.ledger.add(head)
        elif {name: self.ledger.lines[0].get(name) for name in head} != head:
            raise InputError(
                f"{folder} holds a campaign of another study, or the study's file has changed since; name another"
                " folder with --to."
            )

    @property
    def rulings(self) -> list[dict[str, Json]]:
        """Lines of the proposals so far."""
        return self.ledger.lines[1:]

    def find_best(self) -> Study:
        """The study whose baseline is the best structure so far: all kept proposals, one after the other."""
        kept = [line for line in self.ledger.lines[1:] if line["stage"] == "kept"]
        more = tuple(text for line in kept for text in line["overrides"])
        files = tuple(str(self._file(line["number"])) for line in kept)
        return dataclasses.replace(
            self.study, overrides=(*self.study.overrides, *more), files=(*self.study.files, *files)
        )

    def _file(self, number: int) -> Path:
        return self.folder / "proposals" / f"{number:04}.py"

    def rule(self, proposal: Proposal, make: Make, say: Callable[[str], None] = lambda _: None) -> dict[str, Json]:
        """Rules on a proposal, and notes it in the ledger; a file that was ruled on before gets its ruling again."""
        lines = self.ledger.lines[1:]
        for line in lines:
            if line["digest"] == proposal.digest:
                say("ruled on before: no proposal is tested twice")
                return line
        number = len(lines) + 1
        file = self._file(number)
        with explain_failed_writes(self.folder):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(proposal.text, encoding="utf-8")
        line = self._judge(number, proposal, make, say).record()
        self.ledger.add(line)
        return line

    def _judge(self, number: int, proposal: Proposal, make: Make, say: Callable[[str], None]) -> Ruling:
        lines = self.ledger.lines[1:]
        tested = sum(line["level"] is not None for line in lines)
        kept = sum(line["stage"] == "kept" for line in lines)
        best = self.find_best()
        level = find_level(tested, kept, self.study.alpha)
        study = dataclasses.replace(
            best,
            variants={"proposal": proposal.overrides},
            files=(*best.files, str(self._file(number))),
            alpha=level,
        )
        ruling = Ruling(number, proposal.name, proposal.digest, "refused", "", proposal.overrides)
        try:
            entries = enter(study, target=self.target)
        except InputError as error:
            return dataclasses.replace(ruling, sentence=str(error))
        except Exception as error:  # the proposal's code may raise anything
            return dataclasses.replace(ruling, sentence=describe_error(error))
        entry = entries[1]
        ruling = dataclasses.replace(
            ruling,
            overrides=entry.overrides[len(best.overrides) :],
            parameters=entry.cost.parameters / self.target.parameters,
            flops=entry.cost.flops / self.target.flops,
        )
        if entry.out is not None:
            return dataclasses.replace(ruling, stage="disqualified", sentence=f"disqualified: {entry.out}")
        folder = self.folder / "trials" / f"{number:04}-{proposal.digest[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        comparison = Comparison(study, folder, entries, first_seed=number * SEEDS)
        if (sentence := self._screen(comparison, number, make)) is not None:
            return dataclasses.replace(ruling, stage="screened out", sentence=sentence)

        def look(results: Sequence[Result], done: int, _: int) -> None:
            say(f"proposal {number}: {done} trials, seed {len(results[0].losses) if results else 0}")

        _, result = comparison.run(make, look, self._is_futile)
        return self._describe(ruling, result, level)

    def _screen(self, comparison: Comparison, number: int, make: Make) -> str | None:
        """A sentence if the proposal is no better on the seeds and the part of the screening, otherwise None."""
        first = SCREENING_SEED + number * SEEDS
        units = {
            entry.name: [comparison.plan(entry.name, entry.overrides, first + seed, "tuning") for seed in range(SCREEN)]
            for entry in comparison.entries
        }
        comparison.carry_out([unit for group in units.values() for unit in group], make)
        if error := comparison.failures.get("proposal"):
            return f"screened out: it cannot be trained ({error})"
        losses = {name: _mean_loss(comparison, group) for name, group in units.items()}
        share = losses["proposal"] / losses[BASELINE] - 1
        if share < 0:
            return None
        return f"screened out: its loss is {share:.2%} above the best so far, over {SCREEN} seeds of the screening"

    def _is_futile(self, result: Result) -> bool:
        """Tells if an improvement of the smallest size of interest is not to be expected any more.

        That is so if it lies outside of the 95 % confidence sequence of the differences.
        """
        verdict = result.verdict
        if verdict is None or verdict.seeds < 3 or not math.isfinite(result.loss):
            return False
        low, _ = find_interval(result.differences)
        return low > -self.study.smallest * (result.loss - verdict.mean)

    def _describe(self, ruling: Ruling, result: Result, level: float) -> Ruling:
        verdict = result.verdict
        if verdict is None:
            reason = f"not kept: {result.entry.out or 'it was not measured'}"
            return dataclasses.replace(ruling, stage="not kept", level=level, sentence=reason)
        mean, low, high = result.share
        is_kept = verdict.word == "better"
        size = f"{abs(mean):.2%} {'below' if mean < 0 else 'above'} the best so far"
        evidence = f"p {verdict.p:.2g} at any time, {level:.2g} asked for, {verdict.seeds} seeds"
        return dataclasses.replace(
            ruling,
            stage="kept" if is_kept else "not kept",
            sentence=f"{'kept' if is_kept else 'not kept'}: its loss is {size} ({evidence})",
            level=level,
            p=verdict.p,
            seeds=verdict.seeds,
            difference=mean,
            interval=(low if math.isfinite(low) else None, high if math.isfinite(high) else None),
            seconds=result.seconds if math.isfinite(result.seconds) else None,
        )


def _mean_loss(comparison: Comparison, units: Sequence[Unit]) -> float:
    return float(np.mean([comparison.outcomes[unit.key].loss for unit in units]))
