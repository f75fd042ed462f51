"""Searches: rungs, winners and their curse on noise and on a real improvement, what is dropped, and going on."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.places import CONFIGS
from train.cost.value import Cost
from train.errors import InputError
from train.study.candidates import Candidate, Gain, Standing
from train.study.compare import Entry, count_places
from train.study.grammar import Edit, Edits, Grammar, add_edit, write_edits
from train.study.ledger import NAME, Ledger
from train.study.rungs import Rung, count_rungs, count_steps, halve, plan_rungs
from train.study.search import SEARCH_SEED, WINNERS, Evolution
from train.study.search_page import write_command, write_search_page
from train.study.search_words import describe_end, describe_plan, describe_time, record_search
from train.study.trial import Make, Outcome, Unit
from train.study.verdict import find_p_value
from train.variants import BASELINE, Search

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
SEARCH = Search(LANGUAGE_MODEL, candidates=12, population=4, rungs=(0.5, 1.0), keep=0.5, winners=2, most=6)
RUNGS = [Rung("10 steps", 10, ("steps=10",)), Rung("20 steps", 20)]
COST = Cost(1000, 10_000, active=900, forward=3000, state=64, length=16, decoding=100)
FIELDS, VALUES = 4, 5
REAL = Edit("model.x2", "3")
CANDIDATE = Candidate("c1", 1, (REAL,), (BASELINE,), Entry("c1", (str(REAL),), cost=COST))


@pytest.fixture(autouse=True)
def _inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)


class Toy(Grammar):
    """Structures of four numbers, of which the baseline's are 0."""

    def __init__(self) -> None:
        self.at = ("model",)

    def identify(self, edits: Edits) -> str:
        return json.dumps(sorted(write_edits(edits)))

    def mutate(self, edits: Edits, generator: np.random.Generator) -> Edits:
        field, value = generator.integers(FIELDS), 1 + generator.integers(VALUES)
        return add_edit(edits, Edit(f"model.x{field}", str(value)))

    def simplify(self, edits: Edits) -> Edits:
        return edits


def check(name: str, edits: Edits) -> Entry:
    return Entry(name, write_edits(edits), cost=COST)


def begin(search: Search, folder: Path, check: Callable[[str, Edits], Entry] = check) -> Evolution:
    folder.mkdir(exist_ok=True)
    return Evolution(search, folder, Toy(), Entry(BASELINE, (), cost=COST), RUNGS, check)


def make_by(effect: Callable[[Unit], float], made: list[Unit], seed: int = 0) -> Make:
    """Trials whose loss is 2, less an effect, with noise of the seed that all share and of the trial."""

    def make(units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome]]:
        for unit in units:
            made.append(unit)
            key = [seed, unit.seed, unit.part == "tuning"]
            shared = float(np.random.default_rng(key).normal(0, 0.1))
            own = float(np.random.default_rng([*key, *unit.variant.encode()]).normal(0, 0.03))
            loss = 2.0 + shared + own - effect(unit)
            yield unit, Outcome(loss, ((1, loss + 1), (2, loss)), 1.0)

    return make


def noise(unit: Unit) -> float:
    del unit
    return 0.0


def planted(unit: Unit) -> float:
    return 0.2 * (str(REAL) in unit.overrides)


def conclude(evolution: Evolution, make: Make) -> tuple[list[Standing], list[Gain]]:
    standings = evolution.run(make)
    return standings, evolution.confirm(standings, make)


def test_each_rung_keeps_the_share_of_the_lowest_losses() -> None:
    assert count_rungs(9, 3, 1 / 3) == [9, 3, 1]
    assert count_rungs(8, 3, 1 / 3) == [8, 3, 1]
    assert count_rungs(10, 2, 0.5) == [10, 5]
    assert count_rungs(1, 3, 0.1) == [1, 1, 1]
    assert count_rungs(4, 2, 1.0) == [4, 4]
    losses = {"a": (3.0, 1.0), "b": (1.0, 2.0), "c": (2.0, math.inf), "d": (2.0, 0.5)}
    assert halve(losses, 2) == ["d", "a"]
    assert halve(losses, 4) == ["d", "a", "b"], "what could not be trained goes no further"
    assert halve({"a": (), "b": ()}, 2) == ["a", "b"]
    search = dataclasses.replace(SEARCH, candidates=10, population=4, seeds=2)
    assert count_steps(search, RUNGS) == 2 * ((4 + 4 + 2) * 10 + (2 + 2 + 1) * 20 + 30)


