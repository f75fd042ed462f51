"""Layers with a state of their own kind are their papers' formulas: sLSTM, TTT-Linear, Mamba-3, HGRN2's bounds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import HGRN2, SLSTM, Context, Mamba3, TTTLinear
from models.recurrence.slstm import GATES
from tests.laws.components import WIDTH, normal, parameters

LENGTHS = (3, 18, 1, 20)  # of the examples of a row: shorter than an inner step, and longer
SEGMENTS = np.repeat(np.arange(1, 5), LENGTHS)[None]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def silu(x: Any) -> Any:
    return x * sigmoid(x)


def softplus(x: Any) -> Any:
    return np.log1p(np.exp(x))


def dense(p: Any, x: Any) -> Any:
    return x @ p["kernel"] + p.get("bias", 0)


def normed(x: Any, epsilon: float) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + epsilon)


def convolved(p: Any, x: Any) -> Any:
    lags = [np.vstack([np.zeros((lag, x.shape[1])), x])[: len(x)] * p["kernel"][lag] for lag in range(4)]
    return sum(lags) + p["bias"]


def slstm(layer: Any, p: Any, x: Any) -> Any:
    """The plain exponentials of the paper, without the level that keeps them small."""
    h, k = layer.heads, WIDTH // layer.heads
    near = silu(convolved(p["convolution"], x))
    y, c, n, outputs = np.zeros((h, k)), np.zeros((h, k)), np.zeros((h, k)), []
    for t in range(len(x)):
        raw = {}
        for name in GATES:
            read = (near if name in ("input", "forget") else x)[t].reshape(h, k)
            raw[name] = p.get(f"{name}_bias", np.ones((h, k))).copy()  # that of i may be anything
            for head in range(h):
                raw[name][head] += read[head] @ p[f"{name}_kernel"][head] + y[head] @ p[f"{name}_recurrent"][head]
        enter, forget = np.exp(raw["input"]), sigmoid(raw["forget"])
        c, n = forget * c + enter * np.tanh(raw["cell"]), forget * n + enter
        y = sigmoid(raw["output"]) * c / n
        outputs.append(normed(y, 1e-5).ravel())
    return np.stack(outputs) * p["norm_scale"]


def ttt_linear(layer: Any, p: Any, x: Any) -> Any:
    """Gradients by differences of the loss's closed form, one model a token, as section 2.4 of the paper says it."""
    h, k, size = layer.heads, WIDTH // layer.heads, layer.size
    both = x @ p["query"]["kernel"]
    query, key = (convolved(p[f"{name}_convolution"], both).reshape(-1, h, k) for name in ("query", "key"))
    value, rate = (x @ p["value"]["kernel"]).reshape(-1, h, k), layer.rate * sigmoid(dense(p["rate"], x)) / k
    share = np.maximum(1 / np.arange(1, size + 1) + p["share"], 0)
    if layer.within is not None:
        angle = (np.arange(len(x)) % size)[:, None, None] * 10_000.0 ** (-np.arange(k // 2) / (k // 2))
        turn = np.exp(1j * angle)

        def turned(y: Any) -> Any:
            whole = (y[..., : k // 2] + 1j * y[..., k // 2 :]) * turn
            return np.concatenate([whole.real, whole.imag], -1)

        query, key = turned(query), turned(key)
    outputs = np.zeros((len(x), h, k))
    for head in range(h):
        scale, bias = p["inner_norm_scale"][head, 0], p["inner_norm_bias"][head, 0]
        kernel, shift = p["inner_kernel"][head], p["inner_bias"][head, 0]
        slopes: list[Any] = []
        for t in range(len(x)):
            z = key[t, head] @ kernel + shift
            root = np.sqrt(np.square(z - z.mean()).mean() + 1e-6)
            unit = (z - z.mean()) / root
            error = (unit * scale + bias - (value[t, head] - key[t, head])) * scale
            slope = (error - error.mean() - unit * (error * unit).mean()) / root
            slopes.append((rate[t, head] * np.outer(key[t, head], slope), rate[t, head] * slope))
            part = share[len(slopes) - 1]
            now, moved = (
                start - part * sum(step) for start, step in zip((kernel, shift), zip(*slopes, strict=True), strict=True)
            )
            outputs[t, head] = query[t, head] + normed(query[t, head] @ now + moved, 1e-6) * scale + bias
            if len(slopes) == size:
                kernel, shift, slopes = now, moved, []
    gate = x @ p["gate"]["kernel"]
    gate = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    mixed = normed(outputs.reshape(len(x), -1), 1e-6) * p["norm"]["scale"] + p["norm"]["bias"]
    return (gate * mixed) @ p["out"]["kernel"]


def mamba3(layer: Any, p: Any, x: Any) -> Any:
    """A complex state for the pairs of channels that turn, a real one for the others, by the rule of three terms."""
    h, n = layer.heads, layer.state_width
    u = (x @ p["in"]["kernel"]).reshape(len(x), h, -1)
    step = softplus(dense(p["step"], x) + p["step_bias"])
    decay = np.exp(-step * np.maximum(softplus(dense(p["rate"], x)), 1e-4))
    end, angle = sigmoid(dense(p["end"], x)), np.pi * np.tanh(dense(p["angle"], x))
    pairs = angle.shape[1]

    def shared(name: str) -> Any:
        vector = x @ p[name]["kernel"]
        vector = vector / np.sqrt(np.square(vector).mean(-1, keepdims=True) + 1e-5) * p[f"{name}_norm"]["scale"]
        vector = vector[:, None] + p[f"{name}_bias"]
        return vector[..., :pairs] + 1j * vector[..., pairs : 2 * pairs], vector[..., 2 * pairs :]

    (turning_write, still_write), (turning_read, still_read) = shared("write"), shared("read")
    y = np.zeros(u.shape)
    for head in range(h):
        turning, still = np.zeros((pairs, u.shape[2]), complex), np.zeros((n - 2 * pairs, u.shape[2]))
        before: Any = (0, 0)
        for t in range(len(x)):
            s, a, w = step[t, head], decay[t, head], end[t, head]
            # the state turns against the angles of the token, so that what is written and read stays as it is
            rotation = a * np.exp(-1j * s * angle[t])[:, None]
            own = np.outer(turning_write[t, head], u[t, head]), np.outer(still_write[t, head], u[t, head])
            turning = rotation * (turning + (1 - w) * s * before[0]) + w * s * own[0]
            still = a * (still + (1 - w) * s * before[1]) + w * s * own[1]
            before = own
            y[t, head] = (turning_read[t, head].conj() @ turning).real + still_read[t, head] @ still
            y[t, head] += p["skip"][head] * u[t, head]
    return (silu(x @ p["gate"]["kernel"]) * y.reshape(len(x), -1)) @ p["out"]["kernel"]


PAPERS: list[tuple[Any, Callable[..., Any]]] = [
    (SLSTM(2), slstm),
    (TTTLinear(2), ttt_linear),
    (TTTLinear(4, 3, within=None), ttt_linear),
    (Mamba3(2, 1.0, 8), mamba3),
    (Mamba3(4, 1.5, 6, 1.0), mamba3),
]


def law_layer_is_its_paper(layer: Any, paper: Callable[..., Any]) -> None:
    """Each example of a packed row by itself, token by token in float64."""
    x, params = normal(7, 1, sum(LENGTHS), WIDTH), parameters(layer)
    y = jax.jit(lambda x: layer.apply({"params": params}, x, Context(segments=jnp.asarray(SEGMENTS))))(x)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    examples = np.split(np.asarray(x[0], np.float64), np.cumsum(LENGTHS)[:-1])
    expected = np.concatenate([paper(layer, wide, example) for example in examples])
    np.testing.assert_allclose(y[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.represented_by("layer1-ttt_linear")
@pytest.mark.parametrize(("layer", "paper"), PAPERS)
def test_a_layer_is_its_papers_formula_in_packed_rows(layer: Any, paper: Any) -> None:
    law_layer_is_its_paper(layer, paper)


def test_a_broken_layer_fails() -> None:
    with pytest.raises(AssertionError):
        law_layer_is_its_paper(TTTLinear(2, rate=0.5), lambda _, *given: ttt_linear(TTTLinear(2), *given))


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 2])
def test_forget_gates_of_hgrn2_are_bounded_by_the_share_of_blocks_before(layer: int) -> None:
    """Of the sums of a softmax over blocks that are all alike; a state that is full stays so by the bound."""
    x, ctx = jnp.zeros((1, 2, WIDTH)).at[:, 0].set(normal(1, WIDTH)), Context(layer=layer, depth=4)
    params = HGRN2().init(jax.random.key(0), x, ctx)["params"]
    closed = {**params, "forget": {"kernel": -100 * jnp.ones((WIDTH, WIDTH))}}
    low = np.cumsum(np.full(4, 0.25))[layer] - 0.25
    x = x.at[:, 1].set(jnp.abs(normal(2, WIDTH)))
    found = np.asarray(HGRN2().apply({"params": closed}, jnp.abs(x), ctx))[0]
    value, query = (np.abs(np.asarray(x[0])) @ np.asarray(params[name]["kernel"]) for name in ("value", "query"))
    memory = (1 - low) * np.outer(np.ones(WIDTH), value[0])
    memory = max(low, np.exp(-10)) * memory + (1 - low) * np.outer(np.ones(WIDTH), value[1])
    read = silu(query[1]) @ memory / np.sqrt(WIDTH)
    read = read / np.sqrt(np.square(read).mean() + 1e-5)
    np.testing.assert_allclose(found[1], read @ np.asarray(params["out"]["kernel"]), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Mamba3(turned=1.5), "Mamba3.turned is 1.5; give a part of the channels above 0 and at most 1"),
        (lambda: TTTLinear(size=0), "TTTLinear.size is 0; it must be above 0"),
        (lambda: SLSTM(0), "SLSTM.heads is 0; it must be above 0"),
        (lambda: HGRN2(0), "HGRN2.heads is 0; it must be above 0"),
        (lambda: SLSTM(5).init(jax.random.key(0), normal(1, 1, 2, WIDTH), Context()), "they must divide it"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()
