"""The core that every form of attention shares: who sees whom, scores, weights, in blocks where a token sees only its neighbourhood."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from models.backend import capability, kind, platform
from models.cache import extend, index_extended, index_new
from models.context import Context
from models.contracts import Relative, Weigh
from models.implementation import Call, Implementation, choose_implementation
from models.kernels import SAVED, attend_fused, attend_splash
from models.weigh import HIDDEN, Softmax, hide

NOWHERE = -(10**9)  # the index of a token that stands for none


@flax.struct.dataclass
class Tokens:
    """Places of tokens: index (1 or b, t) in the row, positions (1 or b, t) in their example, segments (b, t) or None.

    `aligned` says that positions are the indices, so that chunks begin at multiples of their length in the row.
    """

    index: jax.Array
    positions: jax.Array
    segments: jax.Array | None = None
    aligned: bool = flax.struct.field(pytree_node=False, default=False)


@flax.struct.dataclass
class Reach:
    """Visibility of other tokens to a token: `causal` none later; `window` |i - j| < window; `chunk` those of its own chunk of that length.

    Chunks are counted by position, from the first token of each example; windows by index, whose differences within it are the same.
    """

    causal: bool = flax.struct.field(pytree_node=False, default=False)
    window: int | None = flax.struct.field(pytree_node=False, default=None)
    chunk: int | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def span(self) -> int | None:
        """How many tokens back decoding must remember, the own one included; None for all."""
        return min([size for size in (self.window, self.chunk) if size is not None], default=None)

    def neighbours(self, own: Tokens) -> tuple[int, int]:
        """Number of blocks of `span` tokens before and after a block that its tokens may see."""
        if self.chunk is not None and own.aligned:
            return 0, 0
        return 1, 0 if self.causal else 1

    def visible(self, own: Tokens, other: Tokens) -> jax.Array | None:
        """Which source j a token i may see, (1 or b, 1, t, s); None where it is all of them."""
        masks: list[jax.Array] = []
        left, right = own.index[:, :, None], other.index[:, None, :]
        if self.causal:
            masks.append(right <= left)
        if self.window is not None:
            masks.append(jnp.abs(left - right) < self.window)
        if self.chunk is not None:
            chunks = own.positions[:, :, None] // self.chunk == other.positions[:, None, :] // self.chunk
            masks.append(chunks & (jnp.abs(left - right) < self.chunk))
        if masks:
            masks.append(right >= 0)
        if own.segments is not None and other.segments is not None:
            masks.append(own.segments[:, :, None] == other.segments[:, None, :])
        if not masks:
            return None
        visible = masks[0]
        for mask in masks[1:]:
            visible = visible & mask
        return visible[:, None]


def locate_tokens(ctx: Context, t: int) -> Tokens:
    """The tokens that a layer is called with."""
    index = index_new(ctx, t)[None]
    return Tokens(index, index if ctx.positions is None else ctx.positions, ctx.segments, aligned=ctx.positions is None)


def locate_sources(module: nn.Module, ctx: Context, t: int, span: int | None) -> Tokens | None:
    """The tokens that `extended` gives, those in the cache among them; None outside decoding, where they are the layer's own."""
    own = locate_tokens(ctx, t)
    if ctx.decoding is None:
        return None
    b = 1 if own.segments is None else own.segments.shape[0]
    positions = jnp.broadcast_to(own.positions, (b, t)) if own.positions.shape[0] == 1 else own.positions
    segments = None if own.segments is None else extend(module, ctx, "segments", own.segments, 1, span)
    return Tokens(index_extended(ctx, t, span)[None], extend(module, ctx, "positions", positions, 1, span), segments)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    own: Tokens,
    other: Tokens | None,
    reach: Reach,
    weigh: Weigh,
    scale: float,
    *,
    relative: Relative | None = None,
    decay: tuple[jax.Array, jax.Array] | None = None,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
    implementation: Implementation | None = None,
) -> jax.Array:
    """weigh(scale * q k^T + biases) v: query (b, h, t, k), key (b, g, s, k), value (b, g, s, v), g dividing h -> (b, h, t, v).

    `other` says where the sources stand, None where they are the same tokens.  `relative` adds its bias; `decay`, (b, h, t) and
    (b, h, s), adds the query's less the key's; `dropout` acts on weights.  Scores are float32.  A query that sees nothing gets zeros.

    `implementation` is chosen by `implementation_of` where it is None, and is always "xla" while decoding and where somebody looks at
    the weights (`attention_weights`).  It stands in the name of what is computed, `attention_xla`, `attention_fused` or
    `attention_splash`: in the name stacks of a jaxpr, and in a compiled program's text and profile.  The result is named "context" for
    remat policies such as `jax.checkpoint_policies.save_only_these_names`.
    """
    sources = own if other is None else other
    name: Implementation = "xla"
    if not _is_captured(weigh) and (other is None or reach == Reach()):  # where the sources stand elsewhere, they are in the cache
        reasons = {
            "relative positions": relative is not None,
            "decay": decay is not None,
            "dropout of weights": dropout is not None,
            "weights but softmax's": type(weigh) is not Softmax,
            "sink": isinstance(weigh, Softmax) and weigh.sink,
        }
        special = tuple(reason for reason, holds in reasons.items() if holds)
        name = choose_implementation(_call(query, key, value, own, sources, reach, weigh, special), implementation, platform())
    with jax.named_scope(f"attention_{name}"):
        if name == "xla":
            mixed = _by_definition(query, key, value, own, other, reach, weigh, scale, relative, decay, dropout)
            return checkpoint_name(mixed, SAVED)
        cap = weigh.cap if isinstance(weigh, Softmax) else None
        mixed = _by_kernel(name, query * scale, key, value, own, sources, reach, cap)
        if other is None or own.segments is None or other.segments is None:  # every token sees itself, or all sources
            return mixed
        seen = (own.segments[:, :, None] == other.segments[:, None, :]).any(-1)
        return jnp.where(seen[:, None, :, None], mixed, 0)