@pytest.mark.slow
def test_rungs_are_shares_of_the_configs_steps_and_a_probe_has_data_of_its_own() -> None:
    search = dataclasses.replace(SEARCH, overrides=("steps=20", "data.length=8", "model.embed.width=32"))
    assert [(rung.name, rung.extra) for rung in plan_rungs(search)] == [("10 steps", ("steps=10",)), ("20 steps", ())]
    probe, *_ = plan_rungs(dataclasses.replace(search, probe="recall", probe_steps=7))
    overrides = probe.extend(search.overrides)
    assert (probe.name, probe.steps) == ("recall", 7)
    assert overrides[0] == "model.embed.width=32", "settings of the data are the probe's"
    assert {"steps=7", "objective=MaskedLM()"} <= set(overrides)
    with pytest.raises(InputError, match="There is no probe 'nothing'; there are recall, "):
        plan_rungs(dataclasses.replace(search, probe="nothing"))
    with pytest.raises(InputError, match="rungs of 1, 1, 2 steps are not rising; give fewer --rungs"):
        plan_rungs(dataclasses.replace(search, overrides=("steps=2",), rungs=(0.25, 0.5, 1.0)))


def test_generations_climb_and_the_winners_are_confirmed_on_seeds_and_examples_of_their_own(tmp_path: Path) -> None:
    made: list[Unit] = []
    evolution = begin(SEARCH, tmp_path)
    standings, gains = conclude(evolution, make_by(planted, made))
    base, *others = standings
    assert [one.candidate.generation for one in others] == [1] * 4 + [2] * 4 + [3] * 4
    assert sorted(len(one.losses) for one in others) == [1] * 6 + [2] * 6
    for generation in (1, 2, 3):
        first = [one for one in others if one.candidate.generation == generation]
        limit = sorted(one.losses[0] for one in first)[1]
        assert all((len(one.losses) == 2) == (one.losses[0] <= limit) for one in first)
    assert {one for other in others if other.candidate.generation == 3 for one in other.candidate.parents} & {
        one.candidate.name for one in others
    }, "candidates become parents"
    assert BASELINE not in {one for other in others[8:] for one in other.candidate.parents}, "parents die"
    search = [unit for unit in made if unit.part == "tuning"]
    verdict = [unit for unit in made if unit.part == "verdict"]
    assert {unit.seed for unit in search} == {SEARCH_SEED}
    assert {unit.seed for unit in verdict} <= set(range(6))
    assert {unit.variant for unit in verdict} == {BASELINE, *(gain.standing.candidate.name for gain in gains)}
    best = min((one for one in others if len(one.losses) == 2), key=lambda one: one.losses[-1])
    assert gains[0].standing == best
    assert gains[0].seen == pytest.approx(1 - best.losses[-1] / base.losses[-1])
    assert gains[0].curse == pytest.approx(gains[0].seen + gains[0].result.share[0])
    assert "the search saw a gain of" in describe_end(gains, standings)[0]


def test_a_real_improvement_is_found_and_confirmed(tmp_path: Path) -> None:
    search = dataclasses.replace(SEARCH, candidates=24, population=8, most=12)
    _, gains = conclude(begin(search, tmp_path), make_by(planted, []))
    assert REAL in gains[0].standing.candidate.edits
    verdict = gains[0].result.verdict
    assert verdict is not None
    assert verdict.word == "better"
    assert gains[0].confirmed == pytest.approx(0.1, abs=0.03)
    assert gains[0].interval[0] < gains[0].confirmed < gains[0].interval[1]


