"""Speculative decoding: a draft foretells the next tokens, and the model verifies all of them in one pass.

Speculative sampling: arXiv:2211.17192 and arXiv:2302.01318, with drafts that are certain of their tokens.
"""

import functools
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from models.attention.weigh import HIDDEN
from models.context import Decoding
from models.contracts import Batch, Model, Tree
from models.decoding.decodable import name_states
from models.decoding.sampling import MOST, Sampler, advance, complete, plan_dispatch, prefill
from models.largest import find_largest


class Draft(Protocol):
    """Foretells tokens.  A pytree, so that its parameters are arguments of the compiled program."""

    @property
    def count(self) -> int:
        """The number of tokens that are foretold at once."""
        ...

    def check(self, batch: Batch, length: int) -> None:
        """Raises ValueError if this cannot foretell a text of these prompts (b, t), of `length` tokens a row."""
        ...

    def start(self, row: Batch, length: int) -> Tree:
        """The state for a prompt, a batch of one row, and `length` tokens in all."""
        ...

    def propose(self, state: Tree, tokens: jax.Array, known: jax.Array, first: jax.Array) -> tuple[jax.Array, Tree]:
        """Foretells the tokens that follow the first `known` of `tokens` (length,), whose text begins at `first`.

        Gives the tokens (count,) and the state, which may hold foretold tokens: those that turn out otherwise are
        written over.
        """
        ...


@flax.struct.dataclass
class Lookup:
    """Foretells what followed the last tokens where they occurred before.  arXiv:2304.04487.

    The latest earlier occurrence of the last `longest` tokens is sought, then of one fewer, down to one.  What follows
    is copied, and again from its beginning once it reaches the end of the text, so that a repetition is continued.
    """

    count: int = flax.struct.field(pytree_node=False, default=4)
    longest: int = flax.struct.field(pytree_node=False, default=4)

    def check(self, batch: Batch, length: int) -> None:
        """Accepts all texts."""

    def start(self, row: Batch, length: int) -> Tree:
        """Gives no state."""
        return ()

    def propose(self, state: Tree, tokens: jax.Array, known: jax.Array, first: jax.Array) -> tuple[jax.Array, Tree]:
        """Copies tokens; without an earlier occurrence, the last token."""
        ends = jnp.arange(tokens.shape[0])  # index after an occurrence
        equal, begin = jnp.ones_like(ends, bool), known - 1
        for size in range(self.longest):
            # the token `size` before the end of the occurrence, and of the text
            equal &= (jnp.roll(tokens, size + 1) == tokens[known - 1 - size]) & (ends - 1 - size >= first)
            latest = jnp.where(equal & (ends < known), ends, -1).max()
            begin = jnp.where(latest >= 0, latest, begin)
        return tokens[begin + jnp.arange(self.count) % (known - begin)], state


@flax.struct.dataclass
class Drafter:
    """Foretells the tokens that another model finds likeliest: a smaller one, over the same vocabulary."""

    model: Model = flax.struct.field(pytree_node=False)
    params: Tree
    count: int = flax.struct.field(pytree_node=False, default=4)

    def check(self, batch: Batch, length: int) -> None:
        """Raises ValueError if the model cannot decode, or not take tokens back."""
        complete(self.model, batch, length - batch["tokens"].shape[1])
        require_rewindable(self.model, self.params, batch)

    def start(self, row: Batch, length: int) -> Tree:
        """The cache after the prompt."""
        return prefill(self.model, self.params, row, length)[1]

    def propose(self, state: Tree, tokens: jax.Array, known: jax.Array, first: jax.Array) -> tuple[jax.Array, Tree]:
        """Decodes greedily; the last foretold token enters the cache too, in case that all of them are right."""

        def step(carry: tuple[Tree, jax.Array], index: jax.Array) -> tuple[tuple[Tree, jax.Array], jax.Array]:
            cache, token = carry
            logits, cache = advance(self.model, self.params, cache, _feed(token[None], index - first), index, room)
            token = find_largest(logits[0]).astype(tokens.dtype)
            return (cache, token), token

        room = tokens.shape[0]
        (state, _), drafts = jax.lax.scan(step, (state, tokens[known - 1]), known - 1 + jnp.arange(self.count + 1))
        return drafts[:-1], state


