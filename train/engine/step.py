"""The training step: theta <- theta - alpha * grad L, a pure function of (state, batch)."""

from collections.abc import Callable, Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import optax

from models.contracts import Batch, Model, Tree
from models.experts.routing import Loads, TokenLoss, measure_evenness
from models.head.chunked import Projected, compute_logits
from train.contracts import InChunks, Objective, Params, Roles, Searches
from train.engine.groups import FACTOR, Groups, weigh_loss
from train.errors import InputError
from train.optimizers.private import Guarantee
from train.precision import Precision, cast
from train.sums import Moments, Sum, Sums, add_sums, compute_moments, sum_by_example

Sown = dict[str, Tree]  # metrics that layers sow, by their names: Sums, and tuples of Loads


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and returns anew.  `rng` is the key data that a step folds its number into."""

    step: jax.Array
    params: Params
    opt_state: Tree
    rng: jax.Array


def initialise(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Makes the state before the first step."""
    return TrainState(
        jnp.zeros((), jnp.int32), params, optimizer.init(params), jax.random.key_data(jax.random.key(seed))
    )


def make_loss(
    model: Model, objective: Objective, precision: Precision = "float32", groups: int = 0
) -> Callable[..., tuple[jax.Array, Sums]]:
    """Makes (params, batch, rng) -> (the summed loss, all sums); if rng is None the model evaluates.

    In training the "losses" that layers sow are added to it, and logged as `auxiliary_loss`: a `TokenLoss` adds each
    example's loss times the weight that the objective gives the example, so that parts of a batch add up to the batch;
    a scalar, which depends on parameters alone, is multiplied by the whole weight.  Of the sown "metrics", pairs of a
    sum and its weight are added over layers by name, and `Loads` are kept layer by layer: see `finish_sums`.  With
    `groups`, their number, the loss in training weighs examples: see `train.engine.groups`.

    Raises InputError if a head leaves its logits in chunks to an objective that takes whole ones, and if a layer sows a
    metric that has the name of one of the objective's.
    """
    apply = _make_apply(model, objective, precision)

    def loss(params: Params, batch: Batch, rng: jax.Array | None = None) -> tuple[jax.Array, Sums]:
        measured, metrics, losses = apply(params, batch, rng)
        sums = measured | metrics
        if groups and rng is not None:
            sums |= weigh_loss(sums["loss"], batch, groups)
        total, weight, _ = sums["loss"]
        whole = {name: each._replace(each=None) if isinstance(each, Sum) else each for name, each in sums.items()}
        if rng is None or not jax.tree.leaves(losses):
            return total, whole
        auxiliary = compute_auxiliary_loss(losses, sums["loss"], batch)
        return total + auxiliary, whole | {"auxiliary_loss": Sum(auxiliary, weight)}

    return loss


def make_sums(model: Model, objective: Objective, precision: Precision = "float32") -> Callable[..., tuple[Sums, Sown]]:
    """Makes (params, batch) -> (the objective's sums, the metrics that layers sow); the model evaluates."""
    apply = _make_apply(model, objective, precision)
    return lambda params, batch: apply(params, batch, None)[:2]


def _make_apply(model: Model, objective: Objective, precision: Precision) -> Callable[..., tuple[Sums, Sown, Tree]]:
    """Makes (params, batch, rng) -> (the objective's sums, the sown metrics, the sown losses)."""

    def apply(params: Params, batch: Batch, rng: jax.Array | None) -> tuple[Sums, Sown, Tree]:
        rngs = None if rng is None else {"dropout": rng}
        exact = {
            name: batch[name] for name in ("weights", "emphasis", FACTOR) if name in batch
        }  # summed, so never rounded
        variables = {"params": cast(params, precision)}
        inputs = cast(dict(batch), precision) | exact
        outputs, sown = model.apply(variables, inputs, train=rng is not None, rngs=rngs, mutable=["losses", "metrics"])
        if isinstance(outputs, Projected) and not (isinstance(objective, InChunks) and objective.in_chunks):
            raise InputError(
                f"The head leaves its logits to be computed in chunks of {outputs.chunk}, and the objective"
                f" {type(objective).__name__} takes whole logits; leave model.head.chunk out."
            )
        measured, metrics = objective(outputs, batch), gather_metrics(sown.get("metrics", {}))
        if taken := sorted(measured.keys() & metrics.keys()):
            raise InputError(
                f"A layer sows the metric {taken[0]!r}, a name of the objective {type(objective).__name__}; give it"
                " another."
            )
        return measured, metrics, sown.get("losses", {})

    return apply


