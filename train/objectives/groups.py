"""Weights of groups in the loss: fixed ones, and those of group distributionally robust optimisation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class GroupWeights:
    """Fixed weights of the groups of a column: the loss is sum_g q_g L_g, L_g the mean loss of group g.

    `weights` are those of an example of each group, in the order of the groups' names, such as (1, 3), with q_g =
    weight_g n_g / n; None gives q_g = 1 / G, all groups alike whatever their number of examples.  A batch estimates the
    sum by weighing its examples by q_g n / n_g, with n_g of the n examples to train on in group g.
    """

    column: str
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and (not self.weights or min(self.weights) < 0 or not max(self.weights) > 0):
            raise ValueError(f"GroupWeights.weights is {self.weights}; give numbers of 0 or above, one a group.")

    def start(self, counts: np.ndarray) -> np.ndarray:
        """The weights q (g,) for groups of so many examples.  Raises ValueError for another number of weights."""
        if self.weights is None:
            return np.full(len(counts), 1 / len(counts))
        if len(self.weights) != len(counts):
            raise ValueError(
                f"GroupWeights has {len(self.weights)} weights, and {self.column!r} has {len(counts)} groups; give one"
                " for each"
            )
        return np.asarray(self.weights) * counts / counts.sum()

    def update(self, weights: jax.Array, losses: jax.Array, present: jax.Array, counts: jax.Array) -> jax.Array:
        """The same weights."""
        del losses, present, counts
        return weights


@dataclasses.dataclass(frozen=True)
class GroupDRO:
    """Group distributionally robust optimisation: min over theta, max over q, of sum_g q_g L_g(theta).

    Sagawa et al., arXiv:1911.08731, algorithm 1.  After each step q_g <- q_g exp(eta (L_g + adjustment / sqrt(n_g))),
    divided by the sum, with L_g the mean loss of the batch's examples of group g, and no change of q_g if it has none;
    `adjustment` is the paper's C of group adjustments (section 3.3).  q begins uniform, and the gradient of a step uses
    the q that the steps before left, so that parts of a batch and devices add up; the paper's uses that of its own
    batch.  Weak regularisation makes all losses vanish and q useless: give the optimizer more decay, or stop early.
    """

    column: str
    eta: float = 0.01
    adjustment: float = 0.0

    def __post_init__(self) -> None:
        if not self.eta > 0 or self.adjustment < 0:
            raise ValueError(
                f"GroupDRO has eta {self.eta} and adjustment {self.adjustment}; give an eta above 0 and an adjustment"
                " of 0 or above."
            )

    def start(self, counts: np.ndarray) -> np.ndarray:
        """Uniform weights (g,)."""
        return np.full(len(counts), 1 / len(counts))

    def update(self, weights: jax.Array, losses: jax.Array, present: jax.Array, counts: jax.Array) -> jax.Array:
        """The weights after a step, from those before, the mean losses, who is in the batch, and the examples: (g,)."""
        rises = self.eta * (losses + self.adjustment / jnp.sqrt(counts))
        logs = jnp.log(weights) + jnp.where(present, rises, 0)
        return jax.nn.softmax(logs)
