"""Sums over examples: what objectives give and steps add up; ratios of them with confidence intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from scipy.special import stdtrit

from models.contracts import Batch

LEVEL = 0.95  # of confidence intervals


class Each(NamedTuple):
    """What a Sum adds up: weighted values and weights (b, ...), whose second axis is that of the batch's `starts` or
    `segments`, if any.
    """

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
    return {
        name: float(total.value) / float(total.weight) if float(total.weight) else math.nan
        for name, total in sums.items()
    }


def add(left: Mapping[str, Sum], right: Mapping[str, Sum]) -> Sums:
    """Two sums as one, name by name: totals and weights."""
    return {
        name: Sum(total.value + right[name].value, total.weight + right[name].weight) for name, total in left.items()
    }


def weighted(values: jax.Array, weights: jax.Array | None) -> Sum:
    """sum w v over sum w: values (b, ...) and weights that broadcast to them, 1 if None.  What weighs nothing may be
    anything.
    """
    spread = jnp.ones(values.shape, jnp.float32) if weights is None else jnp.broadcast_to(weights, values.shape)
    return summed(jnp.where(spread > 0, values, 0.0) * spread, spread)


def summed(values: jax.Array, weights: jax.Array) -> Sum:
    """The Sum of values that are weighted already."""
    return Sum(jnp.sum(values), jnp.sum(weights), Each(values, weights))


def examples(shape: tuple[int, ...], batch: Batch) -> jax.Array | None:
    """Which example of its row an entry belongs to, from 1: numbers (b, m) for entries (b, m, ...); None if rows are
    examples.
    """
    segments, starts = batch.get("segments"), batch.get("starts")
    if segments is None:
        return None
    if starts is not None and shape[:2] == starts.shape:
        return jnp.take_along_axis(segments, starts, axis=1)
    return segments if shape[:2] == segments.shape else None


def by_example(entries: jax.Array, batch: Batch) -> jax.Array:
    """Entries (b, ...) added up within each example: (b, t + 1) by its number in the row, or (b, 1) if rows are
    examples.
    """
    numbers = examples(entries.shape, batch)
    if numbers is None:
        return entries.reshape(entries.shape[0], -1).sum(-1, keepdims=True)
    values, room = entries.reshape(*numbers.shape, -1).sum(-1), batch["segments"].shape[1] + 1
    return jax.vmap(lambda row, own: jnp.zeros(room, values.dtype).at[own].add(row))(values, numbers)


class Moments(NamedTuple):
    """A Sum over examples i of values s_i and weights w_i, with what the variance of its ratio R = sum(s) / sum(w)
    needs.

    number: of examples of positive weight, 0 if the Sum does not tell them apart.  squares = sum (s_i - R w_i)^2,
    products = sum (s_i - R w_i) w_i, weights = sum w_i^2, mixed = sum |s_i (w_i - s_i)|, which is 0 if every example is
    right or wrong.
    Moments about the R of a part are those about any other R by a shift, and lose no digits: see `interval`.
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
    own = (
        (weights > 0).astype(jnp.float32),
        rest * rest,
        rest * weights,
        weights * weights,
        jnp.abs(values * (weights - values)),
    )
    return Moments(total.value, total.weight, *added([jnp.sum(one) for one in own]))


def interval(parts: Sequence[Moments]) -> tuple[float, float]:
    """(R, half width of its 95 % confidence interval) of a ratio R = sum(s_i) / sum(w_i) over n examples i, in any
    number of parts.

    The example is what is drawn anew in another test set: a picture, a sentence, a clip; of a text the document, or the
    window that it is cut into.  The interval does not depend on how examples were put into batches.

    In general the half width is t sqrt(n / (n - 1) sum (s_i - R w_i)^2) / sum(w_i), t the 97.5 % quantile of Student's
    distribution with n - 1 degrees of freedom: the linearised variance of a ratio (Cochran, Sampling Techniques, 1977,
    equation 6.12), which for equal weights is that of a mean.

    If every example is either right or wrong (s_i is w_i or 0) it is Wilson's interval for a proportion (J. Am. Stat.
    Assoc. 22, 1927), which is no point where all are right: (R + z^2 / 2n +- z sqrt(R (1 - R) / n + z^2 / 4n^2)) / (1 +
    z^2 / n), z = 1.96, and n the effective number (sum w)^2 / sum w^2.  It is not symmetric about R; the half width
    reaches its farther end.

    The half width is infinite where examples are not told apart, or one alone is no right or wrong; R is not a number
    without weight.
    """
    counted = [tuple(float(number) for number in part) for part in parts if float(part.weight) > 0]
    weight = sum(part[1] for part in counted)
    if not weight:
        return math.nan, math.inf
    ratio = sum(part[0] for part in counted) / weight
    count = squares = weights = mixed = 0.0
    for value, own, number, about, products, heavy, unlike in counted:
        shift = value / own - ratio
        squares += about + 2 * shift * products + shift**2 * heavy
        count, weights, mixed = count + number, weights + heavy, mixed + unlike
    if not count:
        return ratio, math.inf
    if not mixed and 0 <= ratio <= 1:
        return ratio, wilson(ratio, weight**2 / weights)
    if count < 2:
        return ratio, math.inf
    return ratio, float(stdtrit(count - 1, (1 + LEVEL) / 2)) * math.sqrt(
        max(squares, 0.0) * count / (count - 1)
    ) / weight


def wilson(share: float, count: float) -> float:
    """How far the farther end of Wilson's 95 % interval is from a share of `count` examples."""
    z = float(stdtrit(math.inf, (1 + LEVEL) / 2))
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return half + abs(centre - share)
