"""Laws of recurrences whose state is a matrix: chunks are the recurrence, token by token in float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.recurrence.decayed import decay_memory
from models.recurrence.delta import invert
from models.recurrence.mlstm import matrix_lstm
from tests.laws.components import normal
from tests.laws.recurrences import (
    PACKED,
    B,
    H,
    K,
    T,
    core,
    inputs,
    law_chunks_are_the_recurrence,
    law_strong_decays_of_another_segment_do_no_harm,
    one_by_one,
)

FORMS = ["decayed head", "decayed channel", "delta head", "delta channel", "matrix_lstm head"]
ALL = [*FORMS, pytest.param("levels head", marks=pytest.mark.slow)]


def law_a_state_continues(run: Any, form: str, segments: Any) -> None:
    given, state, parts = inputs(form), None, []
    whole, last = jax.jit(lambda *given: run(*given, segments, None, 4))(*given)
    for first, end in ((0, 6), (6, 7), (7, T)):  # the second segment of the first row starts with a call of its own
        rows = None if segments is None else segments[:, first:end]
        y, state = run(*(x[:, :, first:end] for x in given), rows, state, 4)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, 2), whole, atol=1e-4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), state, last)


@pytest.mark.parametrize("segments", [None, PACKED], ids=["one", "packed"])
@pytest.mark.parametrize("chunk", [1, 4, 16])
@pytest.mark.parametrize("form", ALL)
def test_chunks_are_the_recurrence_token_by_token(form: str, chunk: int, segments: Any) -> None:
    law_chunks_are_the_recurrence(core(form), form, chunk, segments)


@pytest.mark.parametrize("segments", [None, PACKED], ids=["one", "packed"])
@pytest.mark.parametrize("form", ALL)
@pytest.mark.slow
def test_a_state_continues_where_it_was_left(form: str, segments: Any) -> None:
    law_a_state_continues(core(form), form, segments)


@pytest.mark.parametrize("form", ALL)
def test_gradients_of_chunks_are_those_of_the_recurrence(form: str) -> None:
    def gradient(chunk: int) -> Any:
        return jax.jit(jax.grad(lambda given: jnp.sin(core(form)(*given, PACKED, None, chunk)[0]).sum()))(inputs(form))

    for left, right in zip(gradient(4), gradient(1), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4 * (1 + np.abs(right).max()))


@pytest.mark.slow
@pytest.mark.represented_by("delta channel")
@pytest.mark.parametrize("form", ["decayed channel", "delta channel"])
def test_the_strongest_decays_a_channel_are_ten_a_token_and_stay_finite(form: str) -> None:
    *given, _ = inputs(form, 32)
    floor, below = jnp.full((B, H, 32, K), -10.0), jnp.full((B, H, 32, K), -1000.0)
    expected = one_by_one(form, (*given, floor), None)
    total, gradients = jax.value_and_grad(lambda given: core(form)(*given)[0].sum())((*given, below))
    np.testing.assert_allclose(core(form)(*given, below)[0], expected, atol=1e-3)
    assert all(np.isfinite(leaf).all() for leaf in (total, *gradients))


@pytest.mark.slow
@pytest.mark.represented_by("decayed channel")
@pytest.mark.parametrize("form", ALL)
def test_strong_decays_of_another_segment_do_no_harm(form: str) -> None:
    law_strong_decays_of_another_segment_do_no_harm(core(form), form)


@pytest.mark.slow
def test_gates_of_a_matrix_lstm_may_be_as_large_as_logarithms_go() -> None:
    query, key, value, enter, forget = inputs("matrix_lstm head")
    y, _ = matrix_lstm(query, key, value, 300 * enter, forget, chunk=4)
    same, _ = matrix_lstm(query, key, value, 300 * enter, forget, chunk=1)
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y, same, atol=1e-3)


def law_inverse_of_a_triangle(invert: Any, c: int) -> None:
    """Of a matrix whose powers are as large as binomials, and of a random one; and the derivatives of both."""
    lower = jnp.stack([-jnp.tri(c, k=-1), jnp.tri(c, k=-1) * normal(8, c, c) / c])
    exact = np.linalg.inv(np.eye(c) - np.asarray(lower, np.float64))
    weights = np.asarray(normal(9, 2, c, c), np.float64)
    found, gradient = jax.value_and_grad(lambda lower: jnp.vdot(weights.astype(np.float32), invert(lower)))(lower)
    np.testing.assert_allclose(invert(lower), exact, atol=1e-5)
    np.testing.assert_allclose(found, np.vdot(weights, exact), rtol=1e-3)
    np.testing.assert_allclose(gradient, exact.swapaxes(1, 2) @ weights @ exact.swapaxes(1, 2), atol=1e-3)


@pytest.mark.parametrize("c", [1, 11, 64])
def test_the_inverse_of_a_triangle_is_exact(c: int) -> None:
    law_inverse_of_a_triangle(invert, c)


def traced(run: Any, form: str, t: int) -> tuple[int, list[int]]:
    """The size of the largest array of a gradient's program, and the lengths of its loops."""
    program = jax.make_jaxpr(jax.grad(lambda given: run(*given)[0].sum()))(inputs(form, t))
    largest, loops, waiting = 0, [], [program.jaxpr]
    while waiting:
        for equation in waiting.pop().eqns:
            largest = max([largest, *(int(np.prod(np.shape(value.aval))) for value in equation.outvars)])
            loops += [equation.params["length"]] if equation.primitive.name == "scan" else []
            waiting += [
                getattr(inner, "jaxpr", inner)
                for inner in equation.params.values()
                if hasattr(getattr(inner, "jaxpr", inner), "eqns")
            ]
    return largest, loops


