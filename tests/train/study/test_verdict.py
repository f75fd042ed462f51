"""Verdicts: the e-value against its integral, error rates over simulated studies with a look after each seed."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from train.study.verdict import EFFECTS, count_seeds, find_interval, find_p_value, judge, log_e_value
from train.variants import ALPHA

STUDIES, SEEDS = 1000, 20


def marginal(x: np.ndarray, g: float | None) -> float:
    """The likelihood of x with the right Haar measure over sigma, and mu / sigma from N(0, g), or 0 without g."""
    log_sigma = np.linspace(-8, 8, 801)
    sigma = np.exp(log_sigma)[:, None]
    effects = np.zeros(1) if g is None else np.linspace(-9, 9, 1201) * math.sqrt(g)
    log_density = sum(scipy.stats.norm.logpdf(value / sigma - effects) - np.log(sigma) for value in x)
    over_sigma = scipy.integrate.trapezoid(np.exp(log_density), log_sigma, axis=0)
    if g is None:
        return float(over_sigma[0])
    return float(scipy.integrate.trapezoid(over_sigma * scipy.stats.norm.pdf(effects, 0, math.sqrt(g)), effects))


def test_the_e_value_is_the_ratio_of_the_marginal_likelihoods() -> None:
    x = np.array([0.4, -0.1, 0.9, 0.3])
    ratios = [marginal(x, g) / marginal(x, None) for g in EFFECTS[:2]]
    g = np.asarray(EFFECTS)
    spread, shift = np.square(x - x.mean()).sum(), len(x) * x.mean() ** 2
    closed = (1 + 4 * g) ** -0.5 * ((spread + shift) / (spread + shift / (1 + 4 * g))) ** 2
    np.testing.assert_allclose(ratios, closed[:2], rtol=1e-5)
    assert log_e_value(x.tolist()) == pytest.approx(math.log(closed.mean()), rel=1e-12)


def test_the_e_value_knows_no_unit_and_starts_at_one() -> None:
    x = [0.4, -0.1, 0.9]
    assert log_e_value(x) == pytest.approx(log_e_value([1e-6 * value for value in x]), rel=1e-9)
    assert log_e_value(x, 0.2) == pytest.approx(log_e_value([value - 0.2 for value in x]), rel=1e-9)
    assert log_e_value([3.0]) == log_e_value([0.0, 0.0, 0.0]) == log_e_value([]) == 0.0


def test_the_interval_is_what_the_e_value_does_not_refuse() -> None:
    x = np.random.default_rng(0).normal(0.3, 0.2, 8).tolist()
    low, high = find_interval(x, 0.05)
    assert low < np.mean(x) < high
    refused = [max(log_e_value(x[:n], m) for n in range(1, 9)) >= math.log(20) for m in (low - 1e-6, high + 1e-6)]
    kept = [max(log_e_value(x[:n], m) for n in range(1, 9)) < math.log(20) for m in (low + 1e-6, high - 1e-6)]
    assert all(refused)
    assert all(kept)
    assert (find_p_value(x) <= 0.05) == (not low <= 0 <= high)


def test_with_a_look_after_every_seed_at_most_five_of_a_hundred_equal_variants_are_told_apart() -> None:
    chance = np.random.default_rng(1)
    false, textbook = 0, 0
    for _ in range(STUDIES):
        x = chance.normal(0, 1, SEEDS).tolist()
        false += find_p_value(x) <= 0.05
        counts = np.arange(3, SEEDS + 1)
        deviations = [np.std(x[:n], ddof=1) for n in counts]
        looks = np.abs(np.cumsum(x)[2:] / counts) / deviations * np.sqrt(counts)
        textbook += bool((looks >= scipy.stats.t.isf(0.025, counts - 1)).any())
    assert false / STUDIES <= 0.05
    assert textbook / STUDIES > 0.15, "an ordinary t-test that is looked at after each seed"


def test_a_difference_of_four_deviations_is_found_by_five_seeds_mostly() -> None:
    chance = np.random.default_rng(2)
    found = [find_p_value(chance.normal(-4, 1, 5).tolist()) <= 0.05 for _ in range(300)]
    assert np.mean(found) > 0.8


def test_a_win_over_seven_seeds_that_vanishes_over_twenty_is_no_win() -> None:
    """The course of a public record: p = 0.0006 by a t-test at seven of the seeds, chosen after many looks."""
    chance = np.random.default_rng(3)
    wins = 0
    for _ in range(200):
        x = chance.normal(0, 1, 20)
        wins += find_p_value(x.tolist()) <= 0.05
    assert wins / 200 <= 0.05


def test_the_words_follow_the_evidence() -> None:
    chance = np.random.default_rng(4)
    better, noise = chance.normal(-0.1, 0.01, 8).tolist(), chance.normal(0, 0.01, 8).tolist()
    verdicts = judge({"a": better, "b": noise, "c": [-value for value in better]}, smallest=0.2)
    assert [verdicts[name].word for name in "abc"] == ["better", "as good", "worse"]
    assert judge({"b": noise})["b"].word == "no difference shown"
    assert verdicts["a"].low < -0.1 < verdicts["a"].high < 0
    assert not judge({"b": noise})["b"].is_decided


def test_the_interval_of_a_verdict_by_a_later_step_of_holm_ends_at_zero() -> None:
    chance = np.random.default_rng(4)
    clear = chance.normal(-0.1, 0.01, 8).tolist()
    weak = [-0.9, -0.5, -1.2, -0.6, -0.4, -1.0]
    assert ALPHA / 2 < find_p_value(weak) < ALPHA
    assert find_interval(weak, ALPHA / 2)[1] > 0
    for sign, word in ((1, "better"), (-1, "worse")):
        verdict = judge({"clear": clear, "weak": [sign * value for value in weak]})["weak"]
        assert verdict.word == word
        assert min(sign * verdict.low, sign * verdict.high) < max(sign * verdict.low, sign * verdict.high) == 0


def test_more_variants_ask_for_more_evidence() -> None:
    x = [-0.9, -0.5, -1.2, -0.6, -0.4, -1.0]
    alone, among = judge({"a": x})["a"], judge({"a": x} | {str(n): [0.3, -0.4, 0.1, 0.2, -0.3, 0.0] for n in range(9)})
    assert alone.p == among["a"].p
    assert among["a"].low < alone.low
    assert alone.word == "better"
    assert among["a"].word == "no difference shown"


def test_differences_that_are_equal_but_for_rounding_have_an_interval() -> None:
    x = [0.9 + 0.01 * seed - (0.5 + 0.01 * seed) for seed in range(4)]
    assert find_interval(x) == pytest.approx((0.4, 0.4))
    assert judge({"a": x})["a"].word == "worse"
    assert judge({"a": [0.0, 0.0, 0.0]})["a"].word == "no difference shown"


def test_the_seeds_that_would_be_needed_are_those_that_decide() -> None:
    x = [0.3, -0.1, 0.5, 0.0, 0.4]
    needed = count_seeds(x)
    assert needed is not None
    assert needed > len(x)
    assert judge({"a": x})["a"].needed == needed
    assert count_seeds([0.0, 0.0, 0.0]) is None
