"""Laws of the layers whose state is a matrix: each is its paper's formula, token by token in float64."""

from typing import Any

import jax
import numpy as np
import pytest

from models import Context
from models.recurrence.decayed import HGRN2, GatedLinearAttention, LinearAttention, Mamba2, Retention
from models.recurrence.delta import DeltaNet, DeltaProduct, GatedDeltaNet, KimiDeltaAttention
from models.recurrence.levels import LogLinearMamba2
from models.recurrence.mlstm import MLSTM
from models.recurrence.rwkv import FIRST, RWKV7
from tests.laws.components import WIDTH, normal, parameters, random_like

TOKENS, HEADS = 11, 2


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def silu(x: Any) -> Any:
    return x * sigmoid(x)


def softplus(x: Any) -> Any:
    return np.log1p(np.exp(x))


def unit(x: Any) -> Any:
    return x / np.sqrt(np.square(x).sum(-1, keepdims=True) + 1e-6)


def mapped(p: Any, x: Any, *names: str) -> Any:
    """Linear maps one after the other, then heads: (t, d) -> (h, t, k)."""
    return split(flat(p, x, *names))


def flat(p: Any, x: Any, *names: str) -> Any:
    for name in names:
        x = x @ p[name]["kernel"] + p[name].get("bias", 0)
    return x


