"""Laws of recurrences by a scan over tokens: each is its paper's definition, token by token in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Context, activation
from models.backend.platform import compile_for
from models.recurrence.scan import RGLRU, Mamba1, MinGRU, MinLSTM, linear_scan
from tests.laws.components import WIDTH, normal, parameters

TARGETS = ("cpu", "tpu")  # for which tokens are computed one after the other, and together
SEGMENTS = np.array([[0, 0, *[1] * 6, 2, *[3] * 5], [*[1] * 9, *[2] * 5]])
FRESH = np.diff(SEGMENTS, axis=1, prepend=-1) != 0


def law_scan_is_the_recurrence(scan: Any, t: int) -> None:
    decay, x, start = jax.nn.sigmoid(normal(1, 2, t, 3)), normal(2, 2, t, 3), normal(3, 2, 3)
    fresh = np.pad(FRESH, ((0, 0), (0, t)))[:, 1 : t + 1]
    state, outputs, expected = np.asarray(start, np.float64), jax.jit(scan)(decay, x, jnp.asarray(fresh), start), []
    for index in range(t):
        state = np.where(fresh[:, index, None], 0, state) * np.asarray(decay)[:, index] + np.asarray(x)[:, index]
        expected.append(state)
    np.testing.assert_allclose(np.asarray(outputs[1]), np.stack(expected, 1), atol=1e-5)
    np.testing.assert_allclose(np.asarray(outputs[0]), state, atol=1e-5)


def in_fours(*inputs: jax.Array) -> Any:
    return linear_scan(*inputs, chunk=4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("t", [1, 4, 8, 14])
def test_a_scan_in_chunks_is_the_recurrence_whatever_the_length(t: int, target: str) -> None:
    with compile_for(target):
        law_scan_is_the_recurrence(in_fours, t)


def test_a_scan_in_chunks_has_the_gradients_of_a_scan_in_one_for_either_target() -> None:
    decay, x, start, weight = (
        jax.nn.sigmoid(normal(1, 2, 14, 3)),
        normal(2, 2, 14, 3),
        normal(3, 2, 3),
        normal(4, 2, 14, 3),
    )

    def gradients(chunk: int, target: str) -> Any:
        def projected(*inputs: jax.Array) -> jax.Array:
            state, h = linear_scan(inputs[0], inputs[1], jnp.asarray(FRESH), inputs[2], chunk)
            return jnp.vdot(h, weight) + state.sum()

        with compile_for(target):
            return jax.jit(jax.grad(projected, argnums=(0, 1, 2)))(decay, x, start)

    first, *others = (gradients(chunk, target) for chunk in (4, 14) for target in TARGETS)
    for other in others:
        for left, right in zip(first, other, strict=True):
            np.testing.assert_allclose(np.asarray(left), np.asarray(right), atol=1e-5)


@pytest.mark.parametrize("mixer", [Mamba1(state=4, chunk=5), RGLRU(heads=4)], ids=["Mamba1", "RGLRU"])
def test_tokens_together_are_tokens_one_after_the_other(mixer: Any) -> None:
    x = normal(1, 2, 21, WIDTH)
    params = mixer.init(jax.random.key(0), x, Context())

    def project(params: Any, x: jax.Array) -> jax.Array:
        return jnp.square(mixer.apply(params, x, Context())).sum()

    found = []
    for target in TARGETS:
        with compile_for(target):
            found.append(jax.tree.leaves(jax.jit(jax.value_and_grad(project, (0, 1)))(params, x)))
    for left, right in zip(*found, strict=True):
        np.testing.assert_allclose(np.asarray(left), np.asarray(right), rtol=1e-4, atol=1e-5)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def silu(x: Any) -> Any:
    return x * sigmoid(x)


def positive(x: Any) -> Any:
    return np.where(x >= 0, x + 0.5, sigmoid(x))


def dense(part: Any, x: np.ndarray) -> np.ndarray:
    return x @ part["kernel"] + part.get("bias", 0)


def window(part: Any, past: list[np.ndarray]) -> np.ndarray:
    """The short convolution's output for the last of these tokens."""
    return part["bias"] + sum(kernel * token for kernel, token in zip(part["kernel"], past[::-1], strict=False))


def min_gru(params: Any, past: list[np.ndarray], state: Any) -> Any:
    z = sigmoid(dense(params["update"], past[-1]))
    state = (1 - z) * state + z * positive(dense(params["candidate"], past[-1]))
    return dense(params["out"], state), state


def min_lstm(params: Any, past: list[np.ndarray], state: Any) -> Any:
    f, i = (sigmoid(dense(params[name], past[-1])) for name in ("forget", "enter"))
    state = f / (f + i) * state + i / (f + i) * positive(dense(params["candidate"], past[-1]))
    return dense(params["out"], state), state


