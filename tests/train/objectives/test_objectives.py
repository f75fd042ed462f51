"""Objectives as sums and weights, against closed forms in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.contracts import Objective
from train.objectives import Classification, MaskedLM, MeanSquaredError, NextToken, NextTokens, Quantiles
from train.sums import Sum, Sums, add_sums, compute_means

ROWS, TIME, VOCAB = 8, 6, 5


def chance() -> np.random.Generator:
    return np.random.default_rng(0)


def case(objective: Objective) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Outputs and a batch with ragged weights: some rows hold less than others, one holds nothing."""
    draw = chance()
    outputs = draw.normal(0, 2, (ROWS, TIME, VOCAB)).astype(np.float32)
    weights = (np.arange(TIME) < draw.integers(1, TIME + 1, ROWS)[:, None]).astype(np.float32)
    weights[3] = 0.0
    batch = {
        "tokens": draw.integers(0, VOCAB, (ROWS, TIME)),
        "labels": draw.integers(0, VOCAB, (ROWS, TIME)),
        "values": draw.normal(0, 1, (ROWS, TIME, VOCAB)).astype(np.float32),
        "weights": weights,
        "segments": (weights * (1 + (np.arange(TIME) > 2))).astype(np.int32),
    }
    if isinstance(objective, NextToken):
        del batch["weights"]
    return outputs, batch


OBJECTIVES: list[Objective] = [Classification(), MeanSquaredError(), NextToken(), MaskedLM()]
every = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(chances, labels[..., None], -1)[..., 0])


@pytest.mark.represented_by("MeanSquaredError", "NextToken", "MaskedLM")
@every
def test_two_halves_added_are_the_whole_batch(objective: Objective) -> None:
    outputs, batch = case(objective)
    halves = [
        objective(jnp.asarray(outputs[part]), {name: jnp.asarray(value[part]) for name, value in batch.items()})
        for part in (slice(None, 3), slice(3, None))
    ]
    assert float(halves[0]["loss"].weight) != float(halves[1]["loss"].weight)
    whole, added = objective(jnp.asarray(outputs), jax.tree.map(jnp.asarray, batch)), add_sums(*halves)
    assert whole.keys() == added.keys()
    for name in whole:
        np.testing.assert_allclose(added[name].value, whole[name].value, rtol=1e-6)
        assert float(added[name].weight) == float(whole[name].weight)
    assert compute_means(added) == pytest.approx(compute_means(whole), rel=1e-6)


@pytest.mark.parametrize("objective", [Classification(), MaskedLM()], ids=lambda objective: type(objective).__name__)
def test_cross_entropy_and_accuracy_are_their_closed_forms(objective: Objective) -> None:
    outputs, batch = case(objective)
    found, weights = (
        objective(jnp.asarray(outputs), jax.tree.map(jnp.asarray, batch)),
        batch["weights"].astype(np.float64),
    )
    loss = negative_log_likelihood(outputs, batch["labels"])
    np.testing.assert_allclose(compute_means(found)["loss"], (loss * weights).sum() / weights.sum(), rtol=1e-6)
    correct = outputs.argmax(-1) == batch["labels"]
    np.testing.assert_allclose(compute_means(found)["accuracy"], (correct * weights).sum() / weights.sum(), rtol=1e-6)


def test_squared_error_is_half_the_mean_square_and_its_gradient_the_mean_error() -> None:
    outputs, batch = case(MeanSquaredError())
    weights = np.broadcast_to(batch["weights"][..., None], outputs.shape).astype(np.float64)
    error, count = outputs.astype(np.float64) - batch["values"], weights.sum()
    on_device = jax.tree.map(jnp.asarray, batch)
    found = compute_means(MeanSquaredError()(jnp.asarray(outputs), on_device))
    assert found["loss"] == pytest.approx((weights * error**2).sum() / (2 * count), rel=1e-6)
    assert found["mean_squared_error"] == pytest.approx((weights * error**2).sum() / count, rel=1e-6)
    assert found["mean_absolute_error"] == pytest.approx((weights * np.abs(error)).sum() / count, rel=1e-6)
    assert found["mean_squared_error"] == pytest.approx(2 * found["loss"], rel=1e-6)
    gradient = jax.grad(lambda shift: averaged(MeanSquaredError(), jnp.asarray(outputs) + shift, on_device))(0.0)
    assert float(gradient) == pytest.approx((weights * error).sum() / count, rel=1e-5)


