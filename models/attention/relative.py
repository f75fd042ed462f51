"""Biases of attention scores by the distance of two tokens; hidden scores, at -1e30, stay hidden under any of them."""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.roles import UNDECAYED, Role, Roles
from models.structure import require_positive


class ALiBi(nn.Module):
    """scores - slope_h |i - j|, slope_h = 2^(-8 h / heads) for h = 1, 2, ...  (b, h, t, s) -> (b, h, t, s).

    arXiv:2108.12409.  For a number of heads that is no power of two, n the one below, the slopes are those of n heads
    and every second of 2 n heads.
    """

    @nn.compact
    def __call__(self, scores: jax.Array, query: jax.Array, positions: jax.Array, sources: jax.Array) -> jax.Array:
        heads = scores.shape[1]
        n = 2 ** math.floor(math.log2(heads))
        slopes = [2 ** (-8 * head / n) for head in range(1, n + 1)] + [
            2 ** (-8 * head / (2 * n)) for head in range(1, 2 * (heads - n), 2)
        ]
        distance = jnp.abs(positions[..., :, None] - sources[..., None, :]).astype(jnp.float32)
        return (scores - jnp.asarray(slopes)[:, None, None] * distance).astype(scores.dtype)


class T5Bias(nn.Module):
    """scores + table[bucket(j - i), h].  (b, h, t, s) -> (b, h, t, s).  arXiv:1910.10683.

    Half of the buckets are for one distance each, the other half for ranges that grow geometrically up to `distance`;
    all that is farther shares the last.  `bidirectional` keeps half of all buckets for later tokens; otherwise these
    share the bucket of distance 0.  T5 leaves out the division of scores by sqrt(k), which attention here makes.
    """

    roles: ClassVar[Roles] = {"table": UNDECAYED}
    buckets: int = 32
    distance: int = 128
    bidirectional: bool = True

    def __post_init__(self) -> None:
        if self.one_way < 2 or self.buckets % 2 or self.distance <= self.one_way // 2:
            raise ValueError(
                f"T5Bias cannot part {self.distance} distances into {self.buckets} buckets; give an even, smaller"
                " number."
            )
        super().__post_init__()

    @property
    def one_way(self) -> int:
        """Number of buckets for one direction."""
        return self.buckets // 2 if self.bidirectional else self.buckets

    @nn.compact
    def __call__(self, scores: jax.Array, query: jax.Array, positions: jax.Array, sources: jax.Array) -> jax.Array:
        table = self.param("table", nn.initializers.normal(0.02), (scores.shape[1], self.buckets))
        later = (sources[..., None, :] - positions[..., :, None])[:, 0]
        apart = jnp.abs(later) if self.bidirectional else jnp.maximum(-later, 0)
        exact = self.one_way // 2
        growth = (self.distance / exact) ** (1 / (self.one_way - exact))
        # the first distance of each geometric bucket but the first
        firsts = np.ceil(exact * growth ** np.arange(1, self.one_way - exact) - 1e-6).astype(int)
        bucket = jnp.where(apart < exact, apart, exact + jnp.searchsorted(jnp.asarray(firsts), apart, side="right"))
        if self.bidirectional:
            bucket = bucket + jnp.where(later > 0, self.one_way, 0)
        return (scores + table[:, bucket].swapaxes(0, 1).astype(jnp.float32)).astype(scores.dtype)


class FIRE(nn.Module):
    """scores + f(log(c |i - j| + 1) / log(c max(i, j, length) + 1)), f a network from 1 to heads.

    (b, h, t, s) -> (b, h, t, s).  c and the length are learned, starting at `slope` and `length`.  arXiv:2310.04418,
    where j <= i, so that max(i, j) is i; f is without the last bias, which softmax does not see.
    """

    hidden: int = 32
    length: float = 512.0
    slope: float = 0.1  # c at the start

    def __post_init__(self) -> None:
        require_positive(self, "hidden", "length", "slope")
        super().__post_init__()

    @nn.compact
    def __call__(self, scores: jax.Array, query: jax.Array, positions: jax.Array, sources: jax.Array) -> jax.Array:
        target, source = positions[:, 0, :, None].astype(jnp.float32), sources[:, 0, None, :].astype(jnp.float32)
        slope = jnp.abs(self.param("slope", nn.initializers.constant(self.slope), ()).astype(jnp.float32))
        length = self.length * jnp.abs(self.param("length_scale", nn.initializers.ones, ()).astype(jnp.float32))
        farthest = jnp.maximum(jnp.maximum(target, source), length)
        ratio = jnp.log(slope * jnp.abs(target - source) + 1) / (jnp.log(slope * farthest + 1) + 1e-6)
        hidden = nn.relu(nn.Dense(self.hidden, name="hidden")(ratio[..., None]))
        bias = nn.Dense(scores.shape[1], use_bias=False, name="out")(hidden)
        return (scores + jnp.moveaxis(bias, -1, 1)).astype(scores.dtype)


class CoPE(nn.Module):
    """scores + q_i . e[p_ij], p_ij = min(sum_{j <= m} sigmoid(scores_im), places - 1) over the visible m.

    e is linear between integers.  (b, h, t, s) -> (b, h, t, s).  arXiv:2405.18719.  Places are counted backwards from
    the last visible token, in units that the query decides: meant for causal attention, whose last visible token is the
    query's own.  All heads share e; the query is scaled as scores are.
    """

    roles: ClassVar[Roles] = {"table": Role(decay=False, inputs=())}  # the query that it meets is scaled
    places: int = 64

    def __post_init__(self) -> None:
        require_positive(self, "places")
        super().__post_init__()

    @nn.compact
    def __call__(self, scores: jax.Array, query: jax.Array, positions: jax.Array, sources: jax.Array) -> jax.Array:
        table = self.param("table", nn.initializers.zeros, (self.places, query.shape[-1])).astype(jnp.float32)
        gates = jax.nn.sigmoid(scores.astype(jnp.float32))  # 0 for what is hidden
        count = jnp.minimum(jax.lax.cumsum(gates, axis=3, reverse=True), self.places - 1)
        whole = jnp.einsum("bhtk,pk->bhtp", query.astype(jnp.float32), table)
        below = jax.lax.stop_gradient(jnp.floor(count))
        left, right = (
            jnp.take_along_axis(whole, index.astype(jnp.int32), axis=-1)
            for index in (below, jnp.minimum(below + 1, self.places - 1))
        )
        return (scores + left + (count - below) * (right - left)).astype(scores.dtype)
