"""Recurrences with a matrix state, one token after the other, and the laws of their chunks."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from models.recurrence.chunked import State
from models.recurrence.decayed import decay_memory
from models.recurrence.delta import delta
from models.recurrence.levels import Buckets, decay_levels
from models.recurrence.mlstm import Levelled, matrix_lstm
from tests.laws.components import normal

Core = Callable[..., tuple[jax.Array, State | Levelled | Buckets]]
B, H, T, K, V = 2, 3, 11, 4, 5
PACKED = np.array([[1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 0], [0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 2]])


def inputs(form: str, t: int = T) -> tuple[jax.Array, ...]:
    """The arguments of a core: queries, keys, values, for delta p and r, then its gates."""
    core, decay = form.split()
    query, key = (normal(seed, B, H, t, K) for seed in (1, 2))
    value, given = normal(3, B, H, t, V), (query, key)
    if core == "delta":
        p = normal(4, B, H, t, K)
        p, r = p / 2, -p / jnp.square(p).sum(-1, keepdims=True)
        return (*given, value, p, r, gate(decay, t))
    if core == "levels":  # 4 of them, while the places of T tokens have 5
        return (*given, value, jnp.exp(normal(6, B, H, t, 4)), gate("head", t))
    return (
        (*given, value, 2 * normal(6, B, H, t), gate("head", t))
        if core == "matrix_lstm"
        else (*given, value, gate(decay, t))
    )


def gate(decay: str, t: int) -> jax.Array:
    """Log decays, none below what the core takes a channel."""
    return jnp.maximum(-jnp.exp(normal(5, B, H, t) if decay == "head" else normal(5, B, H, t, K)), -8)


def one_by_one(form: str, given: Sequence[ArrayLike], segments: np.ndarray | None) -> np.ndarray:
    """The recurrence as its docstring says it."""
    wide = [np.asarray(x, np.float64) for x in given]
    y = np.zeros((B, H, wide[0].shape[2], V))
    for b, h in np.ndindex(B, H):
        memory, normaliser, place, levels = np.zeros((K, V)), np.zeros(K), 0, np.zeros((4, K, V))
        for t in range(y.shape[2]):
            query, key, value, *more = (x[b, h, t] for x in wide)
            if segments is not None and t and segments[b, t] != segments[b, t - 1]:
                memory, normaliser, place, levels = np.zeros((K, V)), np.zeros(K), 0, np.zeros((4, K, V))
            if form.startswith("levels"):
                levels = np.exp(more[1]) * merge_levels(levels, place)
                levels[0] = np.outer(key, value)
                y[b, h, t], place = np.einsum("k,l,lkv->v", query, more[0], levels), place + 1
                continue
            if form.startswith("matrix_lstm"):
                enter, forget = np.exp(more)
                memory, normaliser = forget * memory + enter * np.outer(key, value), forget * normaliser + enter * key
                y[b, h, t] = query @ memory / max(abs(query @ normaliser), 1)
                continue
            transition = np.diag(np.broadcast_to(np.exp(more[-1]), K))
            if form.startswith("delta"):
                transition = transition + np.outer(more[0], more[1])
            memory = transition @ memory + np.outer(key, value)
            y[b, h, t] = query @ memory
    return y


def merge_levels(levels: np.ndarray, place: int) -> np.ndarray:
    """The states before a token is written: as in arXiv:2506.04761, section 3.2, those up to the place's lowest bit are
    added to one, at the last level what lies beyond.
    """
    if not place:
        return levels
    lowest = min((place & -place).bit_length(), len(levels) - 1)
    merged = np.where(np.arange(len(levels))[:, None, None] > lowest, levels, 0.0)
    merged[lowest] = levels[: lowest + 1].sum(0)
    return merged


def core(form: str) -> Core:
    return {"decayed": decay_memory, "delta": delta, "matrix_lstm": matrix_lstm, "levels": decay_levels}[
        form.split()[0]
    ]


def law_chunks_are_the_recurrence(run: Core, form: str, chunk: int, segments: np.ndarray | None) -> None:
    given = inputs(form)
    y = jax.jit(lambda *given: run(*given, segments, None, chunk)[0])(*given)
    np.testing.assert_allclose(y, one_by_one(form, given, segments), atol=1e-4)


def law_strong_decays_of_another_segment_do_no_harm(run: Core, form: str) -> None:
    """An example that decays to less than any float holds stands before another one in the same chunk."""
    *given, _ = inputs(form, 40)
    strong = jnp.full(given[0].shape[: 3 + form.endswith("channel")], -5.0 if form.endswith("head") else -9.0)
    segments = np.repeat([[1, 2]], [30, 10], axis=1).repeat(B, 0)
    total, gradients = jax.value_and_grad(lambda given: run(*given, segments)[0].sum())((*given, strong))
    np.testing.assert_allclose(
        run(*given, strong, segments)[0], one_by_one(form, (*given, strong), segments), atol=1e-3
    )
    assert all(np.isfinite(leaf).all() for leaf in (total, *gradients, run(*given, strong, segments)[1].memory))