def compute_auxiliary_loss(losses: Tree, loss: Sum, batch: Batch) -> jax.Array:
    """Sums w_i l_i over examples i and layers, with w_i the weight of example i in the objective's loss.

    If the objective does not make its sums by `sum_weighted`, w_i is unknown, and all examples weigh the same.
    """
    if loss.each is not None:
        weights = sum_by_example(loss.each.weights, batch)
    else:
        tokens = batch["segments"] if "segments" in batch else jnp.ones((len(next(iter(batch.values()))), 1), jnp.int32)
        present = jnp.minimum(sum_by_example((tokens > 0).astype(jnp.float32), batch), 1)
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


def gather_metrics(sown: Tree) -> Sown:
    """Gathers sown metrics by their last name: pairs are added over layers to a Sum, Loads become a tuple."""
    sums: Sown = {}
    for name, value in sown.items():
        items = [(name, each) for each in value] if isinstance(value, tuple) else gather_metrics(value).items()
        for key, each in items:
            if isinstance(each, Loads) or (each and isinstance(each[0], Loads)):
                sums[key] = (*sums.get(key, ()), *((each,) if isinstance(each, Loads) else each))
            else:
                total = Sum(jnp.sum(each[0]), jnp.sum(each[1]))
                sums[key] = add_sums({key: sums[key]}, {key: total})[key] if key in sums else total
    return sums


