"""Laws of decoding: one token after the other is one pass, a prompt has parts, foretold tokens are taken back."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from models.context import Context, Decoding, Memory
from models.contracts import Tree
from models.decoding.decodable import name_states
from models.laws.carrier import apply_to
from models.laws.inputs import WIDTH, Component, name_tokens, normal, parameters
from models.laws.layer import SHORT
from models.laws.verdict import BrokenLawError, NotTestedError, require, require_close, require_up_to_rounding

PROMPT, PADDING = 4, 2  # tokens of the prompt, of which the first row's first are padding
GUESSES = 3  # tokens that are foretold at once


def pad_prompts(length: int) -> Context:
    """Two prompts of unequal length, padded on the left, and the tokens after them; with memory."""
    index = np.arange(length)
    return Context(
        positions=jnp.asarray(np.stack([np.maximum(index - PADDING, 0), index])),
        segments=jnp.asarray(np.stack([(index >= PADDING).astype(int), np.ones(length, int)])),
        memory=Memory(normal(3, 2, 8, WIDTH), jnp.array([[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]])),
    )


@functools.lru_cache(maxsize=64)
def decode(layer: Component, length: int) -> tuple[np.ndarray, np.ndarray, Tree]:
    """Outputs of one token after the other, outputs of one pass, and the cache at the end."""
    x, params, whole = normal(4, 2, length, WIDTH), parameters(layer), pad_prompts(length)
    y, cache = jax.jit(lambda x: _call(layer, params, x, {}, 0, PROMPT, length, True))(x)
    advance = jax.jit(lambda x, cache, first: _call(layer, params, x, cache, first, 1, length, False))
    parts = [y]
    for first in range(PROMPT, length):
        y, after = advance(x, cache, first)
        kept, now = (jax.tree.map(lambda leaf: leaf.aval.str_short(), each) for each in (cache, after))
        require(kept == now, f"what is kept is {kept} before token {first} and {now} after it")
        cache = after
        parts.append(y)
    return np.concatenate(parts, 1), np.asarray(jax.jit(lambda x: apply_to(layer, x, whole))(x)), cache


def _call(
    layer: Component,
    params: Tree,
    x: jax.Array,
    cache: Tree,
    first: jax.Array | int,
    count: int,
    room: int,
    start: bool,
) -> tuple[jax.Array, Tree]:
    """Outputs for `count` tokens of x from `first` on, and the cache, which has room for `room` tokens."""
    whole = pad_prompts(x.shape[1])
    assert whole.positions is not None
    assert whole.segments is not None
    part = jax.lax.dynamic_slice_in_dim(x, first, count, 1)
    ctx = Context(
        positions=jax.lax.dynamic_slice_in_dim(whole.positions, first, count, 1),
        segments=jax.lax.dynamic_slice_in_dim(whole.segments, first, count, 1),
        memory=whole.memory,
        tokens=name_tokens(part),
        decoding=Decoding(first, room, start),
    )
    y, cache = layer.apply({"params": params, **cache}, part, ctx, mutable=["cache"])
    return y[0] if isinstance(y, tuple) else y, cache


def law_decoding_is_one_pass(layer: Component, length: int = SHORT) -> None:
    """Two left-padded prompts of unequal length, then one token after the other, give the outputs of one pass."""
    parts, expected, _ = decode(layer, length)
    _require_one_pass(layer, parts, expected)


def law_a_prompt_in_parts_is_one_pass(layer: Component, length: int = SHORT) -> None:
    """Two left-padded prompts of `length` tokens, of which 2/5 come at once, then 2/5, then the rest, are one pass."""
    part = max(2 * length // 5, 1)
    parts = (part, part, length - 2 * part)
    x, params, whole = normal(4, 2, length, WIDTH), parameters(layer), pad_prompts(length)
    cache: Tree = {}
    outputs: list[jax.Array] = []
    for first, count in zip(itertools.accumulate(parts, initial=0), parts, strict=False):
        run = jax.jit(
            lambda x, cache, first, count=count, start=first == 0: _call(
                layer, params, x, cache, 0 if start else first, count, length, start
            )
        )
        y, cache = run(x, cache, first)
        outputs.append(y)
    _require_one_pass(layer, np.concatenate(outputs, 1), np.asarray(jax.jit(lambda x: apply_to(layer, x, whole))(x)))


def law_foretold_tokens_are_taken_back(layer: Component, length: int = SHORT) -> None:
    """Several tokens at once, and before them others in the same places, give the outputs of one pass.

    This is what a pass of speculative decoding does when drafts turn out otherwise.  A layer that keeps a state is not
    tested: what has no place for each token cannot be taken back.
    """
    x, params, whole = normal(4, 2, length, WIDTH), parameters(layer), pad_prompts(length)
    kept = {
        room: jax.eval_shape(lambda x, room=room: _call(layer, params, x, {}, 0, PROMPT, room, True)[1], x)
        for room in (length, 4 * length)
    }
    if states := name_states(kept):
        raise NotTestedError(f"keeps a state, {states[0]}")
    y, cache = jax.jit(lambda x: _call(layer, params, x, {}, 0, PROMPT, length, True))(x)
    advance = jax.jit(lambda x, cache, first: _call(layer, params, x, cache, first, GUESSES, length, False))
    parts = [y]
    for first in range(PROMPT, length - GUESSES + 1, GUESSES):
        _, cache = advance(jnp.flip(x), cache, first)
        y, cache = advance(x, cache, first)
        parts.append(y)
    expected = np.asarray(jax.jit(lambda x: apply_to(layer, x, whole))(x))
    _require_one_pass(layer, np.concatenate(parts, 1), expected)


def _require_one_pass(layer: Component, parts: np.ndarray, expected: np.ndarray) -> None:
    """Compares the outputs of tokens that came in parts with those of one pass, but for padding."""
    length = expected.shape[1]
    whole = pad_prompts(length)
    real = np.asarray(whole.segments) > 0

    def compare(tolerance: float) -> None:
        for token in range(parts.shape[1]):
            row = real[:, token]
            try:
                require_close(parts[row, token], expected[row, token], tolerance)
            except BrokenLawError as error:
                raise BrokenLawError(f"token {token} of {length}, which came in parts: {error}") from None

    one_pass = jax.jit(lambda x: apply_to(layer, x, whole) * real[..., None])
    require_up_to_rounding(compare, one_pass, np.asarray(normal(4, 2, length, WIDTH)))
