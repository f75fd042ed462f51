"""Which tokens go where: routers of experts, their balance, and choices within examples."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.structure import require_positive


class SoftmaxRouter(nn.Module):
    """The k largest of p = softmax(x W), divided by their sum if `normalise`.  (n, d) -> (n, k) twice.  arXiv:1701.06538.

    Sows the losses balance * e * sum_e f_e mean(p_e), with f_e the share of choices that fall on expert e, which is `balance` where
    all are equal (arXiv:2101.03961), and z * mean(logsumexp(x W)^2), which keeps logits small (arXiv:2202.08906).
    """

    balance: float = 0.01
    z: float = 0.001
    normalise: bool = True

    @nn.compact
    def __call__(self, tokens: jax.Array, real: jax.Array, experts: int, active: int) -> tuple[jax.Array, jax.Array]:
        logits = nn.Dense(experts, use_bias=False, dtype=jnp.float32, name="gate")(tokens)
        chances = jax.nn.softmax(logits, axis=-1)
        weights, chosen = jax.lax.top_k(chances, active)
        count = jnp.maximum(real.sum(), 1)
        share = loads(chosen, real, experts) / (count * active)
        report(self, "losses", "balance", self.balance * experts * jnp.vdot(share, (chances * real[:, None]).sum(0) / count))
        report(self, "losses", "z", self.z * jnp.vdot(jnp.square(jax.nn.logsumexp(logits, axis=-1)), real) / count)
        return (weights / weights.sum(-1, keepdims=True) if self.normalise else weights), chosen


class AuxiliaryLossFree(nn.Module):
    """The k largest of s + bias, s = sigmoid(x W), weighted by s over its sum: only the choice sees the bias.  arXiv:2408.15664.

    The bias has no gradient of its own.  In its place stands the load's excess, tokens that chose the expert less the mean over
    experts, so that every optimizer lowers the bias of an overloaded expert; the paper moves it by a constant against the excess's
    sign, as sign descent does.  The excess is a sum over tokens, as the loss is.  DeepSeek-V3 (arXiv:2412.19437) adds a small loss
    of balance within each sequence, left out here, and multiplies the weights by 2.5, which is `scale`.  (n, d) -> (n, k) twice.
    """

    scale: float = 1.0  # of the routed experts beside the shared ones

    def __post_init__(self) -> None:
        require_positive(self, "scale")
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: jax.Array, real: jax.Array, experts: int, active: int) -> tuple[jax.Array, jax.Array]:
        scores = nn.sigmoid(nn.Dense(experts, use_bias=False, dtype=jnp.float32, name="gate")(tokens))
        bias = self.param("bias", nn.initializers.zeros, (experts,))
        _, chosen = jax.lax.top_k(jax.lax.stop_gradient(scores + bias), active)
        load = loads(chosen, real, experts)
        weights = jnp.take_along_axis(scores, chosen, axis=-1)
        weights = self.scale * weights / (weights.sum(-1, keepdims=True) + 1e-9)
        return with_gradient(weights, bias, load - load.mean()), chosen


class HashRouter(nn.Module):
    """The k largest of x P for a fixed random P (d, e), each with weight 1 / k: nothing is learned.  (n, d) -> (n, k) twice.

    Hash layers (arXiv:2106.04426) hash the token's id, which a layer does not see; this hashes the vector by its angle, as in
    cross-polytope hashing (arXiv:1509.02897), so that near vectors share experts.  `seed` makes P.
    """

    seed: int = 0

    @nn.compact
    def __call__(self, tokens: jax.Array, real: jax.Array, experts: int, active: int) -> tuple[jax.Array, jax.Array]:
        directions = np.random.default_rng(self.seed).standard_normal((tokens.shape[-1], experts))
        _, chosen = jax.lax.top_k(jax.lax.stop_gradient(tokens.astype(jnp.float32) @ directions.astype(np.float32)), active)
        return jnp.full(chosen.shape, 1 / active, jnp.float32), chosen


@jax.custom_vjp
def with_gradient(value: jax.Array, parameter: jax.Array, gradient: jax.Array) -> jax.Array:
    """The value; in the backward pass the parameter is given this gradient, whatever the value's is."""
    return value


def _forward(value: jax.Array, parameter: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return value, gradient.astype(parameter.dtype)


def _backward(gradient: jax.Array, outer: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return outer, gradient, jnp.zeros(gradient.shape, jnp.float32)


with_gradient.defvjp(_forward, _backward)


def loads(chosen: jax.Array, real: jax.Array, experts: int) -> jax.Array:
    """How many choices of tokens that are not padding fall on each expert: (n, k), (n,) -> (e,) in float32."""
    return jnp.zeros(experts, jnp.float32).at[chosen].add(jnp.broadcast_to(real[:, None], chosen.shape).astype(jnp.float32))


def report_load(module: nn.Module, chosen: jax.Array, real: jax.Array, experts: int) -> None:
    """Sows how evenly experts are loaded, weighted by tokens: entropy over its largest value, and largest load over the mean."""
    load, count = loads(chosen, real, experts), real.sum().astype(jnp.float32)
    share = load / jnp.maximum(load.sum(), 1)
    entropy = -jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-9)), 0).sum() / math.log(max(experts, 2))
    report(module, "metrics", "load_entropy", (entropy * count, count))
    report(module, "metrics", "largest_load", (share.max() * experts * count, count))


def report(module: nn.Module, collection: str, name: str, value: Any) -> None:
    """Sows a value where its collection is asked for, and not among the variables that a model starts with."""
    if not module.is_initializing():
        module.sow(collection, name, value)


def highest(scores: jax.Array, segments: jax.Array | None, share: float) -> tuple[jax.Array, jax.Array]:
    """The tokens of highest score in each example, share * m of its m tokens, rounded down: (b, e, t) -> indices and which count (b, e, k).

    Indices ascend among those that count, which come first.  A row that is one example, without segments, gives one token at least.
    """
    b, e, t = scores.shape
    most = max(1, min(t, math.floor(share * t + 1e-4)))
    if segments is None:
        index = jnp.sort(jax.lax.top_k(scores, most)[1], axis=-1)
        return index, jnp.ones(index.shape, bool)
    lengths = jax.vmap(lambda row: jnp.zeros(t + 1, jnp.int32).at[row].add(1))(segments)
    quota = jnp.floor(share * jnp.take_along_axis(lengths, segments, axis=1) + 1e-4) * (segments > 0)
    own = jnp.broadcast_to(segments[:, None], (b, e, t))
    numbers = jnp.broadcast_to(jnp.arange(t), (b, e, t))
    ordered, _, place = jax.lax.sort((own, -jax.lax.stop_gradient(scores), numbers), num_keys=2)
    first = jnp.where(jnp.diff(ordered, prepend=-1) != 0, numbers, 0)
    rank = numbers - jax.lax.cummax(first, axis=2)
    picked = rank < jnp.take_along_axis(jnp.broadcast_to(quota[:, None], (b, e, t)), place, axis=-1)
    keys = jnp.sort(jnp.where(picked, place, t + place), axis=-1)[..., :most]
    return keys % t, keys < t
