"""Patched activations and ablations: whole, without effect, and against a loop."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.inspect.causal import ablate, mean_over_batch, patch_path, recover_shares, subtract_logits
from models.inspect.intermediates import capture, patch
from tests.models.inspect.small import BATCH, MODEL, OTHER, PARAMS, score


def test_shares_are_those_of_each_value_alone() -> None:
    @jax.jit
    def program(params: Any) -> Any:
        values = capture(MODEL, params, BATCH, "stack.0.mixer")
        outputs = [MODEL.apply({"params": params}, batch) for batch in (BATCH, OTHER)]
        outputs.append(patch(MODEL, params, OTHER, values))
        shares = recover_shares(MODEL, params, BATCH, OTHER, score, ["embed", "stack.*.mixer", "stack"])
        return shares, [score(each) for each in outputs]

    shares, (high, low, patched) = program(PARAMS)
    assert set(shares) == {"embed", "stack", "stack.0.mixer", "stack.1.mixer"}
    for path in ("embed", "stack"):
        np.testing.assert_allclose(shares[path], 1, atol=1e-3)
    np.testing.assert_allclose(shares["stack.0.mixer"], (patched - low) / (high - low), atol=1e-3)


@pytest.mark.slow
def test_an_axis_is_patched_index_by_index() -> None:
    same = {"tokens": BATCH["tokens"].at[:, 2].set(OTHER["tokens"][:, 2])}
    shares = recover_shares(MODEL, PARAMS, BATCH, same, score, ["embed", "stack"], axis=1)
    assert shares["embed"].shape == (6, 3)
    np.testing.assert_allclose(shares["embed"], np.eye(6)[2][:, None] * np.ones(3), atol=1e-3)
    np.testing.assert_allclose(shares["stack"], np.eye(6)[5][:, None] * np.ones(3), atol=1e-3)


@pytest.mark.slow
def test_ablation_takes_away_what_is_named() -> None:
    found = ablate(MODEL, PARAMS, BATCH, score, ["**.weigh"], axis=1)
    plain = score(MODEL.apply({"params": PARAMS}, BATCH))
    for layer in range(2):
        for head in range(2):
            without = patch(
                MODEL, PARAMS, BATCH, {f"stack.{layer}.mixer.weigh": lambda w, head=head: w.at[:, head].set(0)}
            )
            np.testing.assert_allclose(found[f"stack.{layer}.mixer.weigh"][head], plain - score(without), atol=1e-5)
    means = ablate(MODEL, PARAMS, BATCH, score, ["stack.1.mixer"], by=mean_over_batch)["stack.1.mixer"]
    y = capture(MODEL, PARAMS, BATCH, "stack.1.mixer")["stack.1.mixer"]
    without = patch(MODEL, PARAMS, BATCH, {"stack.1.mixer": jnp.broadcast_to(y.mean(0), y.shape)})
    np.testing.assert_allclose(means, plain - score(without), atol=1e-5)


@pytest.mark.slow
def test_a_path_is_direct_if_all_branches_are_frozen_and_whole_if_none_is() -> None:
    branches, sender = ["stack.*.mixer", "stack.*.feedforward"], "stack.0.mixer"

    @jax.jit
    def program(params: Any) -> Any:
        values, new = (capture(MODEL, params, each, "stack.0.mixer", "stack.0", "stack.1") for each in (BATCH, OTHER))
        change = new[sender] - values[sender]
        send = {sender: new[sender]}
        none = patch_path(MODEL, params, BATCH, send, ["embed"], branches)
        direct = patch_path(MODEL, params, BATCH, send, ["stack.1"], branches)
        block = patch_path(MODEL, params, BATCH, send, ["stack.1.mixer"], branches)
        whole = patch_path(MODEL, params, BATCH, send, ["stack"], ["embed"])
        received = capture(MODEL, params, BATCH, "stack.1.mixer", changes={"stack.0": values["stack.0"] + change})
        return (none, direct, block, whole), (
            MODEL.apply({"params": params}, BATCH),
            patch(MODEL, params, BATCH, {"stack.1": values["stack.1"] + change}),
            patch(MODEL, params, BATCH, received),
            patch(MODEL, params, BATCH, send),
        )

    ours, theirs = program(PARAMS)
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)
    assert min(np.abs(left - right).max() for left, right in itertools.combinations(ours, 2)) > 1e-2


def test_the_difference_of_logits_is_that_of_each_row() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 3, 5))
    metric = subtract_logits(np.array([0, 2]), np.array([1, 4]), np.array([3, 0]))
    expected = [logits[0, 0, 1] - logits[0, 0, 3], logits[1, 2, 4] - logits[1, 2, 0]]
    np.testing.assert_allclose(metric(logits), expected, rtol=1e-6)
