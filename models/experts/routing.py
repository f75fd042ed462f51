"""Routing of tokens: routers of experts, their balance, and choices within examples."""

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from models.roles import Role, Roles
from models.structure import require_not_negative, require_positive


@flax.struct.dataclass
class TokenLoss:
    """A sown loss that is a sum over examples.

    `values` (..., b, t): each token's share of the loss of its example, 0 for padding.  The training step multiplies
    every example's loss by the weight that the example has in the objective.  `segments` (..., b, t) or None as in the
    context.
    """

    values: jax.Array
    segments: jax.Array | None = None


@flax.struct.dataclass
class Loads:
    """Sown counts of choices: (..., e) for one layer or several stacked.

    They add over parts of a batch; what is logged does not.
    """

    counts: jax.Array


class SoftmaxRouter(nn.Module):
    """The k largest of p = softmax(x W), divided by their sum if `normalise`.  (b, t, d) -> (b, t, k) twice.

    arXiv:1701.06538.  Sows for every example the losses balance * e * sum_e f_e mean(p_e), with f_e the share of the
    example's choices that fall on expert e and the mean over its tokens, which is `balance` if all are equal
    (arXiv:2101.03961), and z * mean(logsumexp(x W)^2), which keeps logits small (arXiv:2202.08906).

    f and the mean are those of an example, as in the sequence-wise losses of DeepSeek-V2 and V3 (arXiv:2405.04434,
    equation 23; arXiv:2412.19437, equation 17), and not of the batch, as in arXiv:2101.03961: their product is then a
    plain sum over examples, the same however a batch is packed, cut into parts or spread over devices.  It asks for
    balance within each example, which binds more than balance within the batch (arXiv:2501.11873); `AuxiliaryLossFree`
    balances the whole batch.
    """

    balance: float = 0.01
    z: float = 0.001
    normalise: bool = True

    def __post_init__(self) -> None:
        require_not_negative(self, "balance", "z")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, tokens: jax.Array, segments: jax.Array | None, experts: int, active: int
    ) -> tuple[jax.Array, jax.Array]:
        logits = gate(tokens, experts)
        probs = jax.nn.softmax(logits, axis=-1)
        weights, chosen = jax.lax.top_k(probs, active)
        share, length = example_loads(chosen, segments, experts)
        even = self.balance * experts * (share * probs).sum(-1)
        small = self.z * jnp.square(jax.nn.logsumexp(logits, axis=-1))
        for name, losses in (("balance", even), ("z", small)):
            report(
                self,
                "losses",
                name,
                TokenLoss(jnp.where(mask_padding(tokens, segments), losses / length, 0.0), segments),
            )
        return (weights / weights.sum(-1, keepdims=True) if self.normalise else weights), chosen


class AuxiliaryLossFree(nn.Module):
    """The k largest of s + bias, s = sigmoid(x W), weighted by s over its sum: only the choice sees the bias.

    arXiv:2408.15664.  bias_e <- bias_e - `rate` * sign(c_e - mean(c)) after every step, with c_e the number of tokens
    of the whole batch that chose expert e (algorithm 1).  The excess c - mean(c) stands in the gradient's place, so it
    adds over parts and devices as gradients do; its role keeps it out of the norm, the clipping, the decay, the
    schedule and the moments of every optimizer.  DeepSeek-V3 (arXiv:2412.19437) adds a small loss of balance within
    each sequence, left out here, and multiplies the weights by 2.5, which is `scale`.  (b, t, d) -> (b, t, k) twice.
    """

    scale: float = 1.0  # weight of routed experts beside shared ones
    rate: float = 1e-3

    def __post_init__(self) -> None:
        require_positive(self, "scale", "rate")
        super().__post_init__()

    @property
    def roles(self) -> Roles:
        """The role of the bias: no decay, and steps of `rate` against the sign of its gradient."""
        return {"bias": Role(decay=False, step=self.rate)}

    @nn.compact
    def __call__(
        self, tokens: jax.Array, segments: jax.Array | None, experts: int, active: int
    ) -> tuple[jax.Array, jax.Array]:
        scores = nn.sigmoid(gate(tokens, experts))
        bias = self.param("bias", nn.initializers.zeros, (experts,))
        _, chosen = jax.lax.top_k(jax.lax.stop_gradient(scores + bias), active)
        load = count_choices(chosen, mask_padding(tokens, segments), experts)
        weights = jnp.take_along_axis(scores, chosen, axis=-1)
        weights = self.scale * weights / (weights.sum(-1, keepdims=True) + 1e-9)
        return with_gradient(weights, bias, load - load.mean()), chosen


class HashRouter(nn.Module):
    """The k largest of x P for a fixed random P (d, e), each with weight 1 / k: nothing is learned.

    (b, t, d) -> (b, t, k) twice.  Hash layers (arXiv:2106.04426) hash the token's id, which a layer does not see; this
    hashes the vector by its angle, as in cross-polytope hashing (arXiv:1509.02897), so that near vectors share experts.
    `seed` makes P.
    """

    seed: int = 0

    @nn.compact
    def __call__(
        self, tokens: jax.Array, segments: jax.Array | None, experts: int, active: int
    ) -> tuple[jax.Array, jax.Array]:
        directions = np.random.default_rng(self.seed).standard_normal((tokens.shape[-1], experts))
        _, chosen = jax.lax.top_k(
            jax.lax.stop_gradient(tokens.astype(jnp.float32) @ directions.astype(np.float32)), active
        )
        return jnp.full(chosen.shape, 1 / active, jnp.float32), chosen