def test_structures_that_are_out_are_dropped_and_counted_by_reason(tmp_path: Path) -> None:
    def refuse(name: str, edits: Edits) -> Entry:
        match edits[-1].path[-1]:
            case "0":
                raise InputError("there is no such thing")
            case "1":
                return Entry(name, write_edits(edits), cost=COST, out="later tokens move earlier outputs")
            case "3" if len(edits) == 1:
                return Entry(name, write_edits(edits), cost=COST, out=f"{name} cannot have the flops")
            case _:
                return check(name, edits)

    evolution = begin(SEARCH, tmp_path, refuse)
    made: list[Unit] = []
    standings = evolution.run(make_by(noise, made))
    dropped = evolution.count_dropped()
    stages = {stage for stage, _ in dropped}
    assert {"not built", "breaks a law", "no equal budget"} <= stages
    assert ("not built", "there is no such thing") in dropped
    assert ("no equal budget", "cannot have the flops") in dropped
    out = {one.name for one in evolution.candidates if one.entry.out is not None}
    assert sum(dropped.values()) - evolution.repeated == len(out)
    assert not out & {unit.variant for unit in made}
    assert len(standings) - 1 + len(out) == len(evolution.candidates)
    lines = [line for line in Ledger(tmp_path).lines if line["kind"] == "candidate"]
    assert [line["name"] for line in lines] == [one.name for one in evolution.candidates]


def test_a_match_that_gives_a_structure_once_more_does_not_count_as_another(tmp_path: Path) -> None:
    def undo(name: str, edits: Edits) -> Entry:
        moved = ("model.y=1",) if len(edits) == 1 else ()
        return Entry(name, (*write_edits(edits), *moved), moved, COST)

    class Same(Toy):
        def identify(self, edits: Edits) -> str:
            return "one" if edits and edits[-1].path == "model.y" else super().identify(edits)

    evolution = Evolution(SEARCH, tmp_path, Same(), Entry(BASELINE, (), cost=COST), RUNGS, undo)
    evolution.run(make_by(noise, []))
    stages = [one.stage for one in evolution.candidates if len(one.edits) == 1]
    assert stages[0] == "entered"
    assert set(stages[1:]) == {"the same after the match"}


def test_trials_that_fail_or_diverge_go_no_further(tmp_path: Path) -> None:
    def make(units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome | str]]:
        for unit in units:
            bad = {"c1": "ValueError: no", "c2": Outcome(math.inf, (), 1.0)}
            yield unit, bad.get(unit.variant, Outcome(2.0 - 0.01 * len(unit.overrides), (), 1.0))

    evolution = begin(SEARCH, tmp_path)
    standings = {one.candidate.name: one for one in evolution.run(make)}
    assert standings["c1"].losses == standings["c2"].losses == (math.inf,)
    summary = record_search(list(standings.values()), RUNGS, evolution.candidates, evolution.count_dropped(), [])
    json.dumps(summary, allow_nan=False)

    def worse(units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome]]:
        for unit in units:
            yield unit, Outcome(1.0 if unit.variant == BASELINE else 2.0, (), 1.0)

    evolution = begin(SEARCH, tmp_path / "worse")
    none, gains = conclude(evolution, worse)
    assert gains == []
    assert describe_end(gains, none) == ["none of 12 candidates had a lower loss than the baseline on the last rung"]


class KilledError(Exception): ...


def test_a_search_that_is_stopped_anywhere_ends_in_the_same_report(tmp_path: Path) -> None:
    def write(folder: Path, make: Make, check: Callable[[str, Edits], Entry]) -> Evolution:
        evolution = begin(SEARCH, folder, check)
        standings, gains = conclude(evolution, make)
        dropped = evolution.count_dropped()
        write_search_page(folder, SEARCH, RUNGS, standings, evolution.candidates, dropped, gains)
        return evolution

    whole: list[Unit] = []
    write(tmp_path / "whole", make_by(planted, whole), check)
    made: list[Unit] = []
    checked: list[Edits] = []
    calls = [0]

    def dying(units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome | str]]:
        for pair in make_by(planted, [])(units):
            calls[0] += 1
            if calls[0] % 4 == 0:
                raise KilledError
            made.append(pair[0])
            yield pair

    def dying_check(name: str, edits: Edits) -> Entry:
        calls[0] += 1
        if calls[0] % 4 == 0:
            raise KeyboardInterrupt
        checked.append(edits)
        return check(name, edits)

    stops = 0
    while True:
        try:
            write(tmp_path / "cut", dying, dying_check)
            break
        except (KilledError, KeyboardInterrupt):
            stops += 1
            path = tmp_path / "cut" / NAME
            path.write_text(path.read_text() + '{"kind": "tri')  # a line that was being written
    assert stops > 5
    assert sorted(unit.key for unit in made) == sorted(unit.key for unit in whole), "no trial is made again"
    assert len(checked) == len(set(checked)), "no structure is checked again"
    for name in (".", WINNERS):
        assert Ledger(tmp_path / "cut" / name).lines == Ledger(tmp_path / "whole" / name).lines
    summaries = [(tmp_path / folder / "summary.json").read_text() for folder in ("cut", "whole")]
    assert summaries[0] == summaries[1]
    pages = [(tmp_path / folder / "report.html").read_text() for folder in ("cut", "whole")]
    assert pages[0].replace("cut", "whole") == pages[1]


