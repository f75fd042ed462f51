"""The training step: theta <- theta - alpha * grad L, a pure function of (state, batch)."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from models.contracts import Batch, Model, Tree
from models.experts.routing import Loads, TokenLoss, measure_evenness
from models.head.chunked import Projected
from train.contracts import InChunks, Objective, Params, Roles
from train.errors import InputError
from train.precision import Precision, cast
from train.sums import Moments, Sum, Sums, add, by_example, moments

Sown = dict[str, Any]  # metrics that layers sow, as Sums and Loads by their names


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and gives anew.  `rng` is the data of the key that every step folds its number
    into.
    """

    step: jax.Array
    params: Params
    opt_state: Tree
    rng: jax.Array


def initialise(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    return TrainState(
        jnp.zeros((), jnp.int32), params, optimizer.init(params), jax.random.key_data(jax.random.key(seed))
    )


def make_loss(
    model: Model, objective: Objective, precision: Precision = "float32"
) -> Callable[..., tuple[jax.Array, Sums]]:
    """(params, batch, rng) -> (what is minimised, summed, and all sums); without an rng the model evaluates.

    In training the sum of what layers sow as "losses" is added, and logged as `auxiliary_loss`: of a `TokenLoss` each
    example's loss times the weight that the objective gives the example, so that parts of a batch add up to the batch;
    of a scalar, which depends on parameters alone, the scalar times the whole weight.  Of what they sow as "metrics",
    pairs of a sum and its weight are added over layers by name, and `Loads` are kept layer by layer: see `finished`.

    Raises InputError where a head leaves its logits in chunks to an objective that takes whole ones.
    """
    applied = _make_apply(model, objective, precision)

    def loss(params: Params, batch: Batch, rng: jax.Array | None = None) -> tuple[jax.Array, Sums]:
        own, metrics, losses = applied(params, batch, rng)
        sums = own | metrics
        total, weight, _ = sums["loss"]
        whole = {name: each._replace(each=None) if isinstance(each, Sum) else each for name, each in sums.items()}
        if rng is None or not jax.tree.leaves(losses):
            return total, whole
        auxiliary = compute_auxiliary_loss(losses, sums["loss"], batch)
        return total + auxiliary, whole | {"auxiliary_loss": Sum(auxiliary, weight)}

    return loss


def make_sums(model: Model, objective: Objective, precision: Precision = "float32") -> Callable[..., tuple[Sums, Sown]]:
    """(params, batch) -> (the objective's sums as it gives them, the metrics that layers sow); the model evaluates."""
    applied = _make_apply(model, objective, precision)
    return lambda params, batch: applied(params, batch, None)[:2]


def _make_apply(model: Model, objective: Objective, precision: Precision) -> Callable[..., tuple[Sums, Sown, Any]]:
    """(params, batch, rng) -> (the objective's sums, the sown metrics, the sown losses)."""

    def applied(params: Params, batch: Batch, rng: jax.Array | None) -> tuple[Sums, Sown, Any]:
        rngs = None if rng is None else {"dropout": rng}
        counted = {name: batch[name] for name in ("weights", "emphasis") if name in batch}  # whose sums stay exact
        variables, given = {"params": cast(params, precision)}, cast(dict(batch), precision) | counted
        outputs, sown = model.apply(variables, given, train=rng is not None, rngs=rngs, mutable=["losses", "metrics"])
        if isinstance(outputs, Projected) and not (isinstance(objective, InChunks) and objective.in_chunks):
            raise InputError(
                f"The head leaves its logits to be computed in chunks of {outputs.chunk}, and the objective"
                f" {type(objective).__name__} takes whole logits; leave model.head.chunk out."
            )
        return objective(outputs, batch), gather_metrics(sown.get("metrics", {})), sown.get("losses", {})

    return applied


def compute_auxiliary_loss(losses: Tree, loss: Sum, batch: Batch) -> jax.Array:
    """sum over examples i of w_i sum over layers of l_i, with w_i the weight of example i in the objective's loss.

    An objective whose sums are not made by `weighted` does not tell w_i; then all examples weigh the same.
    """
    if loss.each is not None:
        weights = by_example(loss.each.weights, batch)
    else:
        tokens = batch["segments"] if "segments" in batch else jnp.ones((len(next(iter(batch.values()))), 1), jnp.int32)
        present = jnp.minimum(by_example((tokens > 0).astype(jnp.float32), batch), 1)
        weights = present * loss.weight / jnp.maximum(present.sum(), 1)
    total = jnp.zeros(())
    for leaf in jax.tree.leaves(losses, is_leaf=lambda leaf: isinstance(leaf, TokenLoss)):
        if not isinstance(leaf, TokenLoss):
            total += loss.weight * jnp.sum(leaf.astype(jnp.float32))
        elif leaf.segments is None or weights.shape[1] == 1:
            total += jnp.sum(leaf.values * weights.sum(1)[:, None])
        else:
            rows = jnp.broadcast_to(weights, (*leaf.values.shape[:-1], weights.shape[-1]))
            total += jnp.sum(leaf.values * jnp.take_along_axis(rows, leaf.segments, axis=-1, mode="fill", fill_value=0))
    return total


def gather_metrics(sown: Tree) -> dict[str, Any]:
    """The sown metrics of a tree by their last name: pairs as Sums added over layers, Loads joined to (layers, e)
    each.
    """
    sums: dict[str, Any] = {}
    for name, value in sown.items():
        found = [(name, each) for each in value] if isinstance(value, tuple) else gather_metrics(value).items()
        for key, each in found:
            if isinstance(each, Loads) or (each and isinstance(each[0], Loads)):
                sums[key] = (*sums.get(key, ()), *((each,) if isinstance(each, Loads) else each))
            else:
                own = Sum(jnp.sum(each[0]), jnp.sum(each[1]))
                sums[key] = add({key: sums[key]}, {key: own})[key] if key in sums else own
    return sums


def finish_sums(sums: dict[str, Any]) -> Sums:
    """Sums of a whole batch with what does not add in place of Loads: load_entropy and largest_load, weighted by the
    layers' loads.
    """
    done: Sums = {}
    for name, each in sums.items():
        if isinstance(each, Sum):
            done[name] = each
            continue
        layers = [loads.counts.reshape(-1, loads.counts.shape[-1]) for loads in each]
        weights = [counts.sum(-1) for counts in layers]
        measured = zip(*(measure_evenness(counts) for counts in layers), strict=True)
        for part, values in zip((f"{name}_entropy", f"largest_{name}"), measured, strict=True):
            done[part] = Sum(
                jnp.sum(jnp.concatenate([value * weight for value, weight in zip(values, weights, strict=True)])),
                jnp.sum(jnp.concatenate(weights)),
            )
    return done


def make_step(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    precision: Precision = "float32",
    accumulate: int = 1,
    roles: Roles = None,
) -> Callable[..., tuple[TrainState, Sums]]:
    """The step as a pure function (state, batch, axis) -> (state, sums).

    `axis` names the devices that a pmap splits the batch over; None under jit and on a mesh.  `accumulate` cuts the
    batch in as many parts, one after the other: less memory, the same numbers, since sums are divided by the weight of
    the whole batch only.  On a mesh of several devices every part's gradients are added over them, `accumulate` times
    the communication; a pmap adds them once.

    `roles`, a tree of Role like the parameters', says where no gradient of the loss stands in the gradient's place
    (`step`): that is left to the optimizer (see `train.optimizers.routed`) and is no part of the `gradient_norm` that
    is logged.
    """
    gradient = accumulate_gradient(jax.value_and_grad(make_loss(model, objective, precision), has_aux=True), accumulate)

    def train_step(state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, Sums]:
        rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        if axis is not None:
            rng = jax.random.fold_in(rng, jax.lax.axis_index(axis))
        sums, grads = gradient(state.params, batch, rng)
        if axis is not None:
            sums, grads = jax.lax.psum((sums, grads), axis)
        grads = jax.tree.map(lambda grad: grad / jnp.maximum(sums["loss"].weight, 1e-9), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)  # theta <- theta - alpha * grad L
        sums = finish_sums(sums) | {
            "gradient_norm": Sum(optax.tree.norm(_select_loss_gradients(grads, roles)), jnp.ones(()))
        }
        return TrainState(state.step + 1, params, opt_state, state.rng), sums

    return train_step


def _select_loss_gradients(grads: Tree, roles: Roles) -> list[jax.Array]:
    """The leaves that are gradients of the loss."""
    leaves = jax.tree.leaves(grads)
    return (
        leaves
        if roles is None
        else [leaf for leaf, role in zip(leaves, jax.tree.leaves(roles), strict=True) if role.step is None]
    )


def make_evaluation(
    model: Model, objective: Objective, precision: Precision = "float32"
) -> Callable[..., dict[str, Any]]:
    """The measurement as a pure function (params, batch, axis) -> moments of each metric over the examples; nothing is
    updated.

    `Loads` that layers sow are left as they are, added over the devices: what is measured of them does not add, see
    `over_batches`.
    """
    applied = _make_apply(model, objective, precision)

    def evaluate(params: Params, batch: Batch, axis: str | None = None) -> dict[str, Any]:
        def added(tree: Tree) -> Tree:
            return tree if axis is None else jax.lax.psum(tree, axis)

        own, metrics, _ = applied(params, batch, None)
        sums = own | metrics
        totals = added(
            {name: each._replace(each=None) if isinstance(each, Sum) else each for name, each in sums.items()}
        )
        return {
            name: moments(totals[name], each.each, batch, added) if isinstance(each, Sum) else totals[name]
            for name, each in sums.items()
        }

    return evaluate


def combine_batches(results: Sequence[dict[str, Any]]) -> dict[str, list[Moments]]:
    """The moments of each metric by batch, of what evaluations of several give; of Loads those of the batches' sum, all
    as one.
    """
    found: dict[str, list[Moments]] = {}
    for name, first in results[0].items():
        own = [result[name] for result in results]
        if isinstance(first, Moments):
            found[name] = own
        else:
            whole = finish_sums({name: jax.tree.map(lambda *counts: sum(counts), *own)})
            found |= {part: [moments(total, None, {})] for part, total in whole.items()}
    return found


def make_outputs(model: Model, precision: Precision = "float32") -> Callable[..., Tree]:
    """What the model gives, as a pure function (params, batch) -> outputs; logits that a head left to the loss are
    computed.
    """

    def outputs(params: Params, batch: Batch) -> Tree:
        found = model.apply({"params": cast(params, precision)}, cast(dict(batch), precision))
        return found.logits() if isinstance(found, Projected) else found

    return outputs


def make_search(model: Model, objective: Any, end: int, precision: Precision = "float32") -> Callable[..., Tree]:
    """What an objective with a `search` finds, as a pure function (params, batch) -> tokens (b, t), filled up with
    `end`.
    """

    def search(params: Params, batch: Batch) -> Tree:
        return objective.search(model, cast(params, precision), cast(dict(batch), precision), end)

    return search


def accumulate_gradient(
    gradient: Callable[..., Tree], parts: int
) -> Callable[[Params, Batch, jax.Array], tuple[Sums, Tree]]:
    """(params, batch, rng) -> (sums, gradient of the summed loss), over the whole batch or over its parts in turn."""

    def whole(params: Params, batch: Batch, rng: jax.Array) -> tuple[Sums, Tree]:
        (_, sums), grads = gradient(params, batch, rng)
        return sums, grads

    def in_turn(params: Params, batch: Batch, rng: jax.Array) -> tuple[Sums, Tree]:
        # Every part takes each `parts`-th row, so that rows stay on the device that holds them.
        split = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), dict(batch))

        def one(total: tuple[Sums, Tree], turn: tuple[jax.Array, Batch]) -> tuple[tuple[Sums, Tree], None]:
            number, part = turn
            return jax.tree.map(jnp.add, total, whole(params, part, jax.random.fold_in(rng, number))), None

        first = jax.tree.map(lambda leaf: leaf[0], split)
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(whole, params, first, rng))
        total, _ = jax.lax.scan(one, empty, (jnp.arange(parts), split))
        return total

    return whole if parts == 1 else in_turn
