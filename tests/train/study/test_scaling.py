"""Scaling laws: published constants, laws with known answers, crossings, and how far a fit reaches."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from train.errors import InputError
from train.study.scaling import (
    find_crossing,
    find_optimum,
    find_parabola,
    find_parabola_bias,
    find_reach,
    fit_scaling,
)

# E, A, B, alpha, beta of arXiv:2404.10102, and their standard errors
PUBLISHED = ((1.81686, 0.02566), (482.0, 124.5), (2085.4, 1293.3), (0.34781, 0.01540), (0.36585, 0.02060))


@pytest.mark.slow
def test_the_runs_of_chinchilla_give_the_published_constants() -> None:
    with (Path(os.environ["MORPHAX_DATA"]) / "chinchilla" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    sizes = np.array([float(row["Model Size"]) for row in rows])
    flops = np.array([float(row["Training FLOP"]) for row in rows])
    fitted = fit_scaling(np.stack([sizes, flops / 6 / sizes], 1), [float(row["loss"]) for row in rows], outliers=5)
    for value, interval, (published, error) in zip(fitted.values, fitted.find_intervals(), PUBLISHED, strict=True):
        assert abs(value - published) < error, "within a standard error"
        assert interval[0] < published < interval[1]
        assert 0.5 < (interval[1] - interval[0]) / (3.92 * error) < 2


def grid(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.stack(np.meshgrid(np.geomspace(1e6, 1e9, 7), np.geomspace(1e8, 1e11, 7)), -1).reshape(-1, 2)
    losses = 1.7 + 400 * sizes[:, 0] ** -0.33 + 900 * sizes[:, 1] ** -0.3
    return sizes, losses * np.exp(np.random.default_rng(seed).normal(0, noise, len(losses)))


def test_a_law_without_noise_is_recovered_exactly() -> None:
    fitted = fit_scaling(*grid(0.0))
    np.testing.assert_allclose(fitted.values, [1.7, 400, 900, 0.33, 0.3], rtol=1e-3)
    assert fitted.error < 1e-6


@pytest.mark.slow
def test_the_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    hits = np.zeros(5)
    for seed in range(20):
        fitted = fit_scaling(*grid(0.005, seed))
        ends = np.array(fitted.find_intervals())
        hits += (ends[:, 0] <= [1.7, 400, 900, 0.33, 0.3]) & (ends[:, 1] >= [1.7, 400, 900, 0.33, 0.3])
    assert (hits >= 15).all(), hits


def test_outliers_are_left_out_and_named() -> None:
    sizes, losses = grid(0.0)
    losses[[3, 17]] *= 1.2
    fitted = fit_scaling(sizes, losses, outliers=2)
    assert fitted.outliers == (3, 17)
    np.testing.assert_allclose(fitted.values, [1.7, 400, 900, 0.33, 0.3], rtol=1e-3)


def test_the_optimum_is_the_least_loss_of_equal_compute() -> None:
    fitted = fit_scaling(*grid(0.0))
    size, tokens = find_optimum(fitted, 1e18)
    assert size * tokens * 6 == pytest.approx(1e18)
    others = [fitted.predict(size * factor, tokens / factor) for factor in (0.9, 0.99, 1.01, 1.1)]
    assert fitted.predict(size, tokens) < min(others)


def test_the_bias_of_a_parabola_is_told() -> None:
    fitted = fit_scaling(*grid(0.0))
    size, _ = find_optimum(fitted, 1e18)
    near = [size * 2.0**power for power in (-0.5, -0.25, 0, 0.25, 0.5)]
    far = [size * 2.0**power for power in range(8)]
    assert find_parabola_bias(fitted, near, 1e18) == pytest.approx(1, abs=0.02)
    bias = find_parabola_bias(fitted, far, 1e18)
    losses = [fitted.predict(each, 1e18 / 6 / each) for each in far]
    assert bias == pytest.approx(find_parabola(far, losses) / size)
    assert abs(bias - 1) > 0.05


def curve(factor: float, exponent: float, noise: float = 0.002, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    compute = np.repeat(np.geomspace(1e12, 1e15, 6), 3)
    losses = 1.5 + factor * (compute / 1e12) ** -exponent
    return compute[:, None], losses * np.exp(np.random.default_rng(seed).normal(0, noise, len(losses)))


def test_curves_that_cross_are_found_to_cross_there() -> None:
    first, second = fit_scaling(*curve(2.0, 0.15)), fit_scaling(*curve(3.0, 0.25, seed=1))
    truth = 1e12 * 1.5 ** (1 / 0.1)  # 2 c^-0.15 = 3 c^-0.25
    crossing = find_crossing(first, second)
    assert crossing is not None
    compute, low, high, share = crossing
    assert low < truth < high
    assert compute == pytest.approx(truth, rel=0.3)
    assert share > 0.95
    assert find_crossing(first, fit_scaling(*curve(3.0, 0.15, seed=2))) is None


def test_a_fit_reaches_further_the_less_noise_there_is_and_never_beyond_the_span_of_its_data() -> None:
    reaches = [find_reach(fit_scaling(*curve(2.0, 0.2, noise))) for noise in (0.0001, 0.05)]
    assert 0.999e15 < reaches[1] < reaches[0] <= 1e18 * 1.0001


def test_too_few_sizes_and_losses_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="2 sizes are too few for a law of 3 parameters; give 3 sizes or more"):
        fit_scaling([[1.0], [2.0], [2.0]], [3.0, 2.0, 2.1])
    with pytest.raises(InputError, match="losses above 0, and the smallest is -1"):
        fit_scaling([[1.0], [2.0], [3.0]], [3.0, 2.0, -1.0])
    with pytest.raises(InputError, match="sizes above 0 and finite losses"):
        fit_scaling([[0.0], [2.0], [3.0]], [3.0, 2.0, 1.0])
