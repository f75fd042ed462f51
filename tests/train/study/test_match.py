"""Budgets are equal within 1 %, or a sentence says what came nearest."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from models.structure import part
from tests.places import CONFIGS
from train.cost.traced import count_parameters
from train.cost.value import Cost
from train.engine.prepared import Prepared
from train.errors import InputError
from train.study import match as matching
from train.study.compare import Entry, Result, enter
from train.study.costs import load_cost, prepare_config, read_whole_cost
from train.study.match import UnmatchedError, match, match_time
from train.study.pilot import Ratio, compare_times, time_steps
from train.study.words import make_columns, make_rows, record
from train.variants import BASELINE, Budget, Study

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
EXPAND, REPEATS = "model.stack.block.feedforward.expand", "model.stack.repeats"


@pytest.fixture(autouse=True)
def _inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)


def count_by(cost: Callable[[int], Cost]) -> Callable[[str, Sequence[str]], Cost]:
    """Costs by the last override's whole number, 1 if there is none."""

    def count(config: str, overrides: Sequence[str]) -> Cost:
        del config
        return cost(int(overrides[-1].partition("=")[2]) if overrides else 1)

    return count


def test_whole_numbers_are_solved_and_the_two_next_to_the_budget_are_named() -> None:
    count = count_by(lambda depth: Cost(1000 + 100 * depth, 10 * depth, state=64 * depth))
    cases: tuple[tuple[Budget, Cost], ...] = (
        ("parameters", Cost(1700, 0)),
        ("flops", Cost(0, 70)),
        ("state", Cost(0, 0, state=7 * 64)),
    )
    for budget, target in cases:
        found = match(LANGUAGE_MODEL, [], [REPEATS], budget, target, 16, count)
        assert (found.overrides, found.ratio) == ((f"{REPEATS}=7",), 1)
    with pytest.raises(UnmatchedError, match=r"repeats=7 it has 0\.977 .*repeats=8 it has 1\.034 times as many"):
        match(LANGUAGE_MODEL, [], [REPEATS], "parameters", Cost(1740, 0), 16, count)


def test_what_cannot_be_free_or_matched_is_said_in_a_sentence() -> None:
    count = count_by(lambda depth: Cost(1000 + 100 * depth, 10 * depth))
    for free, said in (
        ("model.stack.block.mixer.kv_heads", "is None and no number above 0"),
        ("model.stack.block.mixer.causal", "is True and no number"),
        ("model.stack.nothing", "Stack has no field 'nothing'"),
    ):
        with pytest.raises(InputError, match=said):
            match(LANGUAGE_MODEL, [], [free], "parameters", Cost(1750, 0), 16, count)
    with pytest.raises(InputError, match="baseline has no bytes of a decoder's state"):
        match(LANGUAGE_MODEL, [], [], "state", Cost(1, 1), 16, count)
    with pytest.raises(UnmatchedError, match="has no bytes of a decoder's state"):
        match(LANGUAGE_MODEL, [], [], "state", Cost(1, 1, state=5), 16, count)


@pytest.mark.slow
def test_a_variant_with_twice_the_parameters_is_shrunk_or_refused() -> None:
    target = load_cost(LANGUAGE_MODEL, [])
    for budget in ("parameters", "flops"):
        wide = [f"{EXPAND}=20"]
        assert load_cost(LANGUAGE_MODEL, wide).parameters > 1.9 * target.parameters
        found = match(LANGUAGE_MODEL, wide, [], budget, target, 16)
        assert found.overrides
        assert abs(found.ratio - 1) <= 0.01
        assert load_cost(LANGUAGE_MODEL, [*wide, *found.overrides]) == found.cost
    with pytest.raises(UnmatchedError, match="cannot have the parameters"):
        match(LANGUAGE_MODEL, ["model.embed.width=64"], [], "parameters", target, 64)


