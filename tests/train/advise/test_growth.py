"""Learning curves: fitted powers, what twice the size gives, and when more data is said to pay."""

import numpy as np
import pytest

from train.advise.growth import fit_curves, fit_growth

SIZES = (100, 200, 400, 800)


def test_a_curve_without_noise_is_found_at_other_sizes() -> None:
    sizes, where = np.array(SIZES, float), np.array([50.0, 1600.0])
    flat = np.full(4, 0.3)
    fitted = fit_curves(sizes, np.stack([0.1 + 3 * sizes**-0.5, flat]), where)
    assert fitted[0] == pytest.approx(0.1 + 3 * where**-0.5, rel=0.02)  # exponents are those of a grid
    assert fitted[1].tolist() == [0.3, 0.3]


def test_a_curve_that_gets_worse_is_flat_and_one_below_zero_has_no_floor() -> None:
    sizes = np.array(SIZES, float)
    worse, steep = np.array([0.1, 0.2, 0.3, 0.4]), (100 / sizes) ** 4
    fitted = fit_curves(sizes, np.stack([worse, steep]), np.array([1600.0]))
    assert fitted[0, 0] == pytest.approx(0.25)
    assert 0 < fitted[1, 0] < 0.05


@pytest.mark.parametrize("grows", [True, False], ids=["planted", "flat"])
def test_more_data_pays_if_the_curve_falls_and_the_interval_has_the_truth(grows: bool) -> None:
    draw = np.random.default_rng(0)
    chance = {size: 0.1 + 4 * size**-0.5 if grows else 0.3 for size in (*SIZES, 1600)}
    pays, covered = [], []
    for _ in range(30):
        hard = draw.random(1000)  # an example that is easy is right at most sizes
        scores = [(hard + draw.normal(0, 0.02, 1000) > chance[size]).astype(float) for size in SIZES]
        curve = fit_growth("x", "examples", SIZES, scores, greater=True)
        assert curve is not None
        pays.append(curve.pays)
        covered.append(curve.interval[0] <= 1 - chance[1600] <= curve.interval[1])
    assert np.mean(covered) >= 0.85
    assert np.mean(pays) >= 0.9 if grows else np.mean(pays) <= 0.1


def test_errors_get_smaller_and_two_sizes_are_no_curve() -> None:
    draw = np.random.default_rng(1)
    errors = [np.abs(draw.normal(0, 20 / size**0.5, 500)) for size in SIZES]
    curve = fit_growth("x", "steps", SIZES, errors, greater=False)
    assert curve is not None
    assert curve.pays
    assert curve.interval[0] < curve.twice < curve.interval[1] < curve.means[-1]
    assert fit_growth("x", "steps", (1, 2, 2), errors[:3], greater=False) is None