def split(x: Any, heads: int = HEADS) -> Any:
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def folded(x: Any) -> Any:
    """(h, t, v) -> (t, h * v)."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


def rms(p: Any, x: Any, epsilon: float = 1e-5) -> Any:
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + epsilon) * p["norm"]["scale"]


def centred(x: Any, epsilon: float) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + epsilon)


def convolution(p: Any, x: Any) -> Any:
    lags = [np.vstack([np.zeros((lag, x.shape[1])), x[: len(x) - lag]]) * p["kernel"][lag] for lag in range(4)]
    return silu(sum(lags) + p.get("bias", 0))


def convolved(p: Any, x: Any, name: str, heads: int = HEADS) -> Any:
    return split(convolution(p[f"{name}_convolution"], flat(p, x, name)), heads)


def scanned(query: Any, key: Any, value: Any, transition: Any) -> Any:
    """S_t = transition_t S_{t-1} + k_t v_t^T read by q, (h, t, v); the transition is a function of head and time."""
    y: Any = np.zeros(value.shape)
    for h, memory in enumerate(np.zeros((len(key), key.shape[2], value.shape[2]))):
        for t in range(y.shape[1]):
            memory = transition(h, t) @ memory + np.outer(key[h, t], value[h, t])
            y[h, t] = query[h, t] @ memory
    return y


def levelled(query: Any, key: Any, value: Any, decays: Any, weights: Any) -> Any:
    """All pairs of tokens, each weighed by its level and the decays between."""
    y: Any = np.zeros(value.shape)
    for t in range(y.shape[1]):
        for s in range(t + 1):
            weight = weights[:, t, (t ^ s).bit_length()] * decays[:, s + 1 : t + 1].prod(1)
            y[:, t] += (weight * (query[:, t] * key[:, s]).sum(1))[:, None] * value[:, s]
    return y


def linear_attention(p: Any, x: Any) -> Any:
    query, key = (
        np.where(y > 0, y + 1, np.exp(np.minimum(y, 0))) for y in (mapped(p, x, "query"), mapped(p, x, "key"))
    )
    weights = np.tri(len(x)) * (query @ key.swapaxes(1, 2))
    return flat(p, folded(weights / weights.sum(-1, keepdims=True) @ mapped(p, x, "value")), "out")


def retention(p: Any, x: Any) -> Any:
    turn = np.exp(1j * np.arange(len(x))[:, None] * 10_000.0 ** (-np.arange(4) / 4))
    query, key = ((y[..., :4] + 1j * y[..., 4:]) * turn for y in (mapped(p, x, "query"), mapped(p, x, "key")))
    distance = np.arange(len(x))[:, None] - np.arange(len(x))
    decays = np.tri(len(x)) * (1 - 2.0 ** (-5 - np.arange(HEADS)))[:, None, None] ** np.maximum(distance, 0)
    mixed = (decays * (query @ key.conj().swapaxes(1, 2)).real / np.sqrt(8)) @ mapped(p, x, "value")
    return flat(p, silu(flat(p, x, "gate")) * folded(rms(p, mixed, 1e-6)), "out")


def gated_linear_attention(p: Any, x: Any) -> Any:
    decays = sigmoid(mapped(p, x, "decay_down", "decay_up")) ** (1 / 16)
    query, key, value = (mapped(p, x, name) for name in ("query", "key", "value"))
    mixed = scanned(query / np.sqrt(query.shape[2]), key, value, lambda h, t: np.diag(decays[h, t]))
    return flat(p, silu(flat(p, x, "gate")) * folded(rms(p, mixed)), "out")


def mamba2(p: Any, x: Any) -> Any:
    """Any number of groups, which is read off the norm, of states 128 wide."""
    groups, wide = len(p["norm"]["scale"]), 128 * len(p["norm"]["scale"])
    inner = convolution(p["convolution"], flat(p, x, "in"))
    value, key, query = (
        split(inner[:, : -2 * wide]),
        split(inner[:, -2 * wide : -wide], groups),
        split(inner[:, -wide:], groups),
    )
    step = softplus(flat(p, x, "step") + p["step_bias"]).T
    query, key = (np.repeat(part, HEADS // groups, 0) for part in (query, key))
    decays = np.exp(-np.exp(p["log_rate"])[:, None] * step)
    if "level" in p:
        weights = softplus(mapped(p, x, "level") * p["level_scale"][:, None])
        mixed = levelled(query, key, value * step[..., None], decays, weights)
    else:
        mixed = scanned(query, key, value * step[..., None], lambda h, t: decays[h, t] * np.eye(128))
    gated = folded(mixed + p["skip"][:, None, None] * value) * silu(flat(p, x, "gate"))
    return flat(p, rms(p, gated.reshape(len(x), groups, -1)).reshape(gated.shape), "out")


def delta_rule(p: Any, x: Any, decays: Any) -> Any:
    """The state of DeltaNet and of those that decay it, read and normed; decays (h, t, k)."""
    h = len(decays)
    query, key = (np.repeat(unit(convolved(p, x, name)), h // HEADS, 0) for name in ("query", "key"))
    value, query, beta = (
        convolved(p, x, "value", h),
        query / np.sqrt(key.shape[2]),
        sigmoid(split(flat(p, x, "beta"), h)),
    )

    def transition(h: int, t: int) -> Any:
        return (np.eye(key.shape[2]) - beta[h, t] * np.outer(key[h, t], key[h, t])) @ np.diag(decays[h, t])

    return folded(rms(p, scanned(query, key, beta * value, transition)))


def delta_net(p: Any, x: Any) -> Any:
    return flat(p, delta_rule(p, x, np.ones((HEADS, len(x), 8))), "out")


def gated_delta_net(p: Any, x: Any) -> Any:
    """Any number of heads of values, which is read off the rates; keys 6 wide."""
    decays = np.exp(-np.exp(p["log_rate"]) * softplus(flat(p, x, "step").T + p["step_bias"]))
    return flat(p, silu(flat(p, x, "gate")) * delta_rule(p, x, np.repeat(decays[..., None], 6, 2)), "out")


def kimi_delta_attention(p: Any, x: Any) -> Any:
    decays = np.exp(-np.exp(p["log_rate"]) * softplus(mapped(p, x, "step_down", "step_up") + p["step_bias"]))
    return flat(p, sigmoid(flat(p, x, "gate_down", "gate_up")) * delta_rule(p, x, decays), "out")


def delta_product(p: Any, x: Any) -> Any:
    """Any number of steps a token, which is read off beta; keys 6 wide."""
    n = p["beta"]["kernel"].shape[1] // HEADS
    query = unit(convolved(p, x, "query")) / np.sqrt(6)
    key, value = (convolved(p, x, name, n * HEADS) for name in ("key", "value"))
    beta, key = 2 * sigmoid(split(flat(p, x, "beta"), n * HEADS)), unit(key)
    decay = np.ones((HEADS, len(x)))
    if "log_rate" in p:
        decay = np.exp(-np.exp(p["log_rate"]) * softplus(flat(p, x, "step").T + p["step_bias"]))
    y = np.zeros((HEADS, len(x), value.shape[2]))
    for h, memory in enumerate(np.zeros((HEADS, 6, value.shape[2]))):
        for t in range(len(x)):
            memory = decay[h, t] * memory
            for j in range(h, n * HEADS, HEADS):
                error = value[j, t] - key[j, t] @ memory
                memory = memory + beta[j, t] * np.outer(key[j, t], error)
            y[h, t] = query[h, t] @ memory
    return flat(p, silu(flat(p, x, "gate")) * folded(rms(p, y)), "out")


def hgrn2(p: Any, x: Any) -> Any:
    """In the first of its blocks, where forget gates have no bound; one head."""
    forget = sigmoid(flat(p, x, "forget"))
    y, memory = np.zeros(x.shape), np.zeros((WIDTH, WIDTH))
    for t, query in enumerate(silu(flat(p, x, "query"))):
        memory = forget[t][:, None] * memory + np.outer(1 - forget[t], flat(p, x[t], "value"))
        y[t] = query @ memory / np.sqrt(WIDTH)
    return flat(p, rms(p, y), "out")


def rwkv7(p: Any, x: Any, first: Any = None) -> Any:
    """With the values of the first layer, if they are given."""
    past = np.vstack([np.zeros(WIDTH), x[:-1]])
    read = {name.removesuffix("_share"): x + (past - x) * share for name, share in p.items() if name.endswith("_share")}
    r, k, v = (flat(p, read[name], name) for name in ("receptance", "key", "value"))
    if first is not None:
        v = v + sigmoid(p["first_bias"] + flat(p, read["value"], "first_down", "first_up")) * (first - v)
    w = np.exp(
        -np.exp(-0.5)
        * sigmoid(p["decay_bias"] + np.tanh(flat(p, read["decay"], "decay_down")) @ p["decay_up"]["kernel"])
    )
    a = sigmoid(p["rate_bias"] + flat(p, read["rate"], "rate_down", "rate_up"))
    c, k = unit(split(k * p["removed"])), k * (1 + (a - 1) * p["replaced"])
    r, k, v, w, a = (split(y) for y in (r, k, v, w, a))
    mixed = scanned(r, k, v, lambda h, t: np.diag(w[h, t]) - np.outer(a[h, t] * c[h, t], c[h, t]))
    normal = folded(centred(mixed, 64e-5)) * p["norm_scale"] + p["norm_bias"]
    own = (r * p["bonus"].reshape(HEADS, 1, -1) * k).sum(-1, keepdims=True) * v
    return flat(p, sigmoid(flat(p, read["gate"], "gate_down")) @ p["gate_up"]["kernel"] * (normal + folded(own)), "out")


def mlstm(p: Any, x: Any) -> Any:
    query, key, value = mapped(p, x, "query"), mapped(p, x, "key") / np.sqrt(4), mapped(p, x, "value")
    enter, forget = (15 * np.tanh(mapped(p, x, name) / 15) for name in ("input", "forget"))
    wide = np.concatenate([value, np.ones_like(value[..., :1])], -1)
    mixed = scanned(query, np.exp(enter) * key, wide, lambda h, t: sigmoid(forget)[h, t] * np.eye(4))
    mixed = mixed[..., :-1] / np.maximum(np.abs(mixed[..., -1:]), 1)
    return flat(p, sigmoid(flat(p, x, "gate")) * folded(centred(mixed, 1e-6)) * p["norm_scale"], "out")


PAPERS = [
    (LinearAttention(HEADS), linear_attention),
    (Retention(HEADS), retention),
    (GatedLinearAttention(HEADS), gated_linear_attention),
    (Mamba2(HEADS), mamba2),
    (Mamba2(HEADS, groups=2), mamba2),
    (LogLinearMamba2(HEADS, levels=6), mamba2),
    (LogLinearMamba2(HEADS, groups=2), mamba2),
    (MLSTM(HEADS), mlstm),
    (DeltaNet(HEADS), delta_net),
    (GatedDeltaNet(HEADS), gated_delta_net),
    (GatedDeltaNet(HEADS, value_heads=2 * HEADS), gated_delta_net),
    (KimiDeltaAttention(HEADS), kimi_delta_attention),
    (DeltaProduct(2, HEADS), delta_product),
    (DeltaProduct(3, HEADS, decay=False), delta_product),
    (HGRN2(), hgrn2),
    (RWKV7(HEADS), rwkv7),
]


def law_layer_is_its_papers_formula(layer: Any, formula: Any) -> None:
    x, params = normal(7, TOKENS, WIDTH), parameters(layer)
    y = jax.jit(lambda x: layer.apply({"params": params}, x[None], Context())[0])(x)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    np.testing.assert_allclose(y, formula(wide, np.asarray(x, np.float64)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("layer", "formula"), PAPERS)
def test_a_layer_is_its_papers_formula_in_float64(layer: Any, formula: Any) -> None:
    law_layer_is_its_papers_formula(layer, formula)


def test_later_layers_of_rwkv_mix_their_values_with_those_of_the_first() -> None:
    layer, x, first = RWKV7(HEADS, value_residual=True), normal(7, TOKENS, WIDTH), normal(8, TOKENS, WIDTH)
    ctx = Context(shared={FIRST: first[None]})
    params = random_like(jax.eval_shape(layer.init, jax.random.key(0), x[None], ctx)["params"])
    found = jax.jit(lambda: layer.apply({"params": params}, x[None], ctx))()[0]
    wide, given = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, (x, first)))
    np.testing.assert_allclose(found, rwkv7(wide, *given), atol=1e-4, rtol=1e-4)
    assert not np.allclose(found, rwkv7(wide, given[0]), atol=1e-2)


@pytest.mark.parametrize(
    "owner", [LinearAttention, Retention, GatedLinearAttention, Mamba2, MLSTM, DeltaNet, GatedDeltaNet, RWKV7]
)
def test_heads_must_divide_the_width(owner: Any) -> None:
    with pytest.raises(ValueError, match="they must divide it"):
        owner(5).init(jax.random.key(0), normal(1, 1, 2, WIDTH), Context())


def test_groups_of_mamba_must_divide_its_heads() -> None:
    with pytest.raises(ValueError, match="groups must divide heads"):
        Mamba2(heads=4, groups=3)
    with pytest.raises(ValueError, match="1 heads and 2 groups; groups must divide heads"):
        Mamba2(groups=2).init(jax.random.key(0), normal(1, 1, 2, WIDTH), Context())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"levels": 1}, "levels is 1, that of the token itself; give 2 or more"),
        ({"implementation": "pallas"}, "has no kernel; leave implementation='pallas' out"),
    ],
)
def test_levels_and_programs_that_cannot_be_are_refused(given: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LogLinearMamba2(**given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"heads": 4, "value_heads": 6}, "6 heads of values for 4 of queries and keys; heads must divide value_heads"),
        ({"value_heads": 0}, "value_heads is 0; it must be above 0"),
        ({"key_expand": 0.0}, "key_expand is 0.0; it must be above 0"),
    ],
)
def test_sizes_of_gated_delta_net_that_cannot_be_are_refused(given: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        GatedDeltaNet(**given)


def test_sizes_are_the_papers() -> None:
    def sizes(layer: Any, d: int) -> Any:
        params = jax.eval_shape(layer.init, jax.random.key(0), np.zeros((1, 2, d), np.float32), Context())["params"]
        matrices = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2 and min(leaf.shape) > 16]
        return params, sum(leaf.size for leaf in matrices) / d**2

    params, squares = sizes(GatedDeltaNet(), 512)
    assert squares == 6
    assert [params[name]["kernel"].shape[1] for name in ("query", "key", "value", "gate")] == [384, 384, 768, 768]
    params, squares = sizes(GatedDeltaNet(16, key_expand=1.0, expand=2.0, value_heads=32), 2048)  # Qwen3-Next
    assert [params["key"]["kernel"].shape[1], params["log_rate"].size, params["norm"]["scale"].size] == [2048, 32, 128]
    assert sizes(Mamba2(), 512)[0]["log_rate"].size == 1024 // 64
    assert sizes(MLSTM(), 512)[0]["key"]["kernel"].shape == (512, 256)
    # The ranks of the models that were released with 0.1, 1.5 and 2.9 billion parameters.
    for d, decay, gate in ((768, 64, 128), (2048, 96, 256), (2560, 96, 320)):
        params, _ = sizes(RWKV7(d // 64), d)
        assert [params[f"{name}_down"]["kernel"].shape[1] for name in ("decay", "rate", "gate")] == [decay, decay, gate]


@pytest.mark.slow
def test_a_gate_of_mlstm_stays_within_its_cap() -> None:
    layer, x = MLSTM(HEADS), normal(3, 1, 6, WIDTH)
    params = {"params": parameters(layer)}
    gates = {name: jax.tree.map(lambda leaf: 1e4 * leaf, params["params"][name]) for name in ("forget", "input")}
    layers = (MLSTM(HEADS, cap=cap) for cap in (None, 15.0))
    wide, capped = (np.asarray(layer.apply({"params": params["params"] | gates}, x, Context())) for layer in layers)
    assert np.isfinite(capped).all()
    assert not np.allclose(wide, capped)
    with pytest.raises(ValueError, match=r"MLSTM.cap is 0.0; it must be above 0"):
        MLSTM(cap=0.0)


def test_a_broken_layer_fails() -> None:
    with pytest.raises(AssertionError):
        law_layer_is_its_papers_formula(DeltaNet(HEADS, strength=2.0), delta_net)
