"""Costs of decoding, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from models import MLP, Attention, Block, LogitsHead, Stack, TokenEmbed, Transformer
from train.cost.decoding import measure_decoding

VOCAB, WIDTH, LENGTH, DEPTH = 32, 16, 12, 2


def build(causal: bool) -> tuple[Transformer, dict[str, jax.ShapeDtypeStruct], object]:
    stack = Stack(Block(Attention(2, causal=causal), MLP(2.0)), DEPTH)
    model = Transformer(TokenEmbed(VOCAB, WIDTH), stack, LogitsHead())
    batch = {name: jax.ShapeDtypeStruct((4, LENGTH), jnp.int32) for name in ("tokens", "segments", "positions")}
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), {"tokens": jnp.zeros((1, 2), int)}))["params"]
    return model, batch, params


def test_attention_keeps_keys_and_values_and_a_token_costs_its_products() -> None:
    model, batch, params = build(causal=True)
    kept, work = measure_decoding(model, params, batch, LENGTH)
    assert kept == DEPTH * LENGTH * (2 * WIDTH * 4 + 4 + 4)  # and each token's place and segment
    layer = 4 * WIDTH * WIDTH + 2 * LENGTH * WIDTH + 2 * WIDTH * 2 * WIDTH
    assert work == 2 * (DEPTH * layer + WIDTH * VOCAB)


def test_a_model_that_sees_later_tokens_has_no_state() -> None:
    model, batch, params = build(causal=False)
    with pytest.raises(ValueError, match="decode"):
        measure_decoding(model, params, batch, LENGTH)
    with pytest.raises(ValueError, match="no tokens"):
        measure_decoding(model, params, {}, LENGTH)
