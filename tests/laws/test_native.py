"""Laws of native sparse attention: against its equations, query by query in float64, and its cost."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Attention, Context, NativeSparseAttention, RoPE
from models.laws.decoding import law_decoding_is_one_pass
from models.laws.general import law_every_parameter_has_a_gradient
from models.laws.layer import law_packed_rows_equal_the_examples_alone
from models.structure import replace
from tests.laws.components import WIDTH, normal, parameters
from train.cost import traced

T, H, G, K = 13, 4, 2, 4
X = normal(1, 1, T, WIDTH)
LAYER = NativeSparseAttention(H, kv_heads=G, size=2, stride=1, block=2, active=4, near=3)


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def native(params: Any) -> np.ndarray:
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def heads(name: str, count: int) -> np.ndarray:
        return (np.asarray(X[0], np.float64) @ p[name]["kernel"]).reshape(T, count, -1).swapaxes(0, 1)

    def reduced(name: str) -> np.ndarray:
        whole = heads(f"compressed_{name}", G)
        flat = np.concatenate([whole[:, s : T - 1 + s] + p[f"{name}_places"][s] for s in (0, 1)], -1)
        hidden = gelu(flat @ p[f"{name}_hidden"]["kernel"] + p[f"{name}_hidden"]["bias"])
        return hidden @ p[f"{name}_reduced"]["kernel"]

    query, gates = heads("query", H) / math.sqrt(K), 1 / (1 + np.exp(-heads("gate", 3 * H)[..., 0]))
    short, full = {n: reduced(n) for n in ("key", "value")}, {}
    for way in ("chosen", "near"):
        full[way] = [heads(f"{way}_{name}", G) for name in ("key", "value")]
    mixed = np.zeros((H, T, K))
    for g, i in np.ndindex(G, T):
        own, weights = i // 2, dict[int, np.ndarray]()
        for h in (2 * g, 2 * g + 1):
            if i:
                weights[h] = softmax(short["key"][g, :i] @ query[h, i])
                mixed[h, i] += gates[h, i] * (weights[h] @ short["value"][g, :i])
        heavy = np.zeros(own + 1)
        for h, block, part in [(h, s, part) for h in weights for s in range(i) for part in (0, 1)]:
            heavy[(block + part) // 2] += weights[h][block]
        heavy[[0, own, max(own - 1, 0)]] = np.inf
        best = np.argsort(-heavy, kind="stable")[:4]
        chosen = [j for j in range(i + 1) if j // 2 in best]
        near = list(range(max(0, i - 2), i + 1))
        for h in (2 * g, 2 * g + 1):
            for number, (way, tokens) in enumerate((("chosen", chosen), ("near", near)), 1):
                key, value = (part[g, tokens] for part in full[way])
                mixed[h, i] += gates[number * H + h, i] * (softmax(key @ query[h, i]) @ value)
    return mixed.swapaxes(0, 1).reshape(T, WIDTH) @ p["out"]["kernel"]


def law_layer_is_its_equations(layer: Any) -> None:
    params = parameters(LAYER)
    y = jax.jit(lambda: layer.apply({"params": params}, X, Context()))()
    np.testing.assert_allclose(y[0], native(params), atol=2e-5)


def test_native_sparse_attention_is_its_equations() -> None:
    law_layer_is_its_equations(LAYER)


WRONG = {"active": 3, "near": 4, "block": 4}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_other_sizes_are_another_layer(name: str) -> None:
    with pytest.raises(AssertionError):
        law_layer_is_its_equations(replace(LAYER, name, WRONG[name]))


@pytest.mark.slow
def test_long_rows_decode_and_pack_as_their_examples() -> None:
    layer = NativeSparseAttention(4, kv_heads=2, size=8, stride=4, block=8, active=4, near=16, position=RoPE())
    law_packed_rows_equal_the_examples_alone(layer, 264)
    law_decoding_is_one_pass(layer, 72)


def work(layer: Any, t: int) -> float:
    x = jax.ShapeDtypeStruct((1, t, 512), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x, Context())["params"]
    return traced.count_flops(lambda params, x: layer.apply({"params": params}, x, Context()), params, x) / t


@pytest.mark.slow
def test_its_cost_follows_the_tokens_that_it_reads() -> None:
    layer, t = NativeSparseAttention(8, kv_heads=2), 16_384
    read = t / 16 + 16 * 64 + 2 * 512  # compressed, chosen, and blocks of the window with the one before
    assert work(layer, t) < 8 * 512**2 + 5 * 512 * read + 4e6
    assert work(layer, t) < 0.5 * work(Attention(8, kv_heads=2, causal=True), t)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stride": 3}, "must divide"),
        ({"active": 2}, "three"),
        ({"kv_heads": 3}, "must divide heads"),
        ({"causal": False}, "causal"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NativeSparseAttention(**given)


@pytest.mark.slow
def test_parameters_that_a_short_row_does_not_reach_are_found_to_have_a_gradient_in_a_long_one() -> None:
    law_every_parameter_has_a_gradient(NativeSparseAttention(4, kv_heads=2))