def test_values_of_another_shape_than_the_outputs_are_not_spread_over_them() -> None:
    outputs, batch = case(MeanSquaredError())
    with pytest.raises(ValueError, match=r"shape \(6, 1\) an example.*model.head.values"):
        MeanSquaredError()(jnp.asarray(outputs), {"values": jnp.asarray(batch["values"][..., :1])})


def averaged(objective: Objective, outputs: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    loss = objective(outputs, batch)["loss"]
    return loss.value / loss.weight


def test_cross_entropy_has_the_gradient_probability_minus_one_at_the_label() -> None:
    outputs, batch = case(Classification())
    gradient = jax.grad(functools.partial(averaged, Classification()))(
        jnp.asarray(outputs), jax.tree.map(jnp.asarray, batch)
    )
    wide = outputs.astype(np.float64)
    chances = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
    expected = (chances - np.eye(VOCAB)[batch["labels"]]) * batch["weights"][..., None] / batch["weights"].sum()
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)


def test_the_next_token_is_predicted_inside_segments_only() -> None:
    outputs = chance().normal(0, 2, (2, TIME, VOCAB)).astype(np.float32)
    tokens = chance().integers(0, VOCAB, (2, TIME))
    segments = np.array([[1, 1, 1, 2, 2, 0], [1, 0, 0, 0, 0, 0]])
    counted = [(0, 0), (0, 1), (0, 3)]  # where the next token is in the same segment
    loss = negative_log_likelihood(outputs[:, :-1], tokens[:, 1:])
    found = NextToken()(jnp.asarray(outputs), {"tokens": jnp.asarray(tokens), "segments": jnp.asarray(segments)})
    assert float(found["loss"].weight) == len(counted)
    assert float(found["loss"].value) == pytest.approx(sum(loss[place] for place in counted), rel=1e-6)
    hits = sum(outputs[row, place].argmax() == tokens[row, place + 1] for row, place in counted)
    assert float(found["accuracy"].value) == hits
    alone = NextToken()(jnp.asarray(outputs), {"tokens": jnp.asarray(tokens)})
    assert float(alone["loss"].value) == pytest.approx(loss.sum(), rel=1e-6)
    assert float(alone["loss"].weight) == 2 * (TIME - 1)


def test_only_masked_tokens_count() -> None:
    outputs, batch = case(MaskedLM())
    masked = chance().random((ROWS, TIME)) < 0.3
    batch["weights"] = masked.astype(np.float32)
    first = MaskedLM()(jnp.asarray(outputs), jax.tree.map(jnp.asarray, batch))
    outputs[~masked] = chance().normal(0, 9, outputs[~masked].shape)
    batch["labels"][~masked] = 0
    second = MaskedLM()(jnp.asarray(outputs), jax.tree.map(jnp.asarray, batch))
    assert float(first["loss"].weight) == masked.sum()
    assert compute_means(first) == compute_means(second)


@every
def test_what_has_no_weight_may_be_anything_even_not_a_number(objective: Objective) -> None:
    outputs, batch = case(objective)
    idle = batch["segments"] == 0
    before = compute_means(objective(jnp.asarray(outputs), jax.tree.map(jnp.asarray, batch)))
    outputs[idle] = np.nan
    assert compute_means(objective(jnp.asarray(outputs), jax.tree.map(jnp.asarray, batch))) == before


def test_large_logits_stay_finite_and_nothing_counted_is_not_a_number() -> None:
    logits, labels = jnp.array([[1e4, -1e4], [-1e4, 1e4]]), jnp.array([0, 0])
    loss = Classification()(logits, {"labels": labels})["loss"]
    assert float(loss.value) == pytest.approx(2e4)
    assert math.isnan(compute_means(Classification()(logits, {"labels": labels, "weights": jnp.zeros(2)}))["loss"])


