"""Laws of layers that look vectors up by the ids of tokens: against their equations, token by token in float64."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Block, Context, Decoding, Engram, LogitsHead, PerLayerEmbedding, Stack, TokenEmbed, Transformer
from models.mixers.lookup import find_primes
from tests.laws.components import VOCAB, WIDTH, normal, packed_context, parameters

X = normal(1, 2, 8, WIDTH)
TOKENS = np.random.default_rng(3).integers(0, 3, (2, 8))  # few, so that grams repeat
CONTEXT = dataclasses.replace(packed_context(), tokens=jnp.asarray(TOKENS))
SEGMENTS = np.asarray(CONTEXT.segments)


def wide(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def rms(p: Any, x: np.ndarray) -> np.ndarray:
    return p["scale"] * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def dense(p: Any, x: np.ndarray) -> np.ndarray:
    return x @ p["kernel"] + p.get("bias", 0.0)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def engram(layer: Any, p: Any) -> np.ndarray:
    sizes, odd = [11, 13, 17, 19], [int(n) * 2 + 1 for n in np.random.default_rng(0).integers(0, 2**31, 3, np.uint32)]
    values, x = np.zeros((2, 8, WIDTH)), np.asarray(X, np.float64)
    for row, t in np.ndindex(2, 8):
        rows, code = [], (int(TOKENS[row, t]) + 1) * odd[0] % 2**32
        for back in (1, 2):
            near = t >= back and SEGMENTS[row, t - back] == SEGMENTS[row, t] > 0
            code ^= (int(TOKENS[row, t - back]) + 1) * odd[back] % 2**32 if near else 0
            for head in (0, 1):
                table = 2 * (back - 1) + head
                rows.append(p["table"][sum(sizes[:table]) + code % sizes[table]])
        found = np.concatenate(rows)
        score = (rms(p["norm"], x[row, t]) * rms(p["key_norm"], dense(p["key"], found))).sum() / math.sqrt(WIDTH)
        values[row, t] = sigmoid(math.copysign(math.sqrt(abs(score)), score)) * dense(p["value"], found)
    y, normed = np.zeros_like(values), rms(p["value_norm"], values)
    for row, t in np.ndindex(2, 8):
        mixed = np.zeros(WIDTH)
        for lag in range(4):
            if t >= 3 * lag and SEGMENTS[row, t - 3 * lag] == SEGMENTS[row, t]:
                mixed += p["kernel"][lag] * normed[row, t - 3 * lag]
        y[row, t] = values[row, t] + mixed * sigmoid(mixed)
    return y


def per_layer(layer: Any, p: Any) -> np.ndarray:
    gate = dense(p["gate"], np.asarray(X, np.float64))
    gate = gate / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return rms(p["norm"], dense(p["out"], gate * math.sqrt(8) * p["table"][TOKENS]))


FORMS = [(Engram(heads=2, buckets=10, width=8), engram), (PerLayerEmbedding(3, 8), per_layer)]


def law_layer_is_its_equation(layer: Any, equation: Any) -> None:
    y = layer.apply({"params": parameters(layer)}, X, CONTEXT)
    np.testing.assert_allclose(np.asarray(y), equation(layer, wide(parameters(layer))), atol=2e-5)


@pytest.mark.parametrize(("layer", "equation"), FORMS, ids=["engram", "per layer"])
def test_a_lookup_is_its_equation_token_by_token(layer: Any, equation: Any) -> None:
    law_layer_is_its_equation(layer, equation)


@pytest.mark.slow
def test_other_buckets_and_another_order_are_another_layer() -> None:
    for wrong in (Engram(heads=2, buckets=13, width=8), Engram(order=2, heads=4, buckets=10, width=16)):
        with pytest.raises((AssertionError, IndexError, ValueError)):
            law_layer_is_its_equation(wrong, engram)


def test_primes_begin_at_the_least() -> None:
    assert find_primes(10, 4) == [11, 13, 17, 19]
    assert find_primes(11, 2) == [11, 13]
    assert find_primes(1, 3) == [2, 3, 5]


@pytest.mark.slow
def test_a_model_gives_its_layers_the_tokens_of_the_batch_in_one_pass_and_one_by_one() -> None:
    stack = Stack((Block(Engram(heads=2, buckets=11, width=8), PerLayerEmbedding(VOCAB, 8)),), 1)
    model, batch = Transformer(TokenEmbed(VOCAB, WIDTH), stack, LogitsHead()), {"tokens": jnp.array([[4, 7, 4, 7, 2]])}
    params = parameters(model)
    whole = np.asarray(model.apply({"params": params}, batch))
    other = model.apply({"params": params}, {"tokens": batch["tokens"].at[0, 1].set(3)})
    moved = np.abs(np.asarray(other) - whole).max(-1)[0]
    assert moved[0] == 0
    assert (moved[1:4] > 1e-4).all()
    cache: Any = {}
    for t in range(5):
        rows, decoding = {"tokens": batch["tokens"][:, t : t + 1]}, Decoding(t, 5, t == 0)
        y, cache = model.apply({"params": params, **cache}, rows, decoding=decoding, mutable=["cache"])
        np.testing.assert_allclose(np.asarray(y)[:, 0], whole[:, t], atol=1e-4)


@pytest.mark.parametrize("layer", [Engram(), PerLayerEmbedding()])
def test_a_stream_without_tokens_is_refused(layer: Any) -> None:
    with pytest.raises(ValueError, match=r"found no ctx\.tokens; use an embed of tokens, such as TokenEmbed"):
        jax.eval_shape(layer.init, jax.random.key(0), X, Context())
