"""Beam search of a causal model or an encoder-decoder."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath

from models.attention.weigh import HIDDEN
from models.contracts import Batch, Model, Tree
from models.decoding.sampling import advance, complete, prefill
from models.paths import Layer, path_name


def beam(
    model: Model, params: Tree, batch: Batch, steps: int, width: int = 4, end: int | None = None, penalty: float = 0.6
) -> tuple[jax.Array, jax.Array]:
    """Beam search: the best of `width` continuations a row.  -> tokens (b, steps) and their scores (b,).

    A score is the sum of log probabilities over ((5 + n) / 6)^penalty for n tokens (arXiv:1609.08144); a continuation
    that has ended keeps its score and is padded with `end`.
    """
    return _beam(model, params, complete(model, batch, steps), steps, width, end, penalty)


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5, 6))
def _beam(
    model: Model, params: Tree, batch: Batch, steps: int, width: int, end: int | None, penalty: float
) -> tuple[jax.Array, jax.Array]:
    b, t = batch["tokens"].shape
    length = t + steps
    logits, cache = prefill(model, params, batch, length)
    positions = batch["positions"][:, -1] + 1

    # change(array, its axis of rows) of every array of the cache
    def rows(cache: Tree, change: Callable[[jax.Array, int], jax.Array]) -> Tree:
        def apply(path: KeyPath, leaf: jax.Array) -> jax.Array:
            layer = Layer.of(path_name(path))
            return change(leaf, int(layer is not None and layer.repeats))

        return jax.tree_util.tree_map_with_path(apply, cache)

    cache = rows(cache, lambda leaf, axis: jnp.repeat(leaf, width, axis))
    v = logits.shape[-1]
    scores = jnp.full((b, width), HIDDEN).at[:, 0].set(0.0)  # beams are equal at first: extend one alone
    tokens = jnp.full((b, width, steps), 0 if end is None else end)
    done, counts = jnp.zeros((b, width), bool), jnp.zeros((b, width))
    logits = jnp.repeat(logits, width, 0).reshape(b, width, v)

    def step(carry: tuple[Tree, ...], number: jax.Array) -> tuple[tuple[Tree, ...], None]:
        cache, logits, scores, tokens, done, counts = carry
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), -1)
        if end is not None:  # an ended continuation is padded with `end`, at no cost
            log_probs = jnp.where(done[..., None], jnp.where(jnp.arange(v) == end, 0.0, HIDDEN), log_probs)
        longer = (scores[..., None] + log_probs) / (((5 + counts + ~done) / 6) ** penalty)[..., None]
        _, best = jax.lax.top_k(longer.reshape(b, -1), width)
        origin, token = best // v, best % v
        scores = jnp.take_along_axis((scores[..., None] + log_probs).reshape(b, -1), best, 1)
        tokens, done, counts = (
            jnp.take_along_axis(x, origin.reshape(b, width, *[1] * (x.ndim - 2)), 1) for x in (tokens, done, counts)
        )
        tokens, counts = tokens.at[:, :, number].set(token), counts + ~done
        done = done if end is None else done | (token == end)
        parents = (jnp.arange(b)[:, None] * width + origin).reshape(-1)
        cache = rows(cache, lambda leaf, axis: jnp.take(leaf, parents, axis))
        at = jnp.repeat(positions + number, width)
        batch = {
            "tokens": token.reshape(-1, 1),
            "segments": jnp.ones((b * width, 1), jnp.int32),
            "positions": at[:, None],
        }
        logits, cache = advance(model, params, cache, batch, t + number, length)
        return (cache, logits.reshape(b, width, v), scores, tokens, done, counts), None

    (_, _, scores, tokens, _, counts), _ = jax.lax.scan(
        step, (cache, logits, scores, tokens, done, counts), jnp.arange(steps)
    )
    scores = scores / ((5 + counts) / 6) ** penalty
    best = scores.argmax(-1)[:, None]
    return jnp.take_along_axis(tokens, best[..., None], 1)[:, 0], jnp.take_along_axis(scores, best, 1)[:, 0]