def finish_sums(sums: Mapping[str, Tree]) -> Sums:
    """Replaces Loads of a whole batch by load_entropy and largest_load, weighted by the layers' loads.

    These do not add over parts of a batch, so they are computed from the added Loads.
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
    interpolate: Callable[[Params, Tree], Params] | None = None,
    groups: Groups | None = None,
    guarantee: Guarantee | None = None,
) -> Callable[..., tuple[TrainState, Sums]]:
    """Makes the training step, a pure function (state, batch, axis) -> (state, sums).

    `axis` names the devices that a pmap splits the batch over; None under jit and on a mesh.  `accumulate` splits the
    batch into as many parts, computed in turn: less memory and the same numbers, since sums are divided by the weight
    of the whole batch only.  On a mesh of several devices every part's gradients are added over them, `accumulate`
    times the communication; a pmap adds them once.

    A parameter whose Role in `roles` has a `step` has an update of its own in place of a gradient of the loss: it is
    left to the optimizer (see `train.optimizers.route`), and the logged `gradient_norm` leaves it out.

    `interpolate` maps parameters and the optimizer's state to the parameters that gradients are taken at; None: those
    of the state.  `groups` weighs examples by their group, with weights that the optimizer's state carries.

    With a `guarantee` gradients are clipped example by example, and their sum over parts and devices, with noise added
    once, is divided by the expected batch size: see `train.optimizers.private`.
    """
    loss = make_loss(model, objective, precision, 0 if groups is None else len(groups.names))
    each = jax.value_and_grad(loss, has_aux=True) if guarantee is None else guarantee.clip_examples(loss)
    gradient = accumulate_gradient(each, accumulate)

    def train_step(state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        rng = key if axis is None else jax.random.fold_in(key, jax.lax.axis_index(axis))
        if groups is not None:
            batch = groups.weigh(batch, state.opt_state)
        at = state.params if interpolate is None else interpolate(state.params, state.opt_state)
        sums, grads = gradient(at, batch, rng)
        if axis is not None:
            sums, grads = jax.lax.psum((sums, grads), axis)
        if guarantee is not None:
            grads = guarantee.release(grads, key)
        else:
            grads = jax.tree.map(lambda grad: grad / jnp.maximum(sums["loss"].weight, 1e-9), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)  # theta <- theta - alpha * grad L
        if groups is not None:
            opt_state, sums = groups.advance(opt_state, sums)
        sums = finish_sums(sums) | {
            "gradient_norm": Sum(optax.tree.norm(_select_loss_gradients(grads, roles)), jnp.ones(()))
        }
        return TrainState(state.step + 1, params, opt_state, state.rng), sums

    return train_step


def _select_loss_gradients(grads: Tree, roles: Roles) -> list[jax.Array]:
    """Selects the leaves that are gradients of the loss."""
    leaves = jax.tree.leaves(grads)
    if roles is None:
        return leaves
    return [leaf for leaf, role in zip(leaves, jax.tree.leaves(roles), strict=True) if role.step is None]


def make_evaluation(
    model: Model, objective: Objective, precision: Precision = "float32"
) -> Callable[..., dict[str, Tree]]:
    """Makes the evaluation, a pure function (params, batch, axis) -> moments of each metric over the examples.

    `Loads` that layers sow are only added over the devices: their metrics do not add over batches, see
    `combine_batches`.
    """
    apply = _make_apply(model, objective, precision)

    def evaluate(params: Params, batch: Batch, axis: str | None = None) -> dict[str, Tree]:
        def add_devices(tree: Tree) -> Tree:
            return tree if axis is None else jax.lax.psum(tree, axis)

        measured, metrics, _ = apply(params, batch, None)
        sums = measured | metrics
        totals = add_devices(
            {name: each._replace(each=None) if isinstance(each, Sum) else each for name, each in sums.items()}
        )
        return {
            name: compute_moments(totals[name], each.each, batch, add_devices)
            if isinstance(each, Sum)
            else totals[name]
            for name, each in sums.items()
        }

    return evaluate


def combine_batches(results: Sequence[dict[str, Tree]]) -> dict[str, list[Moments]]:
    """Lists the moments of each metric over evaluated batches; Loads of all batches are added to one entry."""
    combined: dict[str, list[Moments]] = {}
    for name, first in results[0].items():
        values = [result[name] for result in results]
        if isinstance(first, Moments):
            combined[name] = values
        else:
            whole = finish_sums({name: jax.tree.map(lambda *counts: sum(counts), *values)})
            combined |= {part: [compute_moments(total, None, {})] for part, total in whole.items()}
    return combined


def make_outputs(model: Model, precision: Precision = "float32") -> Callable[..., Tree]:
    """Makes the model's pure function (params, batch) -> outputs; logits that a head left in chunks are computed."""

    def outputs(params: Params, batch: Batch) -> Tree:
        result = model.apply({"params": cast(params, precision)}, cast(dict(batch), precision))
        return compute_logits(result)

    return outputs


def make_search(model: Model, objective: Searches, end: int, precision: Precision = "float32") -> Callable[..., Tree]:
    """Makes the objective's search, a pure function (params, batch) -> tokens (b, t), padded with `end`."""

    def search(params: Params, batch: Batch) -> Tree:
        return objective.search(model, cast(params, precision), cast(dict(batch), precision), end)

    return search


def accumulate_gradient(
    gradient: Callable[..., Tree], parts: int
) -> Callable[[Params, Batch, jax.Array], tuple[Sums, Tree]]:
    """Makes (params, batch, rng) -> (sums, gradient of the summed loss), over the whole batch or its parts in turn."""

    def whole(params: Params, batch: Batch, rng: jax.Array) -> tuple[Sums, Tree]:
        (_, sums), grads = gradient(params, batch, rng)
        return sums, grads

    def in_turn(params: Params, batch: Batch, rng: jax.Array) -> tuple[Sums, Tree]:
        # A part takes every `parts`-th row, so that rows stay on the device that holds them.
        split = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), dict(batch))

        def add_part(total: tuple[Sums, Tree], turn: tuple[jax.Array, Batch]) -> tuple[tuple[Sums, Tree], None]:
            number, part = turn
            return jax.tree.map(jnp.add, total, whole(params, part, jax.random.fold_in(rng, number))), None

        first = jax.tree.map(lambda leaf: leaf[0], split)
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(whole, params, first, rng))
        total, _ = jax.lax.scan(add_part, empty, (jnp.arange(parts), split))
        return total

    return whole if parts == 1 else in_turn
