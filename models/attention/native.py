"""Attention to compressed blocks of tokens, to the blocks among them that weigh most, and to the last tokens."""

from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activation import gelu
from models.attention.core import Reach, attend, locate_sources, locate_tokens
from models.attention.weigh import HIDDEN, Softmax, hide
from models.cache import extend, index_new, recall, remember
from models.context import Context
from models.contracts import Position
from models.projection import merge, project
from models.roles import UNDECAYED, Roles
from models.structure import require_positive

QUERIES = 32  # whose chosen blocks are gathered at once


class Blocks(NamedTuple):
    """Compressed blocks by slot: keys, values (b, g, n, k); index, position and segment of the last token (b, n).

    An index of -1 marks an empty slot.  Last tokens are `stride` apart at least, so that index // stride is a slot of
    its own for each, whatever examples the row packs.
    """

    keys: jax.Array
    values: jax.Array
    last: jax.Array
    position: jax.Array
    segment: jax.Array

    @classmethod
    def empty(cls, b: int, g: int, n: int, k: int, dtype: jnp.dtype) -> "Blocks":
        """Slots without blocks."""
        none, zero = jnp.full((b, n), -1, jnp.int32), jnp.zeros((b, g, n, k), dtype)
        return cls(zero, zero, none, none, none)


class NativeSparseAttention(nn.Module):
    """sum of gate_c attention_c(x) over c: compressed blocks, chosen blocks, the last `near` tokens.

    (b, t, d) -> (b, t, d).  Always causal.  arXiv:2502.11089.  gate = sigmoid(linear in x) a head; each way has keys
    and values of its own, which `kv_heads` groups share.  A compressed block is an MLP, k wide at the end and 4 k
    within, of `size` tokens plus learned places, every `stride` of them; its queries and keys have no `position`.
    The weights of compressed blocks, summed over the heads of a group, add up over the blocks of `block` tokens that
    they overlap; the `active` heaviest, always with the first and the last two, are gathered and attended to token by
    token: t (t / stride + active block + near) products in place of t^2.  Blocks are counted from the first token of
    each example.  Decoding keeps compressed blocks and touches as few tokens.  Defaults are the paper's.
    """

    roles: ClassVar[Roles] = dict.fromkeys(("key_places", "value_places"), UNDECAYED)
    heads: int = 8
    kv_heads: int = 2
    size: int = 32  # tokens of a compressed block
    stride: int = 16  # of compressed blocks
    block: int = 64  # tokens of a chosen block
    active: int = 16  # blocks that a query reads
    near: int = 512  # last tokens that a query reads
    position: Position | None = None
    causal: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "heads", "kv_heads", "size", "stride", "block", "near")
        if not self.causal:
            raise ValueError("NativeSparseAttention reads earlier blocks alone; causal must be true.")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"NativeSparseAttention has {self.heads} heads and {self.kv_heads} kv_heads, which must divide heads."
            )
        if self.size % self.stride or self.block % self.stride or self.active < 3:
            raise ValueError(
                f"NativeSparseAttention has size {self.size} and block {self.block}, which stride {self.stride}"
                f" must divide, and {self.active} active blocks, of which the first and the last two are three."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        b, t, d = x.shape
        if d % self.heads:
            raise ValueError(f"NativeSparseAttention splits width {d} over {self.heads} heads; they must divide it.")
        h, g, k = self.heads, self.kv_heads, d // self.heads
        tokens = locate_tokens(ctx, t)
        positions, index = jnp.broadcast_to(tokens.positions, (b, t)), index_new(ctx, t)
        segments = jnp.ones((b, t), jnp.int32) if ctx.segments is None else ctx.segments
        query, scale = project("query", x, h, k), ctx.score_scale(k)

        def pair(way: str) -> tuple[jax.Array, jax.Array]:
            return project(f"{way}_key", x, g, k), project(f"{way}_value", x, g, k)

        def turn(x: jax.Array) -> jax.Array:
            return x if self.position is None else self.position(x, positions[:, None])

        blocks = self.compress(ctx, pair("compressed"), index, positions, segments)
        grouped = (query * scale).reshape(b, g, h // g, t, k)
        scores = jnp.einsum("bgrtk,bgnk->bgrtn", grouped, blocks.keys, preferred_element_type=jnp.float32)
        seen = (blocks.last >= 0)[:, None] & (blocks.last[:, None] <= index[:, None])
        seen = (seen & (blocks.segment[:, None] == segments[..., None]))[:, None, None]
        weights = jnp.where(seen, jax.nn.softmax(hide(scores, seen), axis=-1), 0.0)
        compressed = jnp.einsum("bgrtn,bgnv->bgrtv", weights.astype(x.dtype), blocks.values).reshape(b, h, t, k)

        key, value = pair("chosen")
        key, value = extend(self, ctx, "chosen_keys", turn(key), 2), extend(self, ctx, "chosen_values", value, 2)
        numbers = self.choose(jax.lax.stop_gradient(weights.sum(2)), blocks.position, positions, key.shape[2])
        chosen = attend_chosen(turn(query) * scale, key, value, numbers, index, positions, self.block)

        span, (key, value) = self.near, pair("near")
        key = extend(self, ctx, "near_keys", turn(key), 2, span)
        value = extend(self, ctx, "near_values", value, 2, span)
        other, reach = locate_sources(self, ctx, t, span), Reach(True, span)
        near = attend(turn(query), key, value, tokens, other, reach, Softmax(), scale)

        gates = nn.sigmoid(project("gate", x, 3 * h, 1)).reshape(b, 3, h, t, 1)
        mixed = gates[:, 0] * compressed + gates[:, 1] * chosen + gates[:, 2] * near
        return nn.Dense(d, use_bias=False, name="out")(merge(mixed)).reshape(b, t, d)

    def compress(
        self,
        ctx: Context,
        pair: tuple[jax.Array, jax.Array],
        index: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
    ) -> Blocks:
        """All compressed blocks so far, those that end in the new tokens added."""
        key, value = pair
        (b, g, t, k), stride = key.shape, self.stride
        slots = (t if ctx.decoding is None else ctx.decoding.length) // stride + 2  # as many as may be updated at once
        kept = recall(self, ctx, "blocks", Blocks.empty(b, g, slots, k, key.dtype))
        ends = (positions >= self.size - 1) & ((positions - self.size + 1) % stride == 0) & (segments > 0)
        first, count = index[0] // stride, (t + stride - 2) // stride + 1
        places = jnp.full((b, count), -1).at[:, index // stride - first].max(jnp.where(ends, jnp.arange(t), -1))
        within = jnp.maximum(places, 0)  # indices of last tokens among the new ones

        def reduce(name: str, new: jax.Array) -> jax.Array:
            whole = extend(self, ctx, f"compressed_{name}", new, 2, self.size)
            whole = jnp.pad(whole, ((0, 0), (0, 0), (self.size - 1 + t - whole.shape[2], 0), (0, 0)))
            rows = jax.vmap(lambda row, place: row[:, place])(whole, within[..., None] + jnp.arange(self.size))
            learned = self.param(f"{name}_places", nn.initializers.normal(0.02), (self.size, k)).astype(new.dtype)
            flat = (rows + learned).reshape(b * g * count, self.size * k)
            hidden = gelu(nn.Dense(4 * k, name=f"{name}_hidden")(flat))
            return nn.Dense(k, use_bias=False, name=f"{name}_reduced")(hidden).reshape(b, g, count, k)

        def pick(leaf: jax.Array) -> jax.Array:
            return jnp.take_along_axis(jnp.broadcast_to(leaf, (b, t)), within, axis=1)

        fresh = Blocks(reduce("key", key), reduce("value", value), pick(index[None]), pick(positions), pick(segments))

        def update(old: jax.Array, new: jax.Array) -> jax.Array:
            axis = old.ndim - 2 if old.ndim == 4 else 1
            there = (places >= 0)[:, None, :, None] if old.ndim == 4 else places >= 0
            before = jax.lax.dynamic_slice_in_dim(old, first, count, axis)
            return jax.lax.dynamic_update_slice_in_dim(old, jnp.where(there, new, before), first, axis)

        blocks = Blocks(*(update(old, new) for old, new in zip(kept, fresh, strict=True)))
        remember(self, ctx, "blocks", blocks)
        return blocks

    def choose(self, weights: jax.Array, ends: jax.Array, positions: jax.Array, s: int) -> jax.Array:
        """The numbers of the blocks of its example that each query reads, -1 for none: (b, g, t, active).

        weights (b, g, t, n) of compressed blocks whose last tokens have positions `ends` (b, n).
        """
        count = -(-s // self.block)
        total = jnp.zeros((*weights.shape[:3], count), weights.dtype)
        for part in range(0, self.size, self.stride):
            number = jnp.clip((ends - self.size + 1 + part) // self.block, 0, count - 1)
            total = jax.vmap(lambda total, number, weight: total.at[..., number].add(weight))(total, number, weights)
        own, numbers = (positions // self.block)[:, None, :, None], jnp.arange(count)
        always = (numbers == 0) | (numbers == own) | (numbers == own - 1)
        total = jnp.where(numbers <= own, jnp.where(always, -HIDDEN, total), HIDDEN)
        best, chosen = jax.lax.top_k(total, min(self.active, count))
        return jnp.where(best > HIDDEN, chosen, -1)


def attend_chosen(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    numbers: jax.Array,
    index: jax.Array,
    positions: jax.Array,
    size: int,
) -> jax.Array:
    """Causal attention of each query to the tokens of the blocks of its example with these numbers, -1 for none.

    query (b, h, t, k), scaled; key and value (b, g, s, k); numbers (b, g, t, n); index (t,); positions (b, t); `size`
    tokens a block -> (b, h, t, v).  Blocks of QUERIES queries at a time are gathered, and again in the backward pass.
    """
    (b, h, t, k), g = query.shape, key.shape[1]
    part = min(QUERIES, t)

    def cut(x: jax.Array) -> jax.Array:
        """Time (axis 2 of b, g, t, ...) in parts, which come first."""
        padded = jnp.pad(x, ((0, 0), (0, 0), (0, -t % part), *[(0, 0)] * (x.ndim - 3)))
        return jnp.moveaxis(padded.reshape(*x.shape[:2], -1, part, *x.shape[3:]), 2, 0)

    @jax.checkpoint
    def run(parts: tuple[jax.Array, ...]) -> jax.Array:
        query, numbers, last, start = parts  # (b, g, c, r, k), (b, g, c, n), (b, 1, c) twice
        tokens = numbers[..., None] * size + jnp.arange(size) + start[..., None, None]
        seen = ((numbers >= 0)[..., None] & (tokens <= last[..., None, None])).reshape(*numbers.shape[:3], 1, -1)
        rows = jnp.clip(tokens, 0, key.shape[2] - 1).reshape(*numbers.shape[:3], -1)
        keys, values = (jax.vmap(jax.vmap(lambda leaf, row: leaf[row]))(leaf, rows) for leaf in (key, value))
        scores = jnp.einsum("bgcrk,bgcsk->bgcrs", query, keys, preferred_element_type=jnp.float32)
        weights = jnp.where(seen, jax.nn.softmax(hide(scores, seen), axis=-1), 0.0).astype(value.dtype)
        return jnp.einsum("bgcrs,bgcsv->bgcrv", weights, values)

    grouped = query.reshape(b, g, h // g, t, k).swapaxes(2, 3)
    whole = jnp.broadcast_to(index[None, None], (b, 1, t))
    mixed = jax.lax.map(run, (cut(grouped), cut(numbers), cut(whole), cut(whole - positions[:, None])))
    mixed = jnp.moveaxis(mixed, 0, 2).reshape(b, g, -1, h // g, value.shape[-1])[:, :, :t]
    return mixed.swapaxes(2, 3).reshape(b, h, t, -1)