def test_a_search_that_named_its_winners_is_closed_and_another_does_not_go_on(tmp_path: Path) -> None:
    short = dataclasses.replace(SEARCH, minutes=1e-9)
    standings, gains = conclude(begin(short, tmp_path), make_by(noise, []))
    assert {one.candidate.generation for one in standings} == {0, 1}, "no generation begins when the time is over"
    longer, again = conclude(begin(SEARCH, tmp_path), make_by(noise, []))
    assert longer == standings
    assert [gain.seen for gain in again] == [gain.seen for gain in gains]
    with pytest.raises(InputError, match="holds another search, .*; name another folder with --to"):
        begin(dataclasses.replace(SEARCH, seed=1), tmp_path)


def simulate(folder: Path, count: int) -> tuple[list[float], list[float], int]:
    """The first winners' gains that searches of nothing but noise saw and confirmed, and false verdicts."""
    search = dataclasses.replace(SEARCH, candidates=16, population=8, winners=2)
    seen: list[float] = []
    confirmed: list[float] = []
    better = 0
    for number in range(count):
        _, gains = conclude(begin(search, folder / str(number)), make_by(noise, [], number))
        if gains:
            seen.append(gains[0].seen)
            confirmed.append(gains[0].confirmed)
        better += any(gain.result.verdict is not None and gain.result.verdict.word == "better" for gain in gains)
    return seen, confirmed, better


@pytest.mark.slow
def test_of_searches_among_equals_at_most_five_of_a_hundred_confirm_a_gain_and_all_saw_one(tmp_path: Path) -> None:
    count = 60
    seen, confirmed, better = simulate(tmp_path, count)
    assert better <= 0.05 * count
    assert len(seen) > 0.9 * count
    assert min(seen) > 0
    assert np.mean(seen) > 0.01, "the best of 16 by noise of 1.5 % of the loss"
    error = float(np.std(confirmed) / math.sqrt(len(confirmed)))
    assert abs(float(np.mean(confirmed))) < 4 * error, "there is nothing to be confirmed"
    assert find_p_value([-value for value in seen]) < 1e-6, "what a search saw would pass for evidence"


def test_a_search_of_noise_sees_a_gain_that_is_not_confirmed(tmp_path: Path) -> None:
    seen, confirmed, better = simulate(tmp_path, 3)
    assert better == 0
    assert np.mean(seen) > 0.005
    assert np.mean(seen) > np.mean(confirmed)


def test_the_plan_and_the_command_of_a_winner_are_said() -> None:
    search = dataclasses.replace(SEARCH, overrides=("steps=20",), files=("my mixer.py",), budget="none")
    first, second, third = describe_plan(search, RUNGS, 100.0)
    assert first == "search: 12 candidates at any budget, in 3 generations of at most 4: 4 for 10 steps, 2 for 20 steps"
    assert second == "search: 20 trials, 270 steps, the work of 13.5 trainings (2.7e+04 FLOPs)"
    assert "at most 2 winners and the baseline on up to 6 fresh seeds" in third
    candidate = dataclasses.replace(CANDIDATE, edits=(Edit("model.a", "B(c=1)"), REAL))
    command = write_command(search, candidate)
    assert command.endswith("--with 'my mixer.py' --vary 'c1=model.a=B(c=1)' --vary c1=model.x2=3 --match none")


def test_the_trials_side_by_side_are_those_of_the_maker() -> None:
    class Many:
        def __call__(self, units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome | str]]:
            return ((unit, "not made") for unit in units)

        def count_seeds(self, structures: int) -> int:
            return 6 // structures

    assert count_places(Many()) == 6
    assert count_places(Many().__call__) == 1
    rungs = [Rung("10 steps", 10, ("steps=10",)), Rung("20 steps", 20)]
    assert "with 6 side by side" in describe_time(SEARCH, rungs, 1.0, 6)
