"""Groups of trials: the way that a pilot chooses, what the ledger keeps of it, and programs that do not fit."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.places import CONFIGS
from train.config import load_config
from train.cost.value import Cost
from train.study import grouped
from train.study.compare import Comparison, Entry
from train.study.grouped import Grouped, list_ways, time_step
from train.study.ledger import Ledger
from train.study.together import Together, Way
from train.study.trial import Alone, Outcome, Part, Program, Trainer, Unit
from train.variants import BASELINE, Study

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
OUT = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"
STUDY = Study("a", variants={"b": ("b=1",)}, budget="none", seeds=5)
ENTRIES = [Entry(BASELINE, (), cost=Cost(1, 1)), Entry("b", ("b=1",), cost=Cost(1, 1))]
UNITS = [
    Unit(name, "a", overrides, seed, "verdict")
    for name, overrides in (("x", ()), ("y", ("b=1",)))
    for seed in (0, 1, 2, 3)
]
NOTHING: Any = None


class Named(Together):
    """A program in name only."""

    def __init__(self, prepared: object, count: int, devices: int = 1) -> None:
        del prepared
        self.count, self.devices = count, devices


class Counting(Trainer):
    """Notes the seeds of each program; one of more seeds than `most` raises the error."""

    def __init__(self, most: int, error: str = OUT) -> None:
        self.prepared, self.alone = NOTHING, Alone(NOTHING)
        self.most, self.error, self.made = most, error, list[tuple[int, ...]]()

    def train(self, seeds: Sequence[int], part: Part, program: Program) -> list[Outcome]:
        self.made.append(tuple(seeds))
        if len(seeds) > self.most:
            raise RuntimeError(f"{self.error}\nand more")
        assert program.count == len(seeds)
        return [Outcome(2.0 + seed / 10, ((1, 3.0), (2, 2.0)), 1.0) for seed in seeds]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[Way, float]:
    """Seconds of a step by way, which pilots measure; programs are only names."""
    seconds: dict[Way, float] = {}

    def measure(trainer: Trainer, program: Program, seeds: Sequence[int]) -> float:
        devices = program.devices if isinstance(program, Named) else 1
        way = Way(devices, len(seeds))
        if way not in seconds:
            raise NotImplementedError("no rule for batches")
        return seconds[way]

    monkeypatch.setattr(grouped, "Together", Named)
    monkeypatch.setattr(grouped, "time_step", measure)
    return seconds


def make_group(trainer: Trainer, devices: int, said: list[str] | None = None) -> Grouped:
    made = Grouped((said if said is not None else []).append, lambda *_: trainer)
    made.devices = devices
    return made


def seeds_of(trainer: Counting, act: Callable[[], object]) -> list[tuple[int, ...]]:
    """Seeds of the programs that an action makes."""
    trainer.made.clear()
    act()
    return list(trainer.made)


def test_ways_are_one_after_the_other_together_and_one_a_device() -> None:
    assert list_ways(1, 4) == [Way()]
    assert list_ways(5, 1) == [Way(), Way(1, 5)]
    assert list_ways(3, 4) == [Way(), Way(1, 3), Way(3, 3)]
    assert list_ways(20, 4) == [Way(), Way(1, 8), Way(4, 4), Way(4, 20)]


def test_the_fastest_way_of_the_pilot_is_taken_and_is_a_line_of_the_ledger(
    tmp_path: Path, timed: dict[Way, float]
) -> None:
    timed |= {Way(): 1.0, Way(2, 2): 0.3, Way(2, 4): 0.5}
    trainer, said, ledger = Counting(9), list[str](), Ledger(tmp_path)
    group = make_group(trainer, 2, said)
    group.choose(ledger, UNITS)
    assert seeds_of(trainer, lambda: list(group(UNITS))) == [(0, 1), (2, 3)] * 2
    (line,) = Ledger(tmp_path).lines
    assert (line["kind"], line["devices"], line["seeds"]) == ("way", 2, 2)
    assert line["pilot"] == [
        {"devices": 1, "seeds": 1, "seconds": 1.0},
        {"devices": 1, "seeds": 4, "error": "NotImplementedError: no rule for batches"},
        {"devices": 2, "seeds": 2, "seconds": 0.3},
        {"devices": 2, "seeds": 4, "seconds": 0.5},
    ]
    assert said == ["seeds are trained one a device on 2 devices"]


def test_a_study_that_goes_on_keeps_its_way_unless_devices_are_missing(tmp_path: Path, timed: dict[Way, float]) -> None:
    timed |= {Way(): 1.0, Way(1, 4): 0.5, Way(2, 2): 0.3}
    make_group(Counting(9), 2).choose(Ledger(tmp_path), UNITS)
    timed[Way()] = 0.1
    again = make_group(Counting(9), 2)
    again.choose(Ledger(tmp_path), UNITS)
    assert again.way == Way(2, 2)
    fewer = make_group(Counting(9), 1)
    fewer.choose(Ledger(tmp_path), UNITS)
    assert fewer.way == Way()
    (tmp_path / "other").mkdir()
    again.choose(Ledger(tmp_path / "other"), UNITS)
    assert again.way == Way(), "another study has its own pilot"


def test_a_program_that_does_not_fit_is_halved_and_said_so_once(tmp_path: Path, timed: dict[Way, float]) -> None:
    timed |= {Way(): 1.0, Way(1, 4): 0.5}
    trainer, said = Counting(2), list[str]()
    group = make_group(trainer, 1, said)
    group.choose(Ledger(tmp_path), UNITS)
    pairs = list(group(UNITS[:4]))
    assert trainer.made == [(0, 1, 2, 3), (0, 1), (2, 3)]
    assert [outcome.loss for _, outcome in pairs if isinstance(outcome, Outcome)] == [2.0, 2.1, 2.2, 2.3]
    assert said[1:] == ["x: 4 seeds in one program do not fit into memory; they are trained 2 in one program"]
    again = make_group(trainer, 1)
    again.choose(Ledger(tmp_path), UNITS)
    assert seeds_of(trainer, lambda: list(again(UNITS[:4]))) == [(0, 1), (2, 3)], "not tried again"


def test_what_fails_together_for_another_reason_is_made_one_after_the_other(
    tmp_path: Path, timed: dict[Way, float]
) -> None:
    timed |= {Way(): 1.0, Way(1, 4): 0.5}
    trainer, said = Counting(1, "all input arrays must have the same shape"), list[str]()
    group = make_group(trainer, 1, said)
    group.choose(Ledger(tmp_path), UNITS)
    assert len(list(group(UNITS))) == 8
    assert [len(seeds) for seeds in trainer.made] == [4, 1, 1, 1, 1] * 2
    assert "cannot be computed (RuntimeError: all input arrays must have the same shape)" in said[1]
    broken = make_group(Counting(0, "no loss"), 1)
    broken.choose(Ledger(tmp_path), UNITS)
    assert [outcome for _, outcome in broken(UNITS[:2])] == ["RuntimeError: no loss"] * 2


def test_a_group_that_was_cut_off_is_made_again_only_in_what_is_missing(
    tmp_path: Path, timed: dict[Way, float]
) -> None:
    timed |= {Way(): 1.0, Way(1, 5): 0.5}
    trainer = Counting(9)
    Comparison(STUDY, tmp_path, ENTRIES).run(make_group(trainer, 1))
    path = tmp_path / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert trainer.made == [(0, 1, 2, 3, 4)] * 2
    path.write_text("".join(lines[:5]) + lines[5][:20])  # the study, the way, three trials and a part of one
    made = seeds_of(trainer, lambda: Comparison(STUDY, tmp_path, ENTRIES).run(make_group(trainer, 1)))
    assert sorted(made) == [(0, 1, 2, 3, 4), (3, 4)]
    assert len(set(path.read_text().splitlines())) == len(lines)


def test_a_round_adds_as_many_seeds_as_are_made_side_by_side(tmp_path: Path) -> None:
    rounds: list[int] = []
    for name in ("open", "fixed"):
        (tmp_path / name).mkdir()

    class Side:
        def count_seeds(self, structures: int) -> int:
            return 8 // structures

        def __call__(self, units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome]]:
            rounds.append(len(units))
            for unit in units:
                yield unit, Outcome(2.0 + (unit.variant == "b") * (-1) ** unit.seed, ((1, 3.0), (2, 2.0)), 1.0)

    Comparison(dataclasses.replace(STUDY, seeds=None, most=10), tmp_path / "open", ENTRIES).run(Side())
    assert rounds == [8, 8, 4]
    rounds.clear()
    Comparison(STUDY, tmp_path / "fixed", ENTRIES).run(Side())
    assert rounds == [10], "nothing is looked at before the last of a fixed number of seeds"


@pytest.mark.slow
def test_a_real_pilot_chooses_among_ways_that_give_the_losses_of_separate_runs(
    tmp_path: Path, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    units = [Unit("x", LANGUAGE_MODEL, ("steps=4", "parallel=Jit()"), seed, "verdict") for seed in (0, 1)]
    group = Grouped()
    group.devices = 2
    group.choose(Ledger(tmp_path), units)
    (line,) = Ledger(tmp_path).lines
    assert [(one["devices"], one["seeds"]) for one in line["pilot"]] == [(1, 1), (1, 2), (2, 2)]
    assert all(one["seconds"] > 0 for one in line["pilot"])
    group.way = Way(2, 2)
    trainer = Trainer(load_config(LANGUAGE_MODEL, ["steps=4", "parallel=Jit()"])[0])
    for unit, outcome in group(units):
        assert isinstance(outcome, Outcome)
        assert outcome.loss == pytest.approx(trainer.run(unit.seed, "verdict").loss, rel=1e-5)
    assert time_step(trainer, trainer.alone, [0], steps=3) > 0
