"""Simple baselines of objectives: the best constant, from the training part, measured as the objective measures."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from train.baselines import Baseline, HasConstant, find_majority
from train.engine.constant import FILE, read_constant, write_constant
from train.errors import InputError
from train.objectives import Classification, MaskedLM, MeanSquaredError, NextToken, NextTokens, Quantiles, Translation
from train.sums import compute_means

Batch = dict[str, np.ndarray]


def draw_values() -> Iterator[Batch]:
    """Two batches of values (4, 3, 2), the last example of each of weight 0 and without numbers."""
    for seed in range(2):
        values = np.random.default_rng(seed).normal(3, 1, (4, 3, 2)).astype(np.float32)
        values[3] = np.nan
        yield {"values": values, "weights": np.array([[1.0] * 3] * 3 + [[0.0] * 3], np.float32)}


def test_the_mean_of_the_targets_is_the_constant_of_least_squares() -> None:
    objective = MeanSquaredError()
    whole = np.concatenate([batch["values"][:3].reshape(-1, 2) for batch in draw_values()])
    constant = objective.fit_constant(draw_values())
    np.testing.assert_allclose(constant, whole.mean(0), rtol=1e-6)
    (first, _) = draw_values()
    measured = compute_means(objective.measure_constant(constant, first))
    error = first["values"][:3].reshape(-1, 2) - constant
    assert measured["mean_squared_error"] == pytest.approx(float(np.mean(error**2)), rel=1e-5)
    assert measured["mean_absolute_error"] == pytest.approx(float(np.mean(np.abs(error))), rel=1e-5)
    assert measured["loss"] == pytest.approx(measured["mean_squared_error"] / 2)


def test_the_quantiles_of_the_values_are_the_constant_of_forecasts() -> None:
    objective = Quantiles((0.25, 0.5, 0.75))
    batches = [{"values": np.arange(24.0).reshape(4, 3, 2), "weights": np.array([1, 1, 1, 0.0])}]
    constant = objective.fit_constant(batches)
    np.testing.assert_allclose(constant, np.quantile(np.arange(18.0), (0.25, 0.5, 0.75)))
    measured = compute_means(objective.measure_constant(constant, batches[0]))
    assert measured["mean_absolute_error"] == pytest.approx(np.abs(np.arange(18.0) - 8.5).mean())


def test_the_majority_of_the_labels_is_the_constant_of_classification() -> None:
    labels = np.array([2, 2, 1, 0, 2, 0, 0, 0])
    weights = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    constant = Classification().fit_constant([{"labels": labels, "weights": weights}])
    assert constant.tolist() == [2]
    for objective, fitted in (
        (Classification(), constant),
        (MaskedLM(), MaskedLM().fit_constant([{"labels": labels, "weights": weights}])),
    ):
        assert compute_means(objective.measure_constant(fitted, {"labels": labels}))["accuracy"] == 3 / 8
    assert find_majority([np.array([0, 5]), np.array([[1, 1]])]).tolist() == [1]


def test_the_frequencies_of_tokens_are_the_constant_of_language() -> None:
    batch = {"tokens": np.array([[7, 3, 3, 1, 9, 9]]), "segments": np.array([[1, 1, 1, 1, 2, 0]])}
    other = {"tokens": np.array([[0, 3, 3, 1, 2, 8]])}  # five follow another; 8 is larger than all of the first batch
    for objective, loss in ((NextToken(), "loss"), (NextTokens(), "next_token_loss"), (Translation(), "token_loss")):
        constant = objective.fit_constant([batch])  # 3, 3 and 1; 9 opens a segment, then pads
        np.testing.assert_allclose(np.exp(constant), np.array([1, 2, 1, 3, 1]) / 8)
        measured = compute_means(objective.measure_constant(constant, other))
        nats = -np.log(np.array([3, 3, 2, 1, 1]) / 8).mean()
        assert measured == {loss: pytest.approx(nats), "accuracy": pytest.approx(2 / 5)}


def test_the_loss_of_the_frequencies_is_the_entropy_of_their_text() -> None:
    tokens = np.random.default_rng(0).choice(5, size=(64, 257), p=[0.4, 0.3, 0.15, 0.1, 0.05])
    constant = NextToken().fit_constant([{"tokens": tokens[:32]}, {"tokens": tokens[32:]}])
    measured = compute_means(NextToken().measure_constant(constant, {"tokens": tokens}))
    counts = np.bincount(tokens[:, 1:].reshape(-1)) / tokens[:, 1:].size
    assert measured["loss"] == pytest.approx(-(counts * np.log(counts)).sum(), rel=1e-4)


@dataclasses.dataclass(frozen=True)
class Other:
    """An objective without a constant."""


def test_an_objective_without_a_constant_has_no_baseline() -> None:
    assert isinstance(MeanSquaredError(), HasConstant)
    assert not isinstance(Other(), HasConstant)
    assert Baseline("training mean", 1.0).is_better(2.0)


def test_a_constant_is_read_back_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    assert read_constant(tmp_path) is None
    write_constant(tmp_path, np.array([1.0, -2.0]))
    assert np.array_equal(np.asarray(read_constant(tmp_path)), [1.0, -2.0])
    (tmp_path / FILE).write_bytes(b"\x93NUMPY and no more")
    with pytest.raises(InputError, match="constant.npy is damaged .*; remove it, and the baseline is left out"):
        read_constant(tmp_path)