@flax.struct.dataclass
class Texts:
    """n texts while they are decoded, each at its own place; of a single one the arrays have no axis of texts.

    `cache` and `drafted` hold one row each (n, ...); `tokens` (n, length) those of prompts and answers, of which
    `known` (n,) are decided, from `first` (n,) on; the last of them is not in the cache yet.  `keys` (n,).
    """

    cache: Tree
    drafted: Tree
    tokens: jax.Array
    known: jax.Array
    first: jax.Array
    keys: jax.Array


Passes = tuple[jax.Array, jax.Array, jax.Array, Texts]  # of a dispatch: their number, tokens, how many hold, texts
LOOKUP, LIKELIEST = Lookup(), Sampler()


def speculate(
    model: Model,
    params: Tree,
    batch: Batch,
    steps: int,
    draft: Draft = LOOKUP,
    sampler: Sampler = LIKELIEST,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Yields the `steps` tokens that follow the prompts, as many at a time as a pass decides for every row: (b, m).

    One dispatch makes as many passes as `generate` makes tokens.  The likeliest tokens are those of `generate`, up to
    rounding of equal logits; drawn ones have the same distribution, and are others for a seed.  `batch` is the output
    of `padded`.  Raises ValueError if a layer cannot decode, or keeps a state that cannot be taken back.
    """
    batch = complete(model, batch, steps)
    require_rewindable(model, params, batch)
    t = batch["tokens"].shape[1]
    length = t + steps + draft.count  # the last pass may foretell more than is asked for
    draft.check(batch, length)
    first, texts = _open(model, params, batch, draft, sampler, seed, length)
    tokens = np.atleast_1d(first)
    if steps:
        yield tokens[:, None]
    rows, done, passes = [[token] for token in tokens.tolist()], 1, 1
    while done < steps:
        began = time.perf_counter()
        made, new, counts, texts = _verify(model, params, texts, draft, jnp.asarray(passes), t + steps, sampler)
        new, counts = np.asarray(new), np.asarray(counts)
        passes = plan_dispatch(int(made), time.perf_counter() - began)
        for number in range(int(made)):
            for row, tokens, count in zip(rows, np.atleast_2d(new[number]), np.atleast_1d(counts[number]), strict=True):
                row.extend(tokens[:count].tolist())
            if (ready := min(min(map(len, rows)), steps)) > done:
                yield np.array([row[done:ready] for row in rows])
                done = ready


def require_rewindable(model: Model, params: Tree, batch: Batch) -> None:
    """Raises ValueError if something that a model keeps while decoding has no place for each token."""
    row = jax.tree.map(lambda leaf: leaf[:1], dict(batch))
    t = row["tokens"].shape[1]
    caches = {
        length: jax.eval_shape(lambda params, length=length: prefill(model, params, row, length)[1], params)
        for length in (t, 4 * t)
    }
    if states := name_states(caches):
        raise ValueError(
            f"The model keeps {states[0]}, which has no place for each token, so that tokens that were foretold and"
            " turn out otherwise cannot be taken back; decode without a draft."
        )


def _feed(tokens: jax.Array, position: jax.Array) -> Mapping[str, jax.Array]:
    """Tokens (t,) from a position on as a batch of one row."""
    positions = position + jnp.arange(tokens.shape[0])
    return {"tokens": tokens[None], "segments": jnp.ones_like(tokens)[None], "positions": positions[None]}


@functools.partial(jax.jit, static_argnums=(0, 4, 6))
def _open(
    model: Model, params: Tree, batch: Batch, draft: Draft, sampler: Sampler, seed: int, length: int
) -> tuple[jax.Array, Texts]:
    b, t = batch["tokens"].shape
    keys = jax.random.split(jax.random.key(seed), b)

    def begin(row: Batch, key: jax.Array) -> tuple[jax.Array, Texts]:
        row = jax.tree.map(lambda leaf: leaf[None], row)
        logits, cache = prefill(model, params, row, length)
        key, drawn = jax.random.split(key)
        token = sampler(logits, drawn)[0].astype(jnp.int32)
        tokens = jnp.zeros(length, jnp.int32).at[:t].set(row["tokens"][0]).at[t].set(token)
        first = t - 1 - row["positions"][0, -1]
        return token, Texts(cache, draft.start(row, length), tokens, jnp.asarray(t + 1), first, key)

    if b == 1:  # an update at one place of the cache is done in place, those at each text's own are not
        return begin(jax.tree.map(lambda leaf: leaf[0], dict(batch)), keys[0])
    return jax.vmap(begin)(dict(batch), keys)


@functools.partial(jax.jit, static_argnums=(0, 6), donate_argnums=2)
def _verify(
    model: Model, params: Tree, texts: Texts, draft: Draft, passes: jax.Array, end: jax.Array, sampler: Sampler
) -> tuple[jax.Array, jax.Array, jax.Array, Texts]:
    """Passes, at most `passes` and until `end` tokens of every text are known.

    Gives their number, the tokens (MOST, n, count + 1) that they foretell of each text and how many of them hold
    (MOST, n), at least one.
    """

    def verify(text: Texts) -> tuple[jax.Array, jax.Array, Texts]:
        drafts, drafted = draft.propose(text.drafted, text.tokens, text.known, text.first)
        fed, index = jnp.concatenate([text.tokens[text.known - 1][None], drafts]), text.known - 1
        logits, cache = model.apply(
            {"params": params, "cache": text.cache},
            _feed(fed, index - text.first),
            decoding=Decoding(index, text.tokens.shape[0], False),
            mutable=["cache"],
        )
        key, drawn = jax.random.split(text.keys)
        new, count = judge(sampler, logits[0], drafts, drawn)
        tokens = jax.lax.dynamic_update_slice_in_dim(text.tokens, new, text.known, 0)
        known = text.known + count * (text.known < end)
        return new, count, Texts(cache["cache"], drafted, tokens, known, text.first, key)

    def go_on(carry: Passes) -> jax.Array:
        number, _, _, texts = carry
        return (number < passes) & (texts.known < end).any()

    def make_pass(carry: Passes) -> Passes:
        number, foretold, held, texts = carry
        new, counts, texts = verify(texts) if texts.known.ndim == 0 else jax.vmap(verify)(texts)
        return number + 1, foretold.at[number].set(new), held.at[number].set(counts), texts

    held = jnp.zeros((MOST, *texts.known.shape), jnp.int32)
    foretold = jnp.zeros((*held.shape, draft.count + 1), jnp.int32)
    return jax.lax.while_loop(go_on, make_pass, (jnp.zeros((), jnp.int32), foretold, held, texts))


def judge(sampler: Sampler, logits: jax.Array, drafts: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The next tokens (k + 1,) by logits (k + 1, v) and drafts (k,), and how many of them hold, from 1 to k + 1.

    A draft holds while all before it do, by its own probability p; at the first that does not, the token is drawn from
    the others' probabilities over 1 - p, and after the last draft from all.
    """
    if sampler.temperature == 0:
        chosen = find_largest(logits).astype(drafts.dtype)
        return chosen, 1 + jnp.cumprod(chosen[:-1] == drafts).sum()
    logs, (accepting, drawing) = sampler.filter(logits), jax.random.split(key)
    probs = jnp.take_along_axis(jax.nn.softmax(logs[:-1], -1), drafts[:, None], 1)[:, 0]
    held = jnp.cumprod(jax.random.uniform(accepting, probs.shape) < probs).sum()
    refused = jnp.append(drafts, -1)[held]
    others = jnp.where(jnp.arange(logs.shape[-1]) == refused, HIDDEN, logs[held])
    last = jax.random.categorical(drawing, others).astype(drafts.dtype)
    return jnp.append(drafts, last).at[held].set(last), 1 + held