@every
def test_bfloat16_outputs_are_measured_in_float32(objective: Objective) -> None:
    outputs, batch = case(objective)
    rounded, on_device = jnp.asarray(outputs, jnp.bfloat16), jax.tree.map(jnp.asarray, batch)
    sums = objective(rounded, on_device)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(sums))
    assert compute_means(sums) == compute_means(objective(rounded.astype(jnp.float32), on_device))


def test_the_probabilities_of_an_answer_add_up_to_one() -> None:
    logits = np.array([2.0, -1.0, 900.0, 899.0], np.float32)
    answer = Classification().answer(logits, ("a", "b", "c", "d"))
    assert answer["label"] == "c"
    assert list(answer["probabilities"]) == ["a", "b", "c", "d"]
    assert sum(answer["probabilities"].values()) == pytest.approx(1.0, abs=1e-12)
    assert answer["probabilities"]["c"] == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-12)
    assert Classification().answer(logits, ())["label"] == "2"


def test_an_answer_offers_the_likeliest_tokens_first() -> None:
    logits = np.array([[0.0, 0.0, 0.0], [3.0, 1.0, 2.0]], np.float32)
    following = NextToken().answer(logits, ("x", "y", "z"))["next"]
    assert list(following) == ["x", "z", "y"]
    assert sum(following.values()) == pytest.approx(1.0)
    many = chance().normal(size=(2, 50)).astype(np.float32)
    places = MaskedLM().answer(many, ())["tokens"]
    assert [len(place) for place in places] == [5, 5]
    for place, row in zip(places, many, strict=True):
        assert list(place) == [str(index) for index in np.argsort(-row)[:5]]
        assert sum(place.values()) < 1.0


def test_a_value_is_answered_alone_or_as_a_list() -> None:
    assert MeanSquaredError().answer(np.array([1.5], np.float32), ()) == {"value": 1.5}
    assert MeanSquaredError().answer(np.array([1.5, -2.0], np.float32), ()) == {"value": [1.5, -2.0]}


def test_sums_are_added_name_by_name() -> None:
    one: Sums = {"loss": Sum(jnp.float32(1), jnp.float32(2)), "accuracy": Sum(jnp.float32(3), jnp.float32(4))}
    assert compute_means(add_sums(one, one)) == compute_means(one) == {"loss": 0.5, "accuracy": 0.75}


def test_scores_to_explain_are_log_odds_and_means() -> None:
    draw = chance()
    logits = draw.normal(0, 2, (TIME, VOCAB)).astype(np.float32)
    best = int(logits[-1].argmax())
    p = np.exp(logits[-1].astype(np.float64)) / np.exp(logits[-1].astype(np.float64)).sum()
    odds, names = math.log(p[best] / (1 - p[best])), tuple("abcde")
    for objective, output in (
        (Classification(), logits[-1]),
        (NextToken(), logits),
        (NextTokens(), np.stack([logits, logits[::-1]], 1)),
    ):
        pick, words = objective.pick_score(output, names)
        longer = np.concatenate([output, output[:1] + 9]) if output.ndim > 1 else output  # padding after the text
        assert float(pick(jnp.asarray(longer))) == pytest.approx(odds, rel=1e-4)
        assert words == f"log odds of {names[best]}"
    values = draw.normal(0, 1, (4, 2, 3)).astype(np.float32)  # steps, series, quantiles
    assert float(Quantiles().pick_score(values, ())[0](jnp.asarray(values.reshape(-1)))) == pytest.approx(
        values[..., 1].mean(), abs=1e-6
    )
    several = np.array([0.5, -2.0, 1.0], np.float32)
    pick, words = MeanSquaredError().pick_score(several, ())
    assert (float(pick(jnp.asarray(several))), words) == (-2, "value 2 of 3")
