"""Confidence intervals: those of examples, whatever the batches, against theory, a bootstrap and a simulation."""

import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from models import ClassHead, MeanPool, Stack, TokenEmbed, Transformer
from models.depth.block import Block
from models.feedforward import MLP
from train.contracts import Parallel
from train.data.batches import Pack, Pad
from train.engine.step import make_evaluation
from train.objectives import Classification
from train.parallel import Jit, Mesh, Pmap
from train.sums import Moments, compute_interval, compute_moments, sum_by_example, sum_weighted, wilson_half_width

MODEL = Transformer(TokenEmbed(32, 8), Stack(Block(MLP(1.0), None), 1), ClassHead(2, MeanPool()))


def measured(values: Any, weights: Any, sizes: Sequence[int]) -> tuple[float, float]:
    """The interval of values and weights (n, ...) that come in batches of these sizes."""
    values, weights = np.asarray(values, np.float32), np.broadcast_to(np.float32(weights), np.shape(values))
    cuts = np.cumsum(sizes)[:-1]
    batches = zip(np.split(values, cuts), np.split(weights, cuts), strict=True)
    return compute_interval(jax.device_get([counted(*batch) for batch in batches]))


@jax.jit
def counted(values: jax.Array, weights: jax.Array) -> Moments:
    """The moments of one batch."""
    total = sum_weighted(values, weights)
    return compute_moments(total, total.each, {})


def test_the_interval_of_equal_weights_is_student_s_of_a_mean() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    expected = stats.t.interval(0.95, 3, values.mean(), values.std(ddof=1) / 2)
    middle, half = measured(values, 1.0, [1, 3])
    assert (middle - half, middle + half) == pytest.approx(expected, rel=1e-6)


def test_the_interval_of_a_ratio_is_exact_for_a_case_by_hand() -> None:
    # Values 3 of weight 1 and 5/3 of weight 3: R = 8 / 4, residuals 1 and -1, so that the variance is 2 * 2 / 16.
    expected = pytest.approx((2.0, stats.t.ppf(0.975, 1) * 0.5), rel=1e-5)
    assert measured([3, 5 / 3], [1, 3], [2]) == expected
    assert measured([3, 5 / 3], [1, 3], [1, 1]) == expected
    assert measured([3, 7, 5 / 3], [1, 0, 3], [1, 1, 1]) == expected  # what weighs nothing is no example


def test_without_weight_there_is_no_number_and_with_one_example_no_interval() -> None:
    assert measured([3.0], [2.0], [1]) == (3.0, math.inf)
    middle, half = measured([3.0], [0.0], [1])
    assert math.isnan(middle)
    assert half == math.inf
    total = sum_weighted(jnp.ones(4), None)
    # a sum that does not tell its examples apart
    assert compute_interval([compute_moments(total, None, {})]) == (1.0, math.inf)


