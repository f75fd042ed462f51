"""Sums over examples: what objectives give, what steps add up, and what a confidence interval needs."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.contracts import Batch


class Each(NamedTuple):
    """What a Sum adds up: weighted values and weights (b, ...), whose second axis is that of the batch's `starts` or `segments`, if any."""

    values: jax.Array
    weights: jax.Array


class Sum(NamedTuple):
    """A total and the weight to divide it by.  Sums add, whatever they were counted over.

    `each` is what was added up, example by example; an objective's sums have it (see `weighted`), and those of a step
    do not.  A confidence interval needs it, as no total tells how its examples vary: a metric of an objective that
    leaves it out is measured without an interval, which a warning says before training and `morphax eval` says again.
    """

    value: jax.Array
    weight: jax.Array
    each: Each | None = None


Sums = dict[str, Sum]


def mean(sums: Mapping[str, Sum]) -> dict[str, float]:
    """The one division: each sum over its weight; not a number where nothing was counted."""
    return {name: float(total.value) / float(total.weight) if float(total.weight) else math.nan for name, total in sums.items()}


def add(left: Mapping[str, Sum], right: Mapping[str, Sum]) -> Sums:
    """Two sums as one, name by name: totals and weights."""
    return {name: Sum(total.value + right[name].value, total.weight + right[name].weight) for name, total in left.items()}


def weighted(values: jax.Array, weights: jax.Array | None) -> Sum:
    """sum w v over sum w: values (b, ...) and weights that broadcast to them, 1 if None.  What weighs nothing may be anything."""
    spread = jnp.ones(values.shape, jnp.float32) if weights is None else jnp.broadcast_to(weights, values.shape)
    return summed(jnp.where(spread > 0, values, 0.0) * spread, spread)


def summed(values: jax.Array, weights: jax.Array) -> Sum:
    """The Sum of values that are weighted already."""
    return Sum(jnp.sum(values), jnp.sum(weights), Each(values, weights))


def examples(shape: tuple[int, ...], batch: Batch) -> jax.Array | None:
    """Which example of its row an entry belongs to, from 1: numbers (b, m) for entries (b, m, ...); None if rows are examples."""
    segments, starts = batch.get("segments"), batch.get("starts")
    if segments is None:
        return None
    if starts is not None and shape[:2] == starts.shape:
        return jnp.take_along_axis(segments, starts, axis=1)
    return segments if shape[:2] == segments.shape else None


def by_example(entries: jax.Array, batch: Batch) -> jax.Array:
    """Entries (b, ...) added up within each example: (b, t + 1) by its number in the row, or (b, 1) if rows are examples."""
    numbers = examples(entries.shape, batch)
    if numbers is None:
        return entries.reshape(entries.shape[0], -1).sum(-1, keepdims=True)
    values, room = entries.reshape(*numbers.shape, -1).sum(-1), batch["segments"].shape[1] + 1
    return jax.vmap(lambda row, own: jnp.zeros(room, values.dtype).at[own].add(row))(values, numbers)


class Moments(NamedTuple):
    """A Sum over examples i of values s_i and weights w_i, with what the variance of its ratio R = sum(s) / sum(w) needs.

    number: of examples of positive weight, 0 if the Sum does not tell them apart.  squares = sum (s_i - R w_i)^2,
    products = sum (s_i - R w_i) w_i, weights = sum w_i^2, mixed = sum |s_i (w_i - s_i)|, which is 0 if every example is right or wrong.
    Moments about the R of a part are those about any other R by a shift, and lose no digits: see `train.study.statistics.interval`.
    """

    value: jax.Array
    weight: jax.Array
    number: jax.Array
    squares: jax.Array
    products: jax.Array
    weights: jax.Array
    mixed: jax.Array


def moments(total: Sum, each: Each | None, batch: Batch, added: Callable[[Any], Any] = lambda tree: tree) -> Moments:
    """The moments of a total and what was added up; `added` adds trees over devices that hold parts of the batch."""
    if each is None:
        return Moments(total.value, total.weight, *[jnp.zeros(())] * 5)
    values, weights = by_example(each.values, batch), by_example(each.weights, batch)
    rest = values - total.value / jnp.where(total.weight > 0, total.weight, 1) * weights
    own = ((weights > 0).astype(jnp.float32), rest * rest, rest * weights, weights * weights, jnp.abs(values * (weights - values)))
    return Moments(total.value, total.weight, *added([jnp.sum(one) for one in own]))
