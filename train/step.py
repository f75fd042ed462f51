"""The training step: theta <- theta - alpha * grad L, a pure function of (state, batch)."""

from collections.abc import Callable
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax

from models.contracts import Batch, Model
from models.projected import Projected
from train.objective import Objective, Sum, Sums, add
from train.spec import InputError

Precision = Literal["float32", "bfloat16"]


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and gives anew.  `rng` is the data of the key that every step folds its number into."""

    step: jax.Array
    params: Any
    opt_state: Any
    rng: jax.Array


def initialise(params: Any, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), jax.random.key_data(jax.random.key(seed)))


def cast(tree: Any, precision: Precision) -> Any:
    """Floating-point leaves in the compute type; the rest as it is."""
    kind = jnp.dtype(precision)
    return jax.tree.map(lambda leaf: leaf.astype(kind) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def make_loss(model: Model, objective: Objective, precision: Precision = "float32") -> Callable[..., tuple[jax.Array, Sums]]:
    """(params, batch, rng) -> (what is minimised, summed, and all sums); without an rng the model evaluates.

    What layers sow as "losses" (scalars, already weighted) is added in training for every unit of the loss's weight and logged as
    `auxiliary_loss`; what they sow as "metrics", pairs of a sum and its weight, is logged by name, summed over layers.

    Raises InputError where a head leaves its logits in chunks to an objective that takes whole ones.
    """

    def loss(params: Any, batch: Batch, rng: jax.Array | None = None) -> tuple[jax.Array, Sums]:
        rngs = None if rng is None else {"dropout": rng}
        variables, given = {"params": cast(params, precision)}, cast(dict(batch), precision)
        outputs, sown = model.apply(variables, given, train=rng is not None, rngs=rngs, mutable=["losses", "metrics"])
        if isinstance(outputs, Projected) and not getattr(objective, "in_chunks", False):
            raise InputError(
                f"The head leaves its logits to be computed in chunks of {outputs.chunk}, and the objective {type(objective).__name__}"
                " takes whole logits; leave model.head.chunk out."
            )
        sums = objective(outputs, batch) | gathered(sown.get("metrics", {}))
        total, weight = sums["loss"]
        if rng is None or "losses" not in sown:
            return total, sums
        auxiliary = weight * sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(sown["losses"]))
        return total + auxiliary, sums | {"auxiliary_loss": Sum(auxiliary, weight)}

    return loss


def gathered(sown: Any) -> Sums:
    """The sown pairs of a tree by their last name, added over layers."""
    sums: Sums = {}
    for name, value in sown.items():
        pairs = [(name, pair) for pair in value] if isinstance(value, tuple) else gathered(value).items()
        for key, (total, weight) in pairs:
            own = {key: Sum(jnp.sum(total), jnp.sum(weight))}
            sums |= add({key: sums[key]}, own) if key in sums else own
    return sums


def make_step(
    model: Model, objective: Objective, optimizer: optax.GradientTransformation, precision: Precision = "float32", accumulate: int = 1
) -> Callable[..., tuple[TrainState, Sums]]:
    """The step as a pure function (state, batch, axis) -> (state, sums).

    `axis` names the devices that a pmap splits the batch over; None under jit and on a mesh.  `accumulate` cuts the batch in as many
    parts, one after the other: less memory, the same numbers, since sums are divided by the weight of the whole batch only.  On a mesh
    of several devices every part's gradients are added over them, `accumulate` times the communication; a pmap adds them once.
    """
    gradient = accumulated(jax.value_and_grad(make_loss(model, objective, precision), has_aux=True), accumulate)

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
        sums = sums | {"gradient_norm": Sum(optax.tree.norm(grads), jnp.ones(()))}
        return TrainState(state.step + 1, params, opt_state, state.rng), sums

    return train_step


def make_evaluation(model: Model, objective: Objective, precision: Precision = "float32") -> Callable[..., Sums]:
    """The measurement as a pure function (params, batch, axis) -> sums; nothing is updated."""
    loss = make_loss(model, objective, precision)

    def evaluate(params: Any, batch: Batch, axis: str | None = None) -> Sums:
        _, sums = loss(params, batch)
        return sums if axis is None else jax.lax.psum(sums, axis)

    return evaluate


def make_outputs(model: Model, precision: Precision = "float32") -> Callable[..., Any]:
    """What the model gives, as a pure function (params, batch) -> outputs; logits that a head left to the loss are computed."""

    def outputs(params: Any, batch: Batch) -> Any:
        found = model.apply({"params": cast(params, precision)}, cast(dict(batch), precision))
        return found.logits() if isinstance(found, Projected) else found

    return outputs


def make_search(model: Model, objective: Any, end: int, precision: Precision = "float32") -> Callable[..., Any]:
    """What an objective with a `search` finds, as a pure function (params, batch) -> tokens (b, t), filled up with `end`."""

    def search(params: Any, batch: Batch) -> Any:
        return objective.search(model, cast(params, precision), cast(dict(batch), precision), end)

    return search


def accumulated(gradient: Callable[..., Any], parts: int) -> Callable[[Any, Batch, jax.Array], tuple[Sums, Any]]:
    """(params, batch, rng) -> (sums, gradient of the summed loss), over the whole batch or over its parts in turn."""

    def whole(params: Any, batch: Batch, rng: jax.Array) -> tuple[Sums, Any]:
        (_, sums), grads = gradient(params, batch, rng)
        return sums, grads

    def in_turn(params: Any, batch: Batch, rng: jax.Array) -> tuple[Sums, Any]:
        # Every part takes each `parts`-th row, so that rows stay on the device that holds them.
        split = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), dict(batch))

        def one(total: tuple[Sums, Any], turn: tuple[jax.Array, Batch]) -> tuple[tuple[Sums, Any], None]:
            number, part = turn
            return jax.tree.map(jnp.add, total, whole(params, part, jax.random.fold_in(rng, number))), None

        first = jax.tree.map(lambda leaf: leaf[0], split)
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(whole, params, first, rng))
        total, _ = jax.lax.scan(one, empty, (jnp.arange(parts), split))
        return total

    return whole if parts == 1 else in_turn