@pytest.mark.parametrize("size", [1, 7, 64, 2000])
@pytest.mark.parametrize("order", ["folders", "shuffled"])
def test_accuracy_on_two_thousand_pictures_is_as_sure_as_the_binomial_distribution_says(size: int, order: str) -> None:
    right = np.arange(2000) < 1100  # folder by folder: of one class all are right, of the other none
    right = np.random.default_rng(0).permutation(right) if order == "shuffled" else right
    middle, half = measured(right, 1.0, [size] * (2000 // size) + ([2000 % size] if 2000 % size else []))
    assert middle == pytest.approx(0.55)
    assert half == pytest.approx(1.96 * math.sqrt(0.55 * 0.45 / 2000), rel=0.01)  # 0.0218


@pytest.mark.parametrize(("right", "count"), [(20, 20), (0, 20), (19, 20), (3, 20), (1, 1), (1100, 2000)])
def test_a_share_has_the_farther_end_of_wilson_s_interval(right: int, count: int) -> None:
    middle, half = measured(np.arange(count) < right, 1.0, [count])
    low, high = stats.binomtest(right, count).proportion_ci(0.95, "wilson")
    assert half == pytest.approx(max(high - middle, middle - low), rel=1e-5)
    assert half > 0


def documents(draw: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens' losses (n, 40) of documents of unequal length, which have a difficulty each, longer ones a greater one;
    and weights.
    """
    lengths = draw.integers(4, 41, count)
    weights = (np.arange(40) < lengths[:, None]).astype(np.float32)
    return draw.gamma(2.0, 0.5, (count, 40)) + draw.normal(2.0, 0.5, (count, 1)) + lengths[:, None] / 40, weights


def test_the_interval_is_that_of_a_bootstrap_over_documents() -> None:
    values, weights = documents(np.random.default_rng(1), 300)
    total, weight = (values * weights).sum(-1), weights.sum(-1)
    drawn = np.random.default_rng(2).integers(0, 300, (4000, 300))
    ratios = total[drawn].sum(-1) / weight[drawn].sum(-1)
    middle, half = measured(values, weights, [100, 200])
    assert middle == pytest.approx(total.sum() / weight.sum(), rel=1e-5)
    assert half == pytest.approx(1.96 * ratios.std(), rel=0.05)
    tokens = 1.96 * np.sqrt((weights * (values - middle) ** 2).sum()) / weights.sum()
    assert half > 1.5 * tokens  # tokens of one document are alike: as examples they would seem surer than they are


@pytest.mark.parametrize("count", [20, 60])
def test_the_interval_covers_the_truth_in_95_of_100_studies(count: int) -> None:
    draw = np.random.default_rng(3)
    many, heavy = documents(draw, 200_000)
    truth = (many * heavy).sum() / heavy.sum()
    covered = 0
    for _ in range(1500):
        values, weights = documents(draw, count)
        sums, own = (values * weights).sum(-1), weights.sum(-1)
        ratio = sums.sum() / own.sum()
        rest = sums - ratio * own
        part = (
            sums.sum(),
            own.sum(),
            count,
            (rest**2).sum(),
            (rest * own).sum(),
            (own**2).sum(),
            np.abs(sums * (own - sums)).sum(),
        )
        middle, half = compute_interval([Moments(*cast(Any, part))])
        covered += abs(middle - truth) <= half
    assert 0.93 <= covered / 1500 <= 0.97


@pytest.mark.parametrize(("count", "share"), [(20, 0.5), (20, 0.9), (156, 0.97), (2000, 0.55)])
def test_the_interval_of_a_share_covers_the_truth_in_95_of_100_studies(count: int, share: float) -> None:
    right = np.arange(count + 1)
    halves = np.array([wilson_half_width(number / count, count) for number in right])
    covered = stats.binom.pmf(right, count, share)[np.abs(right / count - share) <= halves].sum()
    assert covered >= 0.94
    if count == 2000:
        assert covered <= 0.96


def rows(count: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(5)
    return [
        {"tokens": draw.integers(1, 32, draw.integers(2, 9)), "label": int(number >= count // 2)}
        for number in range(count)
    ]


def test_batches_order_packing_and_devices_do_not_change_an_evaluation() -> None:
    members = rows(48)  # class by class
    params = MODEL.init(jax.random.key(0), Pad([8], 8, 8)(members[:8]))["params"]
    params = jax.tree.map(lambda leaf: np.random.default_rng(1).normal(0, 1, leaf.shape).astype(np.float32), params)
    shuffled = [members[place] for place in np.random.default_rng(0).permutation(48)]
    ways: list[tuple[Parallel, list[Any]]] = [
        (Jit(), [Pad([8], 48, 1)(members)]),
        (Jit(), [Pad([8], 7, 1)(shuffled[start : start + 7]) for start in range(0, 48, 7)]),
        (Jit(), [Pack(16, 4, 24, 1)(members[start : start + 24]) for start in (0, 24)]),
        (Pmap(), [Pad([8], 16, 8)(members[start : start + 16]) for start in (0, 16, 32)]),
        (Mesh(data=4, fsdp=2), [Pack(16, 4, 16, 8)(shuffled)]),
    ]
    found = []
    for parallel, batches in ways:
        evaluation = parallel.compile_evaluation(make_evaluation(MODEL, Classification()))
        placed = parallel.spread(params)
        parts = [jax.device_get(evaluation(placed, parallel.put(batch))) for batch in batches]
        found.append({name: compute_interval([part[name] for part in parts]) for name in parts[0]})
        assert sum(part["loss"].number for part in parts) == 48
    for one in found[1:]:
        for name, both in one.items():
            assert both == pytest.approx(found[0][name], rel=1e-5)


def test_entries_of_tokens_are_added_up_within_their_segments() -> None:
    segments = jnp.array([[1, 1, 2, 0], [1, 2, 2, 2]])
    entries = jnp.array([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_array_equal(sum_by_example(entries, {"segments": segments}), [[8, 3, 4, 0, 0], [0, 1, 9, 0, 0]])
    starts = {"segments": segments, "starts": jnp.array([[0, 2], [0, 1]])}
    np.testing.assert_array_equal(
        sum_by_example(jnp.array([[1.0, 2.0], [3.0, 4.0]]), starts), [[0, 1, 2, 0, 0], [0, 3, 4, 0, 0]]
    )
    np.testing.assert_array_equal(sum_by_example(entries, {}), [[15], [10]])