def _is_captured(weigh: Weigh) -> bool:
    """Whether somebody collects what the component gives: weights, which only one implementation has."""
    return isinstance(weigh, nn.Module) and weigh.scope is not None and weigh.scope.is_mutable_collection("intermediates")


def _call(
    query: jax.Array, key: jax.Array, value: jax.Array, own: Tokens, sources: Tokens, reach: Reach, weigh: Weigh, special: tuple[str, ...]
) -> Call:
    """What `implementation_of` needs to know."""
    t, s = (min(part.shape[2], reach.chunk or part.shape[2]) for part in (query, key))
    segmented = own.segments is not None and sources.segments is not None
    crossing = reach.chunk is not None and not own.aligned  # chunks do not begin where blocks of the row do
    return Call(
        length=min(query.shape[2], key.shape[2]) if crossing else min(t, s),
        width=max(query.shape[-1], value.shape[-1]),
        dtype=" and ".join(sorted({str(part.dtype) for part in (query, key, value)})),
        even=t % 2 == s % 2 == 0,
        masked=segmented or crossing or (reach.window is not None and not reach.causal) or query.shape[2] % t > 0,
        capped=isinstance(weigh, Softmax) and weigh.cap is not None,
        special=special,
        kind=kind(),
        capability=capability(),
    )


def _by_kernel(
    name: Implementation,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    own: Tokens,
    sources: Tokens,
    reach: Reach,
    cap: float | None,
) -> jax.Array:
    """Attention by a fused kernel, for a scaled query."""
    (b, _, t, _), chunk, window = query.shape, reach.chunk, reach.window
    if chunk is not None and own.aligned and chunk < t:  # each is a row of its own
        if own.segments is None and t % chunk:
            own = dataclasses.replace(own, segments=jnp.ones((b, t), jnp.int32))
        query, key, value, cut, _ = _split(query, key, value, own, reach)
        return _join(_by_kernel(name, query, key, value, cut, cut, Reach(reach.causal), cap), b, t)
    if name == "fused" and chunk is not None:
        near = chunk < t
        if near:
            query, key, value, own, sources = _split(query, key, value, own, reach)
        mixed = attend_fused(query, key, value, reach.visible(own, sources), False, None, platform() == "gpu")
        return _join(mixed, b, t) if near else mixed
    if name == "fused":
        visible = Reach(window=None if reach.causal else window).visible(own, sources)
        return attend_fused(query, key, value, visible, reach.causal, window, platform() == "gpu")
    if chunk is not None:
        runs = _runs(own, chunk, b, t)
        return attend_splash(query, key, value, (runs, runs), reach.causal, chunk, cap, platform() == "cpu")
    segments = None if own.segments is None or sources.segments is None else (own.segments, sources.segments)
    return attend_splash(query, key, value, segments, reach.causal, window, cap, platform() == "cpu")