def rg_lru(params: Any, past: list[np.ndarray], state: Any) -> Any:
    y = window(params["convolution"], [dense(params["in"], x) for x in past])

    def gate(name: str) -> Any:
        kernel = params[f"{name}_kernel"]
        parts = [part @ block for part, block in zip(np.split(y, len(kernel)), kernel, strict=True)]
        return sigmoid(np.concatenate(parts) + params[f"{name}_bias"])

    decay = np.exp(-np.log1p(np.exp(params["rate"]))) ** (8 * gate("recurrence"))
    state = decay * state + np.sqrt(1 - decay**2) * gate("input") * y
    return dense(params["out"], silu(dense(params["gate"], past[-1])) * state), state


def mamba(params: Any, past: list[np.ndarray], state: Any) -> Any:
    entered = [dense(params["in"], x) for x in past]
    y = silu(window(params["convolution"], [np.split(part, 2)[0] for part in entered]))
    step, write, read = np.split(dense(params["select"], y), [2, 5])
    step = np.log1p(np.exp(dense(params["step"], step)))[:, None]
    state = np.exp(-step * np.exp(params["log_rates"].T)) * state + step * write * y[:, None]
    return dense(params["out"], silu(np.split(entered[-1], 2)[1]) * (state @ read + params["skip"] * y)), state


PAPERS = [
    (MinGRU(1.5), min_gru),
    (MinLSTM(1.5), min_lstm),
    (RGLRU(4, activation=activation.silu), rg_lru),
    (Mamba1(1.0, state=3, rank=2, chunk=4), mamba),
]


def law_layer_is_its_paper(layer: Any, paper: Callable[..., Any]) -> None:
    x = normal(1, *SEGMENTS.shape, WIDTH)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters(layer))
    y = jax.jit(layer.apply)({"params": parameters(layer)}, x, Context(segments=jnp.asarray(SEGMENTS)))
    expected = np.zeros(x.shape)
    for row in range(2):
        past, state = [], 0.0
        for index in range(SEGMENTS.shape[1]):
            if FRESH[row, index]:
                past, state = [], 0.0
            past.append(np.asarray(x, np.float64)[row, index])
            expected[row, index], state = paper(params, past, state)
    np.testing.assert_allclose(np.asarray(y), expected, atol=2e-5)


@pytest.mark.parametrize(("layer", "paper"), PAPERS)
def test_a_recurrence_is_its_papers_token_by_token(layer: Any, paper: Any) -> None:
    law_layer_is_its_paper(layer, paper)


@pytest.mark.slow
def test_an_rg_lru_starts_with_decays_between_nine_tenths_and_one() -> None:
    rate = RGLRU().init(jax.random.key(0), normal(1, 1, 2, 64), Context())["params"]["rate"]
    decay = np.exp(-8 * np.log1p(np.exp(np.asarray(rate, np.float64))))
    assert 0.9 <= decay.min() < 0.93 < 0.97 < decay.max() <= 0.999


@pytest.mark.slow
def test_mamba_starts_with_steps_between_a_thousandth_and_a_tenth_and_rates_from_one() -> None:
    params = Mamba1().init(jax.random.key(0), normal(1, 1, 2, 64), Context())["params"]
    step = np.log1p(np.exp(np.asarray(params["step"]["bias"], np.float64)))
    assert 0.00099 < step.min() < 0.003 < 0.03 < step.max() < 0.101
    np.testing.assert_allclose(np.exp(np.asarray(params["log_rates"])[:, 0]), np.arange(1, 17), rtol=1e-5)


def test_a_state_space_refuses_heads_that_do_not_divide_its_width() -> None:
    with pytest.raises(ValueError, match="heads must divide"):
        RGLRU(3).init(jax.random.key(0), normal(1, 1, 2, WIDTH), Context())


def forgetful(decay: jax.Array, x: jax.Array, fresh: jax.Array, start: jax.Array) -> Any:
    """Broken: each chunk starts from zero."""
    parts = [
        in_fours(decay[:, at : at + 4], x[:, at : at + 4], fresh[:, at : at + 4], 0 * start)
        for at in range(0, x.shape[1], 4)
    ]
    return parts[-1][0], jnp.concatenate([part[1] for part in parts], 1)


def leaking(decay: jax.Array, x: jax.Array, fresh: jax.Array, start: jax.Array) -> Any:
    """Broken: examples are one."""
    return in_fours(decay, x, jnp.zeros_like(fresh), start)


BROKEN = [
    (law_scan_is_the_recurrence, (forgetful, 8)),
    (law_scan_is_the_recurrence, (leaking, 14)),
    (law_layer_is_its_paper, (MinGRU(), lambda params, past, state: min_gru(params, past, 0.0))),
    (law_layer_is_its_paper, (RGLRU(4), rg_lru)),
    (
        law_layer_is_its_paper,
        (Mamba1(1.0, state=3, rank=2), lambda params, past, state: mamba(params, past[-1:], state)),
    ),
]


@pytest.mark.parametrize(("law", "given"), BROKEN)
def test_broken_components_fail(law: Any, given: Any) -> None:
    with pytest.raises(AssertionError):
        law(*given)
