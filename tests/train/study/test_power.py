"""Plans of seeds: the promised chance over simulated studies, and the words."""

import dataclasses

import numpy as np
import pytest

from train.study.power import Plan, describe_plan, find_stops, plan_seeds
from train.study.verdict import find_p_value
from train.variants import Study

STUDY = Study("tiny_lm", variants={"a": ()}, smallest=0.02, most=12)


@pytest.mark.slow
def test_a_planted_difference_of_two_percent_is_found_with_the_promised_chance_or_more() -> None:
    chance = np.random.default_rng(1)
    found: list[bool] = []
    needed: list[int] = []
    for _ in range(60):
        x = chance.normal(0.02, 0.008, 200)
        plan = plan_seeds(x[:3].tolist(), STUDY, 1)
        assert plan is not None
        seeds = plan.needed or 200
        needed.append(seeds)
        found.append(bool(find_stops(x[None, :seeds], 0.05)[0] <= seeds))
    assert np.mean(found) >= 0.8 - 2 * (0.8 * 0.2 / 60) ** 0.5
    assert np.median(needed) < 15, "a promise that is kept by asking for far too much"


def test_a_study_stops_at_the_seed_at_which_its_p_value_reaches_the_level() -> None:
    x = np.random.default_rng(2).normal(1.0, 0.6, (5, 30))
    stops = find_stops(x, 0.05)
    for row, stop in zip(x.tolist(), stops.tolist(), strict=True):
        assert find_p_value(row[:stop]) <= 0.05
        assert stop == 3 or find_p_value(row[: stop - 1]) > 0.05
    assert find_stops(np.zeros((1, 4)), 0.05).tolist() == [5]


def test_a_wider_spread_more_variants_and_a_smaller_difference_take_more_seeds() -> None:
    def count(study: Study = STUDY, scale: float = 1.0, variants: int = 1) -> Plan:
        plan = plan_seeds([0.01 * scale, -0.01 * scale, 0.002 * scale, 0.0], study, variants)
        assert plan is not None
        return plan

    base = count()
    assert base.needed is not None
    assert base.needed <= base.most
    assert base.found == base.smallest
    for other in (count(scale=1.5), count(variants=5), count(dataclasses.replace(STUDY, smallest=0.012))):
        assert other.needed is not None
        assert other.needed > base.needed
    wide, wider = count(scale=3.0), count(scale=6.0)
    assert wide.found is not None
    assert wide.found > wide.smallest
    assert wider.found == pytest.approx(2 * wide.found, rel=0.01)
    assert wider.spread == pytest.approx(2 * wide.spread)


def test_a_pilot_that_says_nothing_gives_no_plan() -> None:
    assert plan_seeds([0.1, 0.2], STUDY, 1) is None
    assert plan_seeds([0.1, 0.1, 0.1], STUDY, 1) is None
    assert plan_seeds([0.1, float("inf"), 0.1], STUDY, 1) is None


def test_the_sentence_says_what_would_be_found_and_what_would_not() -> None:
    plan = Plan(0.01, 0.02, 3, 9, 12, 0.008)
    assert describe_plan("a", plan) == (
        "a: a difference of 1% of the loss would be found within about 9 seeds (chance 80%, by the spread of 3 seeds)"
    )
    assert "within about 9 seeds, 6 seeds find one of 2.4% (" in describe_plan(
        "a", dataclasses.replace(plan, most=6, found=0.024)
    )
    assert "would take more than 200 seeds, 12 seeds find none" in describe_plan(
        "a", dataclasses.replace(plan, needed=None, found=None)
    )