def _runs(own: Tokens, chunk: int, b: int, t: int) -> jax.Array:
    """The number of each token's run of neighbours of one segment and one chunk, (b, t)."""
    marks = [own.positions // chunk, *(() if own.segments is None else (own.segments,))]
    first = jnp.zeros((b, t), bool)
    for mark in marks:
        rows = jnp.broadcast_to(mark, (b, t))
        first = first | (rows != jnp.concatenate([rows[:, :1], rows[:, :-1]], axis=1))
    return jnp.cumsum(first, axis=1, dtype=jnp.int32)


def _by_definition(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    own: Tokens,
    other: Tokens | None,
    reach: Reach,
    weigh: Weigh,
    scale: float,
    relative: Relative | None,
    decay: tuple[jax.Array, jax.Array] | None,
    dropout: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    """Attention as its equation says.

    Where a token sees only its neighbourhood, time is cut into blocks, and cost grows with t times the window.
    """
    b, h, t, k = query.shape
    span = reach.span or t
    sources = own if other is None else other
    local = other is None and span < t
    if local:
        if decay is not None:
            before, after = reach.neighbours(own)
            decay = (_blocks(decay[0][..., None], span, 0, 0)[..., 0], _blocks(decay[1][..., None], span, before, after)[..., 0])
        query, key, value, own, sources = _split(query, key, value, own, reach)
    g, s = key.shape[1:3]
    # Query heads of one group stand below each other, so that a group is one matrix product.
    grouped = (query * scale).reshape(query.shape[0], g, -1, k)
    with _half(reach):
        scores = jnp.einsum("bgtk,bgsk->bgts", grouped, key, preferred_element_type=jnp.float32).reshape(*query.shape[:3], s)
    visible = reach.visible(own, sources)
    if decay is not None:
        scores = scores + (decay[0][..., None] - decay[1][..., None, :])
    if relative is not None:
        scores = relative(hide(scores, visible), query * scale, own.positions[:, None], sources.positions[:, None])
        visible = scores > HIDDEN / 2  # it may have hidden more
    weights = weigh(scores, visible).astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)
    with _half(reach):
        mixed = jnp.einsum("bgts,bgsv->bgtv", weights.reshape(weights.shape[0], g, -1, s), value).reshape(*query.shape[:3], -1)
    return _join(mixed, b, t) if local else mixed


def _half(reach: Reach) -> contextlib.AbstractContextManager[Any]:
    """Names products of which half is seen, for who counts them (train/study/cost.py)."""
    return jax.named_scope("causal") if reach.causal else contextlib.nullcontext()


def _split(
    query: jax.Array, key: jax.Array, value: jax.Array, own: Tokens, reach: Reach
) -> tuple[jax.Array, jax.Array, jax.Array, Tokens, Tokens]:
    """Queries in blocks of the reach's span, keys and values with the neighbours that they may see, and where both stand."""
    (b, _, t, _), span, sides = query.shape, reach.span or query.shape[2], reach.neighbours(own)
    whole = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (b, t)), own)
    near, beside = (jax.tree.map(lambda leaf, args=args: _rows(leaf, span, *args), whole) for args in ((0, 0), sides))
    return _blocks(query, span, 0, 0), _blocks(key, span, *sides), _blocks(value, span, *sides), near, beside


def _join(mixed: jax.Array, b: int, t: int) -> jax.Array:
    """Blocks of time one after the other again: (b * n, h, size, v) -> (b, h, t, v)."""
    n, h, size, v = mixed.shape
    return mixed.reshape(b, n // b, h, size, v).swapaxes(1, 2).reshape(b, h, -1, v)[:, :, :t]


def _blocks(x: jax.Array, size: int, before: int, after: int) -> jax.Array:
    """Blocks of time with their neighbours, as rows of the batch: (b, h, t, k) -> (b * n, h, (before + 1 + after) * size, k)."""
    b, h, t, k = x.shape
    n = -(-t // size)
    padded = jnp.pad(x, ((0, 0), (0, 0), (before * size, n * size - t + after * size), (0, 0))).reshape(b, h, -1, size, k)
    beside = jnp.concatenate([padded[:, :, place : place + n] for place in range(before + 1 + after)], axis=3)
    return beside.swapaxes(1, 2).reshape(b * n, h, -1, k)


def _rows(x: jax.Array, size: int, before: int, after: int) -> jax.Array:
    """The same of (b, t), one number a token: (b * n, (before + 1 + after) * size), NOWHERE in place of tokens that there are none of."""
    shifted = _blocks((x - NOWHERE)[:, None, :, None], size, before, after)
    return shifted[:, 0, :, 0] + NOWHERE
