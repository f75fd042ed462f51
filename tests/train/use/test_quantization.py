"""Weights in int8: the bound of the rounding, which axes share a scale, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from train.engine.folder import open_run
from train.errors import InputError
from train.use.delivery import Delivery, open_delivery, restore_int8, round_to_int8
from train.use.quantization import quantize


@pytest.fixture(scope="module")
def delivery(sound: Path) -> Delivery:
    """The classifier that is in order."""
    return open_delivery(sound / "run", open_run(sound / "run"))


@pytest.mark.parametrize("axes", [(-2,), (-1,), (0, 2)])
def test_rounding_to_int8_errs_by_half_a_scale_at_most(axes: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(0, 3, (5, 40, 7)).astype(np.float32)
    values[0] = values[:, 3] = values[..., 2] = 0.0
    values[2, 5, 4] = 1e4
    codes, scales = round_to_int8(values, axes)
    assert (codes.dtype, scales.dtype) == (np.int8, np.float32)
    assert (np.abs(values - codes * np.float64(scales)) <= 0.5000001 * scales).all()
    largest = np.abs(values).max(axes, keepdims=True)
    np.testing.assert_array_equal(np.abs(codes).max(axes, keepdims=True), np.where(largest > 0, 127, 0))
    np.testing.assert_allclose(scales, np.where(largest > 0, largest / 127, 1), rtol=1e-6)


@pytest.mark.parametrize(("axes", "extents"), [((-2,), (3, 2, 5)), ((-1,), (3, 256, 1)), ((0, 1), (1, 2, 5))])
def test_a_long_axis_has_scales_for_its_blocks(axes: tuple[int, ...], extents: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(0, 1, (3, 256, 5)).astype(np.float32)
    values[1, 7, 2] = 1e4  # felt in its block alone
    codes, scales = round_to_int8(values, axes)
    assert scales.shape == extents
    errors = np.abs(np.asarray(restore_int8(codes, scales)) - values)
    wide = np.repeat(scales, 256 // scales.shape[1], 1) if scales.shape[1] == 2 else scales
    assert (errors <= 0.5001 * wide).all()
    assert errors[:, 128:].max() < 0.03 or axes == (-1,)


def test_matrices_have_a_scale_for_each_output_and_tables_for_each_row(delivery: Delivery) -> None:
    quantized = quantize(delivery, "int8")
    shared = quantized.shared
    assert shared["stack/layer_0/mixer/query/kernel"] == shared["head/out/kernel"] == (-2,)
    assert shared["embed/token"] == (-1,)
    assert not any(path.endswith(("bias", "scale")) for path in shared)
    restored: Any = quantized.build(quantized.weights)
    weights = {f"{path}.scale" for path in shared} | set(delivery.weights)
    assert set(quantized.weights) == weights
    for (_, ours), (path, exact) in zip(
        jax.tree_util.tree_leaves_with_path(restored), delivery.weights.items(), strict=True
    ):
        room = 0.5001 * quantized.weights[f"{path}.scale"] if path in shared else 0.0
        assert (np.abs(ours - exact) <= room).all(), path


def test_what_cannot_be_quantised_is_one_sentence(delivery: Delivery) -> None:
    spoiled = dataclasses.replace(delivery, params=jax.tree.map(lambda leaf: leaf * np.nan, delivery.params))
    with pytest.raises(InputError, match=r"embed/position/table holds numbers that are not finite"):
        quantize(spoiled, "int8")
