"""Continuous batching: rows of a fixed number of slots, each at its own place in its own text, in one compiled step.

Orca: iteration-level scheduling, Yu et al., OSDI 2022.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from models.attention.weigh import HIDDEN
from models.contracts import Batch, Model, Tree
from models.decoding.packing import compile_both, transpose_kernels
from models.decoding.sampling import MOST, advance, prefill
from models.largest import find_largest


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


def choose_part(platform: str) -> int:
    """Chooses the number of a prompt's tokens that are computed at once, between two tokens of the other slots."""
    return 64 if platform == "cpu" else 256


def choose_lengths(longest: int, factor: int = 4, least: int = 16) -> tuple[int, ...]:
    """Chooses the lengths that parts of up to `longest` tokens are padded to, each `factor` times the one before.

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
    shortest = (1, *(length + 1 for length in lengths[:-1]))  # first parts that are padded to each length
    return most + max(length - short for length, short in zip(lengths, shortest, strict=True))


def cut_prompt(prompt: Sequence[int], lengths: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """A prompt as batches of one row: parts of the longest of `lengths`, before them the rest of the tokens.

    The first part is padded on the left to the smallest of `lengths` that holds it.
    """
    part = lengths[-1]
    count = (len(prompt) - 1) % part + 1
    padding = next(length for length in lengths if length >= count) - count
    whole = {name: np.zeros((1, padding + len(prompt)), np.int32) for name in ("tokens", "segments", "positions")}
    whole["tokens"][0, padding:] = prompt
    whole["segments"][0, padding:] = 1
    whole["positions"][0, padding:] = np.arange(len(prompt))
    edges = [0, *range(padding + count, padding + len(prompt) + 1, part)]
    return [
        {name: values[:, first:last] for name, values in whole.items()} for first, last in itertools.pairwise(edges)
    ]


def open_slots(model: Model, params: Tree, count: int, length: int) -> Slots:
    """Makes `count` empty slots whose caches have room for `length` tokens.  Raises ValueError if a layer cannot."""
    batch = jax.tree.map(jnp.asarray, cut_prompt([0], (2,))[0])
    shapes = jax.eval_shape(lambda params: prefill(model, params, batch, length), params)
    logits, cache = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), shapes)
    whole = functools.partial(jnp.zeros, count, jnp.int32)
    return Slots(cache, logits[:, 0], whole(), whole(), jax.random.split(jax.random.key(0), count))


def choose_sizes(most: int) -> tuple[int, ...]:
    """Chooses the numbers of slots that a step is compiled for: it computes all, also those that are free.

    >>> choose_sizes(24)
    (1, 4, 8, 16, 24)
    """
    return (1, *choose_lengths(most, 2, 4)) if most > 1 else (1,)


@functools.partial(jax.jit, static_argnums=1)
def resize(slots: Slots, size: int) -> Slots:
    """The first `size` slots, or all and as many further ones as are missing."""
    taken = np.minimum(np.arange(size), len(slots.index) - 1)
    return jax.tree.map(lambda leaf: leaf[taken], slots)


@functools.partial(jax.jit, static_argnums=(0, 3))
def begin_prompts(model: Model, params: Tree, parts: Batch, length: int) -> tuple[jax.Array, Tree]:
    """The logits (r, 1, v) and the caches (r, ...) of one row after the first parts (r, t) of so many prompts."""

    def begin(part: Batch) -> tuple[jax.Array, Tree]:
        return prefill(model, params, jax.tree.map(lambda leaf: leaf[None], part), length)

    return _map_rows(begin, parts)


@functools.partial(jax.jit, static_argnums=(0, 5), donate_argnums=2)
def extend_prompts(
    model: Model, params: Tree, caches: Tree, parts: Batch, index: jax.Array, length: int
) -> tuple[jax.Array, Tree]:
    """The same after another part of each, before which they have `index` (r,) tokens; the caches are consumed."""

    def extend(cache: Tree, part: Batch, index: jax.Array) -> tuple[jax.Array, Tree]:
        return advance(model, params, cache, jax.tree.map(lambda leaf: leaf[None], part), index, length)

    return _map_rows(extend, caches, parts, index)


def _map_rows(run: Callable[..., Tree], *rows: Tree) -> Tree:
    """`run` of each row.  A single one updates its place in a cache there, where those of several are scattered."""
    if len(jax.tree.leaves(rows)[0]) > 1:
        return jax.vmap(run)(*rows)
    return jax.tree.map(lambda leaf: leaf[None], run(*jax.tree.map(lambda leaf: leaf[0], rows)))


@functools.partial(jax.jit, donate_argnums=0)
def admit(
    slots: Slots,
    places: jax.Array,
    logits: jax.Array,
    caches: Tree,
    index: jax.Array,
    position: jax.Array,
    seeds: jax.Array,
) -> Slots:
    """Fills the slots of `places` (r,) with what `begin_prompts` or `extend_prompts` gave; the slots are consumed."""
    start = Slots(caches, logits[:, 0], index, position, jax.vmap(jax.random.key)(seeds))
    return jax.tree.map(lambda all, part: all.at[places].set(part), slots, start)


def decode(
    model: Model,
    params: Tree,
    slots: Slots,
    draws: Draws,
    busy: jax.typing.ArrayLike,
    count: jax.typing.ArrayLike,
    length: int,
    packed: bool = False,
) -> tuple[jax.Array, Slots]:
    """Draws the next `count` tokens, the first of (MOST, n), of every slot, and advances those that are `busy` (n,).

    The slots are consumed.  A slot's tokens are those of `generate` with the same prompt, sampler and
    seed, whatever the others hold.  `packed` says that the kernels are stored by their outputs.
    """
    return _decode[packed](model, params, slots, draws, busy, count, length)


def _draw_all(
    packed: bool,
    model: Model,
    params: Tree,
    slots: Slots,
    draws: Draws,
    busy: jax.Array,
    count: jax.Array,
    length: int,
) -> tuple[jax.Array, Slots]:
    def step(cache: Tree, token: jax.Array, index: jax.Array, position: jax.Array) -> tuple[jax.Array, Tree]:
        row = {"tokens": token, "segments": jnp.ones_like(token), "positions": position}
        batch = {name: value[None, None] for name, value in row.items()}
        usual = transpose_kernels(params) if packed else params  # in the loop, where products read them
        return advance(model, usual, cache, batch, index, length)

    def draw_next(number: jax.Array, carry: tuple[jax.Array, Slots]) -> tuple[jax.Array, Slots]:
        tokens, slots = carry
        keys, sample_keys = jnp.moveaxis(jax.vmap(jax.random.split)(slots.keys), 1, 0)
        token = draw(slots.logits, sample_keys, draws)
        logits, cache = _map_rows(step, slots.cache, token, slots.index, slots.position)
        slots = Slots(cache, logits[:, 0], slots.index + busy, slots.position + busy, keys)
        return tokens.at[number].set(token), slots

    return jax.lax.fori_loop(0, count, draw_next, (jnp.zeros((MOST, len(busy)), jnp.int32), slots))


_decode = compile_both(_draw_all, static=(0, 6), donated=2)


def draw(logits: jax.Array, keys: jax.Array, draws: Draws) -> jax.Array:
    """Draws a token for every row as a `Sampler` of its settings does.  (n, v) and keys (n,) -> (n,)."""
    warm = draws.temperature > 0
    scaled = logits.astype(jnp.float32) / jnp.where(warm, draws.temperature, 1.0)[:, None]
    filters = (draws.top_k > 0) | (draws.top_p < 1) | (draws.min_p > 0)
    kept = jax.lax.cond(filters.any(), _filter, lambda logits, draws: logits, scaled, draws)
    drawn = jax.vmap(lambda key, row: jax.random.categorical(key, row[None])[0])(keys, kept)
    return jnp.where(warm, drawn, find_largest(logits))


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