def gate(tokens: jax.Array, experts: int) -> jax.Array:
    """x W in float32, a parameter `gate` of the module that calls: (b, t, d) -> (b, t, e)."""
    flat = nn.Dense(experts, use_bias=False, dtype=jnp.float32, name="gate")(tokens.reshape(-1, tokens.shape[-1]))
    return flat.reshape(*tokens.shape[:-1], experts)


def mask_padding(tokens: jax.Array, segments: jax.Array | None) -> jax.Array:
    """The mask of tokens that are not padding: (b, t)."""
    return jnp.ones(tokens.shape[:2], bool) if segments is None else segments > 0


def example_loads(chosen: jax.Array, segments: jax.Array | None, experts: int) -> tuple[jax.Array, jax.Array]:
    """The share of its example's choices on each expert, and its example's length, for every token.

    (b, t, e) and (b, t).  Both are broadcast over t if `segments` is None.
    """
    b, t, k = chosen.shape
    if segments is None:
        counts = jax.vmap(lambda row: jnp.zeros(experts, jnp.float32).at[row].add(1))(chosen)
        return counts[:, None] / (t * k), jnp.full((b, 1), t, jnp.float32)

    def row(chosen: jax.Array, segments: jax.Array) -> tuple[jax.Array, jax.Array]:
        example = number_examples(segments)
        counts = jnp.zeros((t, experts), jnp.float32).at[example[:, None], chosen].add(1)[example]
        length = count_own(segments)
        return counts / (length * k)[:, None], length

    return jax.vmap(row)(chosen, segments)


def number_examples(segments: jax.Array) -> jax.Array:
    """Segment ids of a row as indices below t, whatever the ids are: (t,) -> (t,)."""
    return jnp.searchsorted(jnp.sort(segments), segments)


def count_own(segments: jax.Array) -> jax.Array:
    """The length of each token's example, for the segments of a row: (t,) -> (t,) in float32."""
    example = number_examples(segments)
    return jnp.zeros(segments.shape, jnp.float32).at[example].add(1)[example]


@jax.custom_vjp
def with_gradient(value: jax.Array, parameter: jax.Array, gradient: jax.Array) -> jax.Array:
    """The value; in the backward pass `parameter` gets `gradient`, whatever the value's is."""
    return value


def _forward(value: jax.Array, parameter: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return value, gradient.astype(parameter.dtype)


def _backward(gradient: jax.Array, outer: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return outer, gradient, jnp.zeros(gradient.shape, jnp.float32)


with_gradient.defvjp(_forward, _backward)


def count_choices(chosen: jax.Array, real: jax.Array, experts: int) -> jax.Array:
    """Counts each expert's choices by tokens that are not padding: (..., k), (...) -> (e,) in float32."""
    return (
        jnp.zeros(experts, jnp.float32)
        .at[chosen]
        .add(jnp.broadcast_to(real[..., None], chosen.shape).astype(jnp.float32))
    )


def measure_evenness(load: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Entropy of the shares of the load over its largest value, and largest load over the mean; both 1 if even.

    (..., e) -> (...) twice.
    """
    experts = load.shape[-1]
    share = load / jnp.maximum(load.sum(-1, keepdims=True), 1)
    entropy = -jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-9)), 0).sum(-1) / math.log(max(experts, 2))
    return entropy, share.max(-1) * experts


def report(module: nn.Module, collection: str, name: str, value: object) -> None:
    """Sows a value if its collection is mutable, and never while a model is initialised."""
    if not module.is_initializing():
        module.sow(collection, name, value)


def choose_highest(scores: jax.Array, segments: jax.Array | None, share: float) -> tuple[jax.Array, jax.Array]:
    """Chooses the tokens of highest score in each example, share * m of m, rounded down, and masks those that count.

    (b, e, t) -> (b, e, k) twice.  Indices ascend among those that count, which come first.  A row that is one example,
    without segments, gives one token at least.
    """
    b, e, t = scores.shape
    most = max(1, min(t, math.floor(share * t + 1e-4)))
    if segments is None:
        index = jnp.sort(jax.lax.top_k(scores, most)[1], axis=-1)
        return index, jnp.ones(index.shape, bool)
    lengths = jax.vmap(lambda row: jnp.zeros(t + 1, jnp.int32).at[row].add(1))(segments)
    quota = jnp.floor(share * jnp.take_along_axis(lengths, segments, axis=1) + 1e-4) * (segments > 0)
    owners = jnp.broadcast_to(segments[:, None], (b, e, t))
    numbers = jnp.broadcast_to(jnp.arange(t), (b, e, t))
    ordered, _, order = jax.lax.sort((owners, -jax.lax.stop_gradient(scores), numbers), num_keys=2)
    first = jnp.where(jnp.diff(ordered, prepend=-1) != 0, numbers, 0)
    rank = numbers - jax.lax.cummax(first, axis=2)
    picked = rank < jnp.take_along_axis(jnp.broadcast_to(quota[:, None], (b, e, t)), order, axis=-1)
    keys = jnp.sort(jnp.where(picked, order, t + order), axis=-1)[..., :most]
    return keys % t, keys < t
