"""Laws of attention's relatives: each against its definition, written out token by token in float64."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    Attention,
    Block,
    Context,
    Decoding,
    PreNorm,
    RMSNorm,
    RoPE,
    Sigmoid,
    Softmax,
    Softpick,
    Stack,
    TalkingHeads,
)
from models.attention.differential import DifferentialAttention
from models.attention.forgetting import ForgettingAttention
from models.attention.latent import LatentAttention
from models.attention.path import PaTHAttention
from models.attention.sharing import SharedAttention, ValueResidual
from models.attention.sparse import BlockRouting
from models.laws.decoding import law_decoding_is_one_pass
from models.laws.layer import law_segments_do_not_mix
from tests.laws.components import WIDTH, normal, parameters

T, H, K = 9, 4, 4
X = normal(1, 1, T, WIDTH)
WIDE = np.asarray(X[0], np.float64)
CAUSAL = np.tri(T, dtype=bool)


def applied(layer: Any, params: Any = None, x: jax.Array = X, ctx: Context | None = None) -> np.ndarray:
    y = layer.apply({"params": parameters(layer) if params is None else params}, x, Context() if ctx is None else ctx)
    return np.asarray(y[0] if isinstance(y, tuple) else y)[0]


def heads(params: Any, name: str, count: int = H) -> np.ndarray:
    """A projection of the input to heads, (h, t, k)."""
    return (WIDE @ np.asarray(params[name]["kernel"], np.float64)).reshape(T, count, -1).swapaxes(0, 1)


def softmax(scores: np.ndarray, visible: np.ndarray = CAUSAL, sink: Any = None) -> np.ndarray:
    powers = np.where(visible, np.exp(scores), 0.0)
    return powers / (
        powers.sum(-1, keepdims=True) + (0 if sink is None else np.exp(np.asarray(sink, np.float64))[:, None, None])
    )


def out(params: Any, mixed: np.ndarray) -> np.ndarray:
    return mixed.swapaxes(0, 1).reshape(T, -1) @ np.asarray(params["out"]["kernel"], np.float64)


def scores(params: Any) -> np.ndarray:
    return heads(params, "query") @ heads(params, "key").swapaxes(1, 2) / np.sqrt(K)


def shared(params: Any, name: str, count: int) -> np.ndarray:
    """Keys or values of a few heads, each of which serves as many query heads that stand side by side, (h, t, k)."""
    return np.stack([heads(params, name, count)[head * count // H] for head in range(H)])


def grouped(params: Any, visible: np.ndarray = CAUSAL, count: int = 2) -> np.ndarray:
    found = heads(params, "query") @ shared(params, "key", count).swapaxes(1, 2) / np.sqrt(K)
    return out(params, softmax(found, visible) @ shared(params, "value", count))


def grouped_window(params: Any) -> np.ndarray:
    return grouped(params, CAUSAL & (np.arange(T)[:, None] - np.arange(T) < 2))


def multi_query_chunk(params: Any) -> np.ndarray:
    chunk = np.arange(T) // 4
    return grouped(params, chunk[:, None] == chunk, 1)


def windowed(params: Any) -> np.ndarray:
    distance = np.arange(T)[:, None] - np.arange(T)
    return out(params, softmax(scores(params), CAUSAL & (distance < 2)) @ heads(params, "value"))


def both_ways(params: Any) -> np.ndarray:
    distance = np.abs(np.arange(T)[:, None] - np.arange(T))
    return out(params, softmax(scores(params), distance < 3) @ heads(params, "value"))


def chunked(params: Any) -> np.ndarray:
    chunk = np.arange(T) // 4
    return out(params, softmax(scores(params), CAUSAL & (chunk[:, None] == chunk)) @ heads(params, "value"))


def capped(params: Any) -> np.ndarray:
    bounded = 2 * np.tanh(scores(params) / 2)
    return out(params, softmax(bounded, CAUSAL, params["weigh"]["sink"]) @ heads(params, "value"))


def sigmoid(params: Any) -> np.ndarray:
    shifted = scores(params) - np.log(np.arange(1, T + 1))[:, None]
    return out(params, np.where(CAUSAL, 1 / (1 + np.exp(-shifted)), 0) @ heads(params, "value"))


def softpick(params: Any) -> np.ndarray:
    risen = np.where(CAUSAL, np.exp(scores(params)) - 1, 0)
    total = np.abs(risen).sum(-1, keepdims=True) + 1e-6 * np.exp(
        np.maximum(np.where(CAUSAL, scores(params), 0).max(-1, keepdims=True), 0)
    )
    return out(params, np.maximum(risen, 0) / total @ heads(params, "value"))


def talking(params: Any) -> np.ndarray:
    before, after = (np.asarray(params["weigh"][name], np.float64) for name in ("before", "after"))
    weights = softmax(np.einsum("lts,lj->jts", scores(params), before))
    return out(params, np.einsum("jts,ji->its", weights, after) @ heads(params, "value"))


def gated(params: Any) -> np.ndarray:
    gate = 1 / (1 + np.exp(-heads(params, "gate")))
    return out(params, gate * (softmax(scores(params)) @ heads(params, "value")))


def forgetting(params: Any) -> np.ndarray:
    kernel, bias = (np.asarray(params["forget"][name], np.float64) for name in ("kernel", "bias"))
    forget = 1 / (1 + np.exp(-(WIDE @ kernel + bias)))  # (t, h)
    decay = np.zeros((H, T, T))
    for i in range(T):
        for j in range(i):
            decay[:, i, j] = np.log(forget[j + 1 : i + 1]).sum(0)
    return out(params, softmax(scores(params) + decay) @ heads(params, "value"))


def differential(params: Any) -> np.ndarray:
    query, key, value = (heads(params, name, count) for name, count in (("query", 4), ("key", 4), ("value", 2)))
    first, second = (softmax(query[n::2] @ key[n::2].swapaxes(1, 2) / np.sqrt(4)) @ value for n in (0, 1))
    weights = [np.asarray(params[name], np.float64) for name in ("query_weight", "key_weight")]
    start = 0.8 - 0.6
    factor = np.exp(weights[0][0] @ weights[1][0]) - np.exp(weights[0][1] @ weights[1][1]) + start
    mixed = first - factor * second
    mixed = mixed / np.sqrt((mixed**2).mean(-1, keepdims=True) + 1e-5) * np.asarray(params["norm"]["scale"], np.float64)
    return out(params, mixed * (1 - start))


def rotated(x: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    angles = np.arange(T)[:, None] * 10_000.0 ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], -1)


def latent(params: Any) -> np.ndarray:
    compressed = WIDE @ np.asarray(params["compress"]["kernel"], np.float64)
    compressed = (
        compressed
        / np.sqrt((compressed**2).mean(-1, keepdims=True) + 1e-6)
        * np.asarray(params["latent_norm"]["scale"])
    )
    key, value = (
        (compressed @ np.asarray(params[name], np.float64)).reshape(T, H, -1).swapaxes(0, 1)
        for name in ("up_key", "up_value")
    )
    turned = rotated(heads(params, "query_rotary")) @ rotated(heads(params, "key_rotary", 1)).swapaxes(1, 2)
    return out(params, softmax((heads(params, "query") @ key.swapaxes(1, 2) + turned) / np.sqrt(K + 6)) @ value)


def routed(params: Any) -> np.ndarray:
    found, chosen = scores(params), np.zeros((H, T, T), bool)
    for h in range(H):
        for i in range(T):
            means = {block: found[h, i, 2 * block : 2 * block + 2].mean() for block in range(i // 2)}
            best = sorted(means, key=lambda block: -means[block])[:1] + [i // 2]
            chosen[h, i] = np.isin(np.arange(T) // 2, best)
    return out(params, softmax(found, CAUSAL & chosen) @ heads(params, "value"))


def reflected(params: Any) -> np.ndarray:
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    narrow = WIDE @ p["direction_in"]["kernel"] @ p["direction"]["kernel"]
    seen = sum(p["short"]["kernel"][lag] * np.pad(narrow, ((lag, 0), (0, 0)))[:T] for lag in range(3))
    w = (seen / (1 + np.exp(-seen))).reshape(T, H, K)
    w = w / np.sqrt((w**2).sum(-1, keepdims=True) + 1e-6)
    beta = 2 / (1 + np.exp(-(WIDE @ p["strength"]["kernel"] + p["strength"]["bias"])))
    query, key, found = heads(params, "query"), heads(params, "key"), np.zeros((H, T, T))
    for h in range(H):
        for i in range(T):
            turned = query[h, i]
            for j in reversed(range(i + 1)):
                found[h, i, j] = turned @ key[h, j] / np.sqrt(K)
                turned = turned - beta[j, h] * (turned @ w[j, h]) * w[j, h]
    return out(params, softmax(found) @ heads(params, "value"))


DEFINITIONS = [
    (Attention(4, causal=True, window=2), windowed),
    (Attention(4, window=3), both_ways),
    (Attention(4, causal=True, chunk=4), chunked),
    (Attention(4, kv_heads=2, causal=True), grouped),
    (Attention(4, kv_heads=2, causal=True, window=2), grouped_window),
    (Attention(4, kv_heads=1, chunk=4), multi_query_chunk),
    (Attention(4, causal=True, weigh=Softmax(2.0, sink=True)), capped),
    (Attention(4, causal=True, weigh=Sigmoid()), sigmoid),
    (Attention(4, causal=True, weigh=Softpick()), softpick),
    (Attention(4, causal=True, weigh=TalkingHeads()), talking),
    (Attention(4, causal=True, gate=True), gated),
    (ForgettingAttention(4), forgetting),
    (DifferentialAttention(2, causal=True), differential),
    (PaTHAttention(4, rank=5), reflected),
    (PaTHAttention(4, rank=5, chunk=4), reflected),
    (LatentAttention(4, 5, 6, causal=True), latent),
    (LatentAttention(4, 5, 6, value_width=7, causal=True), latent),
    (Attention(4, causal=True, relative=BlockRouting(2, 2)), routed),
]


def law_layer_is_its_definition(layer: Any, definition: Any) -> None:
    np.testing.assert_allclose(applied(layer), definition(parameters(layer)), atol=2e-5)


@pytest.mark.represented_by("-windowed", "-multi_query_chunk", "-latent0")
@pytest.mark.parametrize(("layer", "definition"), DEFINITIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_attention_is_its_definition_in_float64(layer: Any, definition: Any) -> None:
    law_layer_is_its_definition(layer, definition)


@pytest.mark.parametrize(
    "layer", [Attention(4, causal=True, relative=BlockRouting(2, 2)), Attention(4, causal=True, chunk=3)]
)
def test_routing_and_chunks_keep_segments_apart_and_decode(layer: Any) -> None:
    law_segments_do_not_mix(layer)
    law_decoding_is_one_pass(layer)


def pair(first: Any, second: Any, **options: Any) -> Stack:
    return Stack((Block(first, None, PreNorm(RMSNorm())), Block(second, None, PreNorm(RMSNorm()))), **options)


VALUES = pair(ValueResidual(4, causal=True), ValueResidual(4, causal=True), repeats=1)
SHARED = pair(
    SharedAttention(4, causal=True, position=RoPE()),
    SharedAttention(4, causal=True, position=RoPE(), reuse=True),
    repeats=2,
)
FROM_PREFIX = Stack(SHARED.pattern[1], repeats=2, prefix=(SHARED.pattern[0],), scan=True)
STACKS = {"values": VALUES, "shared": SHARED, "scanned": dataclasses.replace(SHARED, scan=True), "prefix": FROM_PREFIX}


@pytest.mark.represented_by("values")
@pytest.mark.parametrize("name", STACKS)
def test_stacks_that_share_are_causal_keep_segments_apart_and_decode(name: str) -> None:
    law_segments_do_not_mix(STACKS[name])
    law_decoding_is_one_pass(STACKS[name])


@pytest.mark.parametrize("tied", [False, True])
def test_a_scan_whose_first_layer_differs_from_the_others_is_refused(tied: bool) -> None:
    block = Block(ValueResidual(4, causal=True), None, PreNorm(RMSNorm()))
    with pytest.raises(ValueError, match=r"gives values in each repeat.*put the block that gives it in Stack\.prefix"):
        Stack(block, 2, tied=tied, scan=not tied).init(jax.random.key(0), X, Context())
    params = Stack(block, 2, prefix=(block,), tied=tied, scan=not tied).init(jax.random.key(0), X, Context())["params"]
    assert "own" not in params["first_0"]["mixer"]


def test_a_value_residual_adds_the_values_of_the_first_layer() -> None:
    params = parameters(VALUES)
    second = params["layer_1"]["mixer"]
    assert set(second) == {"query", "key", "value", "out", "own", "first"}
    x = X + jnp.asarray(applied(ValueResidual(4, causal=True), params["layer_0"]["mixer"], _normed(params, 0, X)))[None]
    first = _normed(params, 0, X)[0] @ params["layer_0"]["mixer"]["value"]["kernel"]
    source = _normed(params, 1, x)
    values = second["own"] * (source[0] @ second["value"]["kernel"]) + second["first"] * first
    plain = {name: second[name] for name in ("query", "key", "value", "out")} | {
        "value": {"kernel": jnp.linalg.pinv(source[0]) @ values}
    }
    rank = int(jnp.linalg.matrix_rank(source[0]))
    assert rank == T  # so that a matrix from the source to any values exists
    expected = np.asarray(x[0]) + applied(Attention(4, causal=True), plain, source)
    np.testing.assert_allclose(applied(VALUES, params), expected, atol=1e-3)


def _normed(params: Any, layer: int, x: jax.Array) -> jax.Array:
    return jnp.asarray(RMSNorm().apply({"params": params[f"layer_{layer}"]["mixer_residual"]["norm"]}, x))


def test_shared_keys_are_projected_once_and_cached_once() -> None:
    params = parameters(SHARED)
    assert set(params["layer_1"]["mixer"]) == {"query", "out"}
    assert set(params["layer_0"]["mixer"]) == {"query", "key", "value", "out"}


def test_what_is_to_be_reused_must_have_been_given() -> None:
    with pytest.raises(ValueError, match="found no keys of an earlier layer"):
        Stack(SHARED.pattern[1], 1).init(jax.random.key(0), X, Context())


@pytest.mark.parametrize("layer", [LatentAttention(), DifferentialAttention(2)])
def test_what_sees_later_tokens_refuses_to_decode(layer: Any) -> None:
    with pytest.raises(ValueError, match="set causal=True"):
        layer.init(jax.random.key(0), X, Context(decoding=Decoding(0, T)))


class Crossed(Attention):
    """Broken: query heads take turns at the keys."""

    def project_all(self, x: jax.Array, ctx: Context) -> tuple[jax.Array | None, jax.Array, jax.Array]:
        query, key, value = super().project_all(x, ctx)
        return query, jnp.tile(key, (1, 2, 1, 1)), jnp.tile(value, (1, 2, 1, 1))


class Swapped(TalkingHeads):
    """Broken: head i gives what head j should."""

    @nn.compact
    def __call__(self, scores: jax.Array, visible: jax.Array | None) -> jax.Array:
        return super().__call__(scores, visible)[:, ::-1]


BROKEN = [
    (Crossed(4, kv_heads=2, causal=True), grouped),
    (Attention(4, causal=True), softpick),
    (Attention(4, causal=True, window=3), windowed),
    (Attention(4, causal=True), chunked),
    (Attention(4, causal=True, weigh=Swapped()), talking),
]


@pytest.mark.parametrize(("layer", "definition"), BROKEN)
def test_another_layer_fails_a_definition(layer: Any, definition: Any) -> None:
    with pytest.raises(AssertionError):
        law_layer_is_its_definition(layer, definition)
