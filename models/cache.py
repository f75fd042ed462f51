"""The decoding cache: values that a layer keeps between calls, in the linen collection "cache"."""

from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp

from models.context import Context
from models.contracts import Tree

Value = TypeVar("Value")


class Caching(Protocol):
    """A module whose variables can be read and written, as those of linen's."""

    def get_variable(self, col: str, name: str, default: Value | None = None) -> Value: ...

    def put_variable(self, col: str, name: str, value: Tree) -> object: ...


def recall(module: Caching, ctx: Context, name: str, initial: Value) -> Value:
    """Reads the value that a module cached under a name at the last call; `initial` at the start or if not decoding."""
    return initial if ctx.decoding is None or ctx.decoding.start else module.get_variable("cache", name)


def remember(module: Caching, ctx: Context, name: str, value: Tree) -> None:
    """Caches a value for the next call; does nothing outside decoding."""
    if ctx.decoding is not None:
        module.put_variable("cache", name, value)


def extend(module: Caching, ctx: Context, name: str, new: jax.Array, axis: int, span: int | None = None) -> jax.Array:
    """Appends the new tokens to the cached ones along the axis of time, and caches the result for the next call.

    If `span` is None the array has the decoding's whole length, new tokens at their index, zeros at those not written
    yet; otherwise only the last `span - 1` tokens before the new ones are kept.  `index_extended` gives their indices.
    At the start it gives the new tokens alone, as without decoding: there are no others.
    """
    if ctx.decoding is None:
        return new
    t = new.shape[axis]
    count = ctx.decoding.length if span is None else span - 1
    empty = jnp.zeros((*new.shape[:axis], count, *new.shape[axis + 1 :]), new.dtype)
    kept = recall(module, ctx, name, empty)
    if span is None:
        whole = later = jax.lax.dynamic_update_slice_in_dim(kept, new, ctx.decoding.index, axis)
    else:
        whole = jnp.concatenate([kept, new], axis)
        later = jax.lax.slice_in_dim(whole, t, t + count, axis=axis)
    remember(module, ctx, name, later)
    return new if ctx.decoding.start else whole


def index_extended(ctx: Context, t: int, span: int | None = None) -> jax.Array:
    """The index in its row of each token that `extend` gives, (s,); negative for those before the first."""
    if ctx.decoding is None or ctx.decoding.start:
        return jnp.arange(t)
    if span is None:
        return jnp.arange(ctx.decoding.length)
    return ctx.decoding.index - (span - 1) + jnp.arange(span - 1 + t)


def index_new(ctx: Context, t: int) -> jax.Array:
    """The index in its row of each new token, (t,)."""
    return jnp.arange(t) + (0 if ctx.decoding is None else ctx.decoding.index)
