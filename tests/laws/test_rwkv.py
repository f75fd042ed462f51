"""RWKV-7's values of the first layer and its channel mixing are the paper's formulas, alone and in stacks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import RWKV7, Block, Context, PreNorm, RMSNorm, RWKVChannelMix, Stack
from models.laws.decoding import law_decoding_is_one_pass
from models.laws.depth import law_scan_equals_loop
from models.laws.layer import law_segments_do_not_mix
from models.recurrence.rwkv import FIRST
from tests.laws.components import WIDTH, normal, parameters

HEADS, TOKENS = 2, 11
LAYER = RWKV7(HEADS, rank=4, gate_rank=4, value_residual=True, value_rank=3)
BLOCK = Block(LAYER, RWKVChannelMix(2.0), PreNorm(RMSNorm()))
X = normal(7, TOKENS, WIDTH)


def later(first: jax.Array) -> tuple[Any, Any]:
    """The context of a layer after the first, and such a layer's parameters as they start."""
    ctx = Context(shared={FIRST: first[None]}, layer=2, depth=5)
    return ctx, jax.jit(lambda: LAYER.init(jax.random.key(0), X[None], ctx)["params"])()


def test_the_first_layer_gives_its_values() -> None:
    params = parameters(LAYER)
    y, given = jax.jit(lambda: LAYER.apply({"params": params}, X[None], Context()))()
    past = np.vstack([np.zeros(WIDTH), X[:-1]])
    read = np.asarray(X) + (past - np.asarray(X)) * np.asarray(params["value_share"])
    np.testing.assert_allclose(given[FIRST][0], read @ np.asarray(params["value"]["kernel"]), atol=1e-5)
    plain = RWKV7(HEADS, rank=4, gate_rank=4)
    np.testing.assert_allclose(jax.jit(lambda: plain.apply({"params": params}, X[None], Context()))(), y, atol=1e-6)


def test_first_values_of_the_share_are_those_of_the_source() -> None:
    _, start = later(normal(8, TOKENS, WIDTH))
    np.testing.assert_allclose(start["first_bias"], 0.73 - 0.4 * (np.arange(WIDTH) / (WIDTH - 1) - 0.5), atol=1e-6)
    assert not start["first_down"]["kernel"].any()
    up = np.asarray(start["first_up"]["kernel"])
    np.testing.assert_allclose(up @ up.T, 0.01 * np.eye(3), atol=1e-6)
    for d, rank in ((768, 32), (2048, 64), (2560, 64)):  # of the models that were released
        layer, x = RWKV7(d // 64, value_residual=True), jnp.zeros((1, 2, d))
        ctx = Context(shared={FIRST: x})
        shapes = jax.eval_shape(layer.init, jax.random.key(0), x, ctx)["params"]
        assert shapes["first_down"]["kernel"].shape == (d, rank)


def test_channel_mixing_is_its_formula() -> None:
    layer = RWKVChannelMix(2.0)
    params = parameters(layer)
    p: Any = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = np.asarray(X, np.float64)
    read = x + (np.vstack([np.zeros(WIDTH), x[:-1]]) - x) * p["share"]
    expected = np.maximum(read @ p["key"]["kernel"], 0) ** 2 @ p["value"]["kernel"]
    found = jax.jit(lambda: layer.apply({"params": params}, X[None], Context()))()
    np.testing.assert_allclose(found[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_scan_after_the_first_layer_is_the_loop() -> None:
    law_scan_equals_loop(Stack(BLOCK, 2, prefix=(BLOCK,)))


def test_a_scan_of_first_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gives rwkv_values in each repeat.*Stack\.prefix"):
        jax.eval_shape(Stack(BLOCK, 2, scan=True).init, jax.random.key(0), X[None], Context())


@pytest.mark.slow
def test_a_stack_keeps_segments_apart_and_decodes() -> None:
    stack = Stack(BLOCK, 2)
    law_segments_do_not_mix(stack)
    law_decoding_is_one_pass(stack)