def law_memory_is_linear_and_loops_are_over_chunks(run: Any, form: str) -> None:
    (small, _), (large, loops) = traced(run, form, 512), traced(run, form, 2048)
    assert large <= 4 * small
    assert max(loops, default=0) <= 2048 // 16


@pytest.mark.parametrize("form", ALL)
def test_memory_is_linear_in_length_and_loops_are_over_chunks(form: str) -> None:
    law_memory_is_linear_and_loops_are_over_chunks(core(form), form)


def unmasked(query: Any, key: Any, value: Any, log_decay: Any, segments: Any, state: Any, chunk: Any) -> Any:
    """Broken: carries the state from one segment into the next."""
    return decay_memory(query, key, value, log_decay, None, state, chunk)


def forgetful(query: Any, key: Any, value: Any, log_decay: Any, segments: Any, state: Any, chunk: Any) -> Any:
    """Broken: begins anew with each call."""
    return decay_memory(query, key, value, log_decay, segments, None, chunk)


def quadratic(query: Any, key: Any, value: Any, log_decay: Any) -> Any:
    """Broken: all pairs at once."""
    return ((query @ key.swapaxes(2, 3)) @ value * jnp.exp(log_decay[..., None]),)


def stepwise(query: Any, key: Any, value: Any, log_decay: Any) -> Any:
    """Broken: one token after the other."""
    return decay_memory(query, key, value, log_decay, chunk=1)


def series(lower: Any) -> Any:
    """Broken: the sum of powers, which cancel."""
    power = total = jnp.broadcast_to(jnp.eye(lower.shape[-1]), lower.shape)
    for _ in range(1, lower.shape[-1]):
        power = power @ lower
        total = total + power
    return total


BROKEN = [
    (law_inverse_of_a_triangle, (series, 64)),
    (law_chunks_are_the_recurrence, (unmasked, FORMS[0], 4, PACKED)),
    (law_a_state_continues, (forgetful, FORMS[0], None)),
    (law_memory_is_linear_and_loops_are_over_chunks, (quadratic, FORMS[0])),
    (law_memory_is_linear_and_loops_are_over_chunks, (stepwise, FORMS[0])),
]


@pytest.mark.represented_by("law_inverse_of_a_triangle-given0", "law_chunks_are_the_recurrence-given1")
@pytest.mark.parametrize(("law", "given"), BROKEN)
def test_broken_components_fail(law: Any, given: Any) -> None:
    with pytest.raises(AssertionError):
        law(*given)
