"""Groups of training examples: their weights in the optimizer's state, in the loss, and after a step."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.contracts import Batch, Tree
from train.contracts import Arrays, Dataset, Params, Reweighs, Steps
from train.data.batches import Batches
from train.data.groups import read_groupings
from train.errors import InputError, convert_errors
from train.sums import Sum, Sums, sum_up

GROUP, FACTOR, LOSSES = "group", "group_factor", "group_losses"  # arrays of a training batch; a Sum of vectors


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """The groups of the training part by the column of a `Reweighs`.

    They have their `names`, numbers of examples and `first` weights (g,); `members` (n,) has the group of each example.
    """

    spec: Reweighs
    names: tuple[str, ...]
    counts: np.ndarray
    first: np.ndarray
    members: np.ndarray

    def carry(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """Carries the groups' weights in the state of an optimizer, so that checkpoints have them."""

        def init(params: Params) -> Carried:
            return Carried(optimizer.init(params), jnp.asarray(self.first, jnp.float32))

        def update(updates: Params, state: optax.OptState, params: Params | None = None) -> tuple[Params, Carried]:
            assert isinstance(state, Carried)
            changed, inner = optimizer.update(updates, state.inner, params)
            return changed, Carried(inner, state.weights)

        return optax.GradientTransformation(init, update)

    def add_members(self, batches: Steps) -> Steps:
        """Adds the group of each example to batches.  Raises InputError for batches without indices of examples."""

        def make(step: int) -> Arrays:
            batch = batches[step]
            if "index" not in batch or "targets" in batch:
                reason = "mixes examples" if "targets" in batch else "has rows that are no examples"
                raise InputError(f"groups weighs the examples of {self.spec.column!r}, and the data {reason}.")
            return batch | {GROUP: self.members[batch["index"]]}

        return Batches(len(batches), make)

    def weigh(self, batch: Batch, state: Tree) -> Batch:
        """Adds the weight of each example, q_g n / n_g, to a batch."""
        factors = state.weights * jnp.asarray(self.counts.sum() / self.counts, jnp.float32)
        return {**batch, FACTOR: factors[batch[GROUP]]}

    def advance(self, state: Tree, sums: Sums) -> tuple[Tree, Sums]:
        """Updates the weights by the losses of a step, and replaces these by the weights in the sums, to be logged."""
        total = sums[LOSSES]
        means = total.value / jnp.maximum(total.weight, 1e-9)
        weights = self.spec.update(state.weights, means, total.weight > 0, jnp.asarray(self.counts, jnp.float32))
        logged = {f"weight_of_{name}": Sum(weights[i], jnp.ones(())) for i, name in enumerate(self.names)}
        return Carried(state.inner, weights), {name: each for name, each in sums.items() if name != LOSSES} | logged


class Carried(NamedTuple):
    """An optimizer's state with the weights q (g,) of groups."""

    inner: Tree
    weights: jax.Array


def read_groups(spec: Reweighs, data: Dataset) -> Groups:
    """Reads the groups of the training examples.  Raises InputError if the data has no such column."""
    (grouping,) = read_groupings(data, "train", [spec.column], {})
    counts = np.bincount(grouping.members, minlength=len(grouping.names))
    with convert_errors():
        first = spec.start(counts)
    return Groups(spec, grouping.names, counts, first, grouping.members.astype(np.int32))


def weigh_loss(loss: Sum, batch: Batch, count: int) -> Sums:
    """Weighs the terms of a training loss by the batch's group factors, and sums the loss of each of `count` groups.

    Raises ValueError unless the terms are those of examples, in the shape of the batch's groups.
    """
    groups, factors = batch[GROUP], batch[FACTOR]
    if loss.each is None or loss.each.values.shape[: groups.ndim] != groups.shape:
        raise ValueError("groups weighs examples, and the objective's loss has no terms of examples; leave groups out")
    values, weights = loss.each
    inner = tuple(range(groups.ndim, values.ndim))
    hot = jax.nn.one_hot(groups, count).reshape(-1, count)
    sums = [jnp.sum(term, axis=inner).reshape(-1) @ hot for term in (values, weights)]
    spread = factors.reshape(factors.shape + (1,) * len(inner))
    return {"loss": sum_up(values * spread, weights), LOSSES: Sum(sums[0], sums[1])}