@pytest.mark.slow
def test_a_state_is_matched_by_the_first_number_of_a_mixer_that_moves_it() -> None:
    recurrent = "model.stack.block.mixer=GatedDeltaNet(heads=2)"
    target = load_cost(LANGUAGE_MODEL, [recurrent.replace("heads=2", "heads=6")], budget="state")
    found = match(LANGUAGE_MODEL, [recurrent], [], "state", target, 16)
    assert found.overrides == ("model.stack.block.mixer.heads=6",)
    assert found.cost.state == target.state


@pytest.mark.slow
def test_a_time_is_matched_by_what_is_measured_and_its_spread_is_the_tolerance() -> None:
    baseline = prepare_config(LANGUAGE_MODEL, [])

    def measure(spread: float) -> Callable[[Prepared, Prepared], Ratio]:
        def ratio(variant: Prepared, other: Prepared) -> Ratio:
            assert other is baseline
            return Ratio(0.6 + 0.2 * float(part(variant.experiment, EXPAND)), spread)

        return ratio

    found = match_time(LANGUAGE_MODEL, [f"{EXPAND}=8"], [], baseline, 16, measure=measure(0.0))
    assert found.overrides == (f"{EXPAND}=32/16",)
    assert found.ratio == pytest.approx(1)
    near = match_time(LANGUAGE_MODEL, [f"{EXPAND}=2.25"], [], baseline, 16, measure=measure(0.06))
    assert (near.overrides, near.spread) == ((), 0.06)
    with pytest.raises(UnmatchedError, match=r"cannot have the step time .* give or take 0\.000"):
        match_time(LANGUAGE_MODEL, [REPEATS + "=2"], [REPEATS], baseline, 16, measure=lambda *_: Ratio(2.0, 0.0))


@pytest.mark.slow
def test_a_structure_takes_the_time_of_itself() -> None:
    prepared = prepare_config(LANGUAGE_MODEL, [])
    own, other = time_steps([prepared, prepared], 5)
    assert len(own) == len(other) == 5
    ratio = compare_times(own, other)
    assert ratio.spread >= 0
    assert 0.2 < ratio.value < 5


def test_the_ratio_of_times_is_the_median_over_rounds() -> None:
    assert compare_times([2, 4, 6, 8, 90], [1, 2, 3, 4, 5]) == Ratio(2.0, 0.0)


def test_experts_have_fewer_active_parameters_than_others_and_what_does_not_apply_is_none() -> None:
    experts = "model.stack.block.feedforward=Experts(4, 1)"
    cost = read_whole_cost(prepare_config(LANGUAGE_MODEL, [experts]))
    assert cost.active is not None
    assert cost.forward is not None
    hidden = round(4 / 3 * 16)
    assert cost.parameters - cost.active == 3 * 3 * 16 * hidden
    assert cost.embedding == 256 * 16
    assert (cost.length, cost.state) == (16, 16 * (2 * 16 * 4 + 8))
    assert cost.forward < cost.flops


def test_the_table_has_active_parameters_and_state_where_they_tell_something() -> None:
    plain = Result(Entry(BASELINE, (), cost=Cost(10, 100, active=10)), None)
    experts = Result(Entry("experts", (), cost=Cost(30, 110, active=15, state=8)), None)
    assert make_columns([plain])[1:4] == ("parameters", "FLOPs", "time")
    assert make_columns([plain, experts])[1:5] == ("parameters", "active", "FLOPs", "state")
    assert [row[1:5] for row in make_rows([plain, experts])] == [
        ("1.000", "1.000", "1.000", ""),
        ("3.000", "1.500", "1.100", ""),
    ]
    assert record(experts)["costs"] == experts.entry.cost.record()


@pytest.mark.slow
def test_a_study_matches_the_measured_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def measure(variant: Prepared, baseline: Prepared) -> Ratio:
        said.append("timed")
        return Ratio(count_parameters(variant.shapes) / count_parameters(baseline.shapes), 0.0)

    monkeypatch.setattr(matching, "_compare", measure)
    study = Study(LANGUAGE_MODEL, variants={"wide": (f"{EXPAND}=8",)}, budget="time")
    baseline, wide = enter(study)
    assert said
    assert wide.out is None
    assert abs(wide.cost.parameters / baseline.cost.parameters - 1) <= 0.01
