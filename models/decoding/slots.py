"""Continuous batching: rows of a fixed number of slots, each at its own place in its own text, in one compiled step.

Orca: iteration-level scheduling, Yu et al., OSDI 2022.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from models.attention.weigh import HIDDEN
from models.contracts import Batch, Model, Tree
from models.decoding.sampling import advance, prefill


@flax.struct.dataclass
class Slots:
    """Decoding states of n texts: caches of one row each (n, ...), and what the next token is drawn from.

    `logits` (n, v); `index` (n,), the number of tokens in each cache; `position` (n,) of the next token in its text;
    `keys` (n,) of the random numbers.
    """

    cache: Tree
    logits: jax.Array
    index: jax.Array
    position: jax.Array
    keys: jax.Array


class Draws(NamedTuple):
    """The fields of a `Sampler` for every slot, (n,) each; `top_k` 0, `top_p` 1 and `min_p` 0 keep every token."""

    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    min_p: np.ndarray

    @classmethod
    def fill(cls, count: int) -> "Draws":
        """Settings of `count` slots that take the likeliest token."""
        zeros = functools.partial(np.zeros, count)
        return cls(zeros(np.float32), zeros(np.int32), np.ones(count, np.float32), zeros(np.float32))


def choose_lengths(longest: int, factor: int = 4, least: int = 16) -> tuple[int, ...]:
    """Chooses the lengths that prompts of up to `longest` tokens are padded to, each `factor` times the one before.

    >>> choose_lengths(256)
    (16, 64, 256)
    """
    lengths: list[int] = []
    while least < longest:
        lengths.append(least)
        least *= factor
    return (*lengths, longest)


def count_room(lengths: Sequence[int], most: int) -> int:
    """Counts the tokens that a cache must have room for: texts of up to `most` tokens, their prompts padded."""
    shortest = (1, *(length + 1 for length in lengths[:-1]))  # prompts that are padded to each length
    return max(length + most - short for length, short in zip(lengths, shortest, strict=True))


def pad_prompt(prompt: Sequence[int], lengths: Sequence[int]) -> dict[str, np.ndarray]:
    """A prompt as a batch of one row, padded on the left to the smallest of `lengths` that holds it."""
    t = next(length for length in lengths if length >= len(prompt))
    first = t - len(prompt)
    batch = {name: np.zeros((1, t), np.int32) for name in ("tokens", "segments", "positions")}
    batch["tokens"][0, first:] = prompt
    batch["segments"][0, first:] = 1
    batch["positions"][0, first:] = np.arange(len(prompt))
    return batch


def open_slots(model: Model, params: Tree, count: int, length: int) -> Slots:
    """Makes `count` empty slots whose caches have room for `length` tokens.  Raises ValueError if a layer cannot."""
    batch = jax.tree.map(jnp.asarray, pad_prompt([0], (2,)))
    shapes = jax.eval_shape(lambda params: prefill(model, params, batch, length), params)
    logits, cache = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), shapes)
    whole = functools.partial(jnp.zeros, count, jnp.int32)
    return Slots(cache, logits[:, 0], whole(), whole(), jax.random.split(jax.random.key(0), count))


@functools.partial(jax.jit, static_argnums=(0, 6), donate_argnums=2)
def admit(
    model: Model, params: Tree, slots: Slots, batch: Batch, slot: jax.Array, seed: jax.Array, length: int
) -> Slots:
    """Fills a slot with a prompt of `pad_prompt`; the slots are consumed.  Compiled once for each padded length."""
    logits, cache = prefill(model, params, batch, length)
    t = batch["tokens"].shape[1]
    start = Slots(cache, logits[0], jnp.asarray(t), batch["positions"][0, -1] + 1, jax.random.key(seed))
    return jax.tree.map(lambda all, part: all.at[slot].set(part), slots, start)


@functools.partial(jax.jit, static_argnums=(0, 5), donate_argnums=2)
def decode(
    model: Model, params: Tree, slots: Slots, draws: Draws, busy: jax.Array, length: int
) -> tuple[jax.Array, Slots]:
    """Draws the next token (n,) of every slot and advances those that are `busy` (n,); the slots are consumed.

    A slot's tokens are those of `generate` with the same prompt, sampler and seed, whatever the others hold.
    """
    keys, sample_keys = jnp.moveaxis(jax.vmap(jax.random.split)(slots.keys), 1, 0)
    tokens = draw(slots.logits, sample_keys, draws)

    def step(cache: Tree, token: jax.Array, index: jax.Array, position: jax.Array) -> tuple[jax.Array, Tree]:
        row = {"tokens": token, "segments": jnp.ones_like(token), "positions": position}
        batch = {name: value[None, None] for name, value in row.items()}
        return advance(model, params, cache, batch, index, length)

    logits, cache = jax.vmap(step)(slots.cache, tokens, slots.index, slots.position)
    return tokens, Slots(cache, logits[:, 0], slots.index + busy, slots.position + busy, keys)


def draw(logits: jax.Array, keys: jax.Array, draws: Draws) -> jax.Array:
    """Draws a token for every row as a `Sampler` of its settings does.  (n, v) and keys (n,) -> (n,)."""
    warm = draws.temperature > 0
    scaled = logits.astype(jnp.float32) / jnp.where(warm, draws.temperature, 1.0)[:, None]
    filters = (draws.top_k > 0) | (draws.top_p < 1) | (draws.min_p > 0)
    kept = jax.lax.cond(filters.any(), _filter, lambda logits, draws: logits, scaled, draws)
    drawn = jax.vmap(lambda key, row: jax.random.categorical(key, row[None])[0])(keys, kept)
    return jnp.where(warm, drawn, logits.argmax(-1)).astype(jnp.int32)


def _filter(logits: jax.Array, draws: Draws) -> jax.Array:
    """The logits (n, v), with those of dropped tokens at HIDDEN."""
    v = logits.shape[-1]
    ordered = jnp.sort(logits, axis=-1, descending=True)
    last = jnp.where(draws.top_k > 0, jnp.minimum(draws.top_k, v), v) - 1
    least = jnp.take_along_axis(ordered, last[:, None], axis=-1)
    ordered = jnp.where(ordered < least, HIDDEN, ordered)
    probs = jax.nn.softmax(ordered, axis=-1)
    count = ((jnp.cumsum(probs, axis=-1) - probs) < draws.top_p[:, None]).sum(-1, keepdims=True)
    nucleus = jnp.take_along_axis(ordered, jnp.where(draws.top_p[:, None] < 1, count, v) - 1, axis=-1)
    likely = ordered[:, :1] + jnp.log(draws.min_p)[:, None]  # -inf for 0
    return jnp.where(logits < jnp.maximum(jnp.maximum(least, nucleus), likely), HIDDEN, logits)
