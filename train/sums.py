"""Sums over examples, which objectives return and steps add up; their ratios with confidence intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from scipy.special import stdtrit

from models.contracts import Batch, Tree

LEVEL = 0.95  # of confidence intervals


class Each(NamedTuple):
    """The terms of a Sum: weighted values and weights (b, ...).

    A second axis, if any, is that of the batch's `starts` or `segments`.
    """

    values: jax.Array
    weights: jax.Array


class Sum(NamedTuple):
    """A total and the weight to divide it by.  Sums add, whatever they were counted over.

    `each` has the terms, example by example.  An objective's sums have it (see `sum_weighted`), those of a step do not.
    A confidence interval needs it, as a total does not tell how its examples vary: a metric of an objective that leaves
    it out is measured without an interval, which a warning before training and `morphax eval` say.
    """

    value: jax.Array
    weight: jax.Array
    each: Each | None = None


Sums = dict[str, Sum]


def compute_means(sums: Mapping[str, Sum]) -> dict[str, float]:
    """Divides each sum by its weight; NaN if the weight is 0."""
    return {
        name: float(total.value) / float(total.weight) if float(total.weight) else math.nan
        for name, total in sums.items()
    }


def add_sums(left: Mapping[str, Sum], right: Mapping[str, Sum]) -> Sums:
    """Adds totals and weights, name by name."""
    return {
        name: Sum(total.value + right[name].value, total.weight + right[name].weight) for name, total in left.items()
    }


def sum_weighted(values: jax.Array, weights: jax.Array | None) -> Sum:
    """Sums w v and w: values (b, ...) and weights that broadcast to them, 1 if None.

    A value of weight 0 may be anything, also NaN.
    """
    filled = jnp.ones(values.shape, jnp.float32) if weights is None else jnp.broadcast_to(weights, values.shape)
    return sum_up(jnp.where(filled > 0, values, 0.0) * filled, filled)


def sum_up(values: jax.Array, weights: jax.Array) -> Sum:
    """Sums values that are weighted already."""
    return Sum(jnp.sum(values), jnp.sum(weights), Each(values, weights))


def number_examples(shape: tuple[int, ...], batch: Batch) -> jax.Array | None:
    """Numbers the example of its row that each entry belongs to, from 1: (b, m) for entries (b, m, ...).

    None if rows are examples.
    """
    segments, starts = batch.get("segments"), batch.get("starts")
    if segments is None:
        return None
    if starts is not None and shape[:2] == starts.shape:
        return jnp.take_along_axis(segments, starts, axis=1)
    return segments if shape[:2] == segments.shape else None


def sum_by_example(entries: jax.Array, batch: Batch) -> jax.Array:
    """Sums entries (b, ...) within each example: (b, t + 1) by number in the row, or (b, 1) if rows are examples."""
    numbers = number_examples(entries.shape, batch)
    if numbers is None:
        return entries.reshape(entries.shape[0], -1).sum(-1, keepdims=True)
    values, room = entries.reshape(*numbers.shape, -1).sum(-1), batch["segments"].shape[1] + 1
    return jax.vmap(lambda row, number: jnp.zeros(room, values.dtype).at[number].add(row))(values, numbers)


class Moments(NamedTuple):
    """Moments of a Sum over examples i of values s_i and weights w_i, for the variance of R = sum(s) / sum(w).

    number: of examples of positive weight, 0 if the Sum does not tell them apart.  squares = sum (s_i - R w_i)^2,
    products = sum (s_i - R w_i) w_i, weights = sum w_i^2, mixed = sum |s_i (w_i - s_i)|, which is 0 if every example is
    right or wrong.
    Moments about the R of a part are those about any other R by a shift, and lose no digits: see `compute_interval`.
    """

    value: jax.Array
    weight: jax.Array
    number: jax.Array
    squares: jax.Array
    products: jax.Array
    weights: jax.Array
    mixed: jax.Array


def compute_moments(
    total: Sum, each: Each | None, batch: Batch, added: Callable[[Tree], Tree] = lambda tree: tree
) -> Moments:
    """Computes the moments of a total and its terms; `added` adds trees over devices that hold parts of the batch."""
    if each is None:
        return Moments(total.value, total.weight, *[jnp.zeros(())] * 5)
    values, weights = sum_by_example(each.values, batch), sum_by_example(each.weights, batch)
    rest = values - total.value / jnp.where(total.weight > 0, total.weight, 1) * weights
    sums = (
        (weights > 0).astype(jnp.float32),
        rest * rest,
        rest * weights,
        weights * weights,
        jnp.abs(values * (weights - values)),
    )
    return Moments(total.value, total.weight, *added([jnp.sum(terms) for terms in sums]))


def compute_interval(parts: Sequence[Moments], level: float = LEVEL) -> tuple[float, float]:
    """Computes (R, half width of its confidence interval) of a ratio R = sum(s_i) / sum(w_i) over n examples i.

    Examples may come in any number of parts.  An example is the unit that another test set would sample anew: an image,
    a sentence, a clip; for a text the document, or the window that it is cut into.  The interval does not depend on how
    examples were put into batches.

    In general the half width is t sqrt(n / (n - 1) sum (s_i - R w_i)^2) / sum(w_i), t the (1 + level) / 2 quantile of
    Student's distribution with n - 1 degrees of freedom: the linearised variance of a ratio (Cochran, Sampling
    Techniques, 1977, equation 6.12), which for equal weights is that of a mean.

    If every example is either right or wrong (s_i is w_i or 0) it is Wilson's interval for a proportion (J. Am. Stat.
    Assoc. 22, 1927), which is no point if all are right: (R + z^2 / 2n +- z sqrt(R (1 - R) / n + z^2 / 4n^2)) / (1 +
    z^2 / n), z = 1.96 at 95 %, and n the effective number (sum w)^2 / sum w^2.  It is not symmetric about R; the half
    width reaches its farther end.

    The half width is infinite if examples are not told apart, or if there is one alone that is neither right nor wrong;
    R is NaN if the weight is 0.
    """
    counted = [tuple(float(number) for number in part) for part in parts if float(part.weight) > 0]
    weight = sum(part[1] for part in counted)
    if not weight:
        return math.nan, math.inf
    ratio = sum(part[0] for part in counted) / weight
    count = squares = weights = mixed = 0.0
    for value, part_weight, number, about, products, heavy, unlike in counted:
        shift = value / part_weight - ratio
        squares += about + 2 * shift * products + shift**2 * heavy
        count, weights, mixed = count + number, weights + heavy, mixed + unlike
    if not count:
        return ratio, math.inf
    if not mixed and 0 <= ratio <= 1:
        return ratio, wilson_half_width(ratio, weight**2 / weights, level)
    if count < 2:
        return ratio, math.inf
    return ratio, float(stdtrit(count - 1, (1 + level) / 2)) * math.sqrt(
        max(squares, 0.0) * count / (count - 1)
    ) / weight


def compute_wilson_limits(share: float, count: float, level: float = LEVEL) -> tuple[float, float]:
    """Computes the limits of Wilson's interval of a share of `count` examples."""
    z = float(stdtrit(math.inf, (1 + level) / 2))
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return centre - half, centre + half


def wilson_half_width(share: float, count: float, level: float = LEVEL) -> float:
    """Computes the distance of a share of `count` examples from the farther end of its Wilson interval."""
    low, high = compute_wilson_limits(share, count, level)
    return max(high - share, share - low)
