"""Transforms of updates by the roles of parameters: routing, clipping, decay, muP, rates by layer."""

import inspect
import math
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from models.paths import Layer, count_stacked, map_paths, path_name, select
from models.roles import Growth, Role, default_roles
from train.contracts import Optimizer, Params, Roles

MUP = ("AdamW", "Lion", "Muon", "SGD")  # optimizers whose rates in muP are known


def build(optimizer: Optimizer, steps: int, params: Params, roles: Roles | None) -> optax.GradientTransformation:
    """Builds an optimizer by the roles of parameters; they are routed for it if its own `build` takes no roles.

    Raises ValueError if it takes none and the model is in muP.
    """
    arguments = inspect.signature(optimizer.build).parameters
    if "roles" in arguments or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in arguments.values()):
        return optimizer.build(steps, params, roles=roles)
    if is_mup(roles):
        raise ValueError("its build takes no roles, which hold muP's rates")
    return route(optimizer.build(steps, params), params, roles)


def route(
    transform: optax.GradientTransformation, params: Params, roles: Roles | None, freeze: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """Routes parameters: those that match `freeze` stay, those with a `step` in their role move by it.

    Only the rest enters the norms and the state of the transformation.  Raises ValueError for a pattern that matches no
    parameter.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in freeze:
        if not any(map(select((pattern,)), paths)):
            raise ValueError(
                f"freeze has {pattern!r}, which matches no parameter; they have names such as"
                f" {paths[len(paths) // 2]!r}."
            )
    transforms: dict[Hashable, optax.GradientTransformation] = {"trained": transform, "frozen": optax.set_to_zero()}
    frozen = select(freeze)

    def label(path: str, role: Role) -> str:
        if frozen(path) is not None:
            return "frozen"
        if role.step is None:
            return "trained"
        transforms[name := f"step {role.step:g}"] = _step_by_sign(role.step)
        return name

    labels = map_paths(label, default_roles(params) if roles is None else roles)
    return transform if set(jax.tree.leaves(labels)) <= {"trained"} else optax.partition(transforms, labels)


def _step_by_sign(step: float) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(lambda update: -step * jnp.sign(update), updates))


def is_mup(roles: Roles | None) -> bool:
    """Tells if the roles are those of a model in muP."""
    return any(role.growth is not None for role in jax.tree.leaves(roles))


def refuse_mup(roles: Roles | None, name: str) -> None:
    """Raises ValueError for a model in muP."""
    if is_mup(roles):
        known = f"{', '.join(MUP[:-1])} and {MUP[-1]}"
        raise ValueError(f"muP's rates are known for {known}, and the optimizer is {name}; use one of these")


def map_growth(roles: Roles, scale: Callable[[Growth], float]) -> Params:
    """Maps the growth of each parameter over the base model's to a number."""
    return jax.tree.map(lambda role: scale(role.growth or Growth()), roles)


def find_shrinkage(roles: Roles | None) -> float:
    """The factor by which gradients in muP are smaller than the base model's, at most; 1 if the model is not in muP."""
    if not is_mup(roles):
        return 1.0
    return max(jax.tree.leaves(map_growth(roles, lambda growth: max(growth.fan_in, growth.fan_out) * growth.depth)))


def scale_by(scales: Params) -> optax.GradientTransformation:
    """Multiplies each update by its number, or by an array that broadcasts to it."""

    def scale_leaf(scale: jax.Array | float, update: jax.Array | optax.MaskedNode) -> jax.Array | optax.MaskedNode:
        return update if isinstance(update, optax.MaskedNode) else update * scale  # a frozen parameter has no update

    return optax.stateless(lambda updates, _: jax.tree.map(scale_leaf, scales, updates))


def require_clip(bound: float | None) -> None:
    """Raises ValueError unless a bound of the global norm is above 0 or None."""
    if bound is not None and not 0 < bound < math.inf:
        raise ValueError(
            f"The optimizer's clip is {bound}; give a norm above 0, or none to leave gradients as they are."
        )


def require_layer_decay(owner: str, decay: float | None) -> None:
    """Raises ValueError unless the factor of a block's rate is above 0 or None."""
    if decay is not None and not 0 < decay < math.inf:
        raise ValueError(f"{owner}.layer_decay is {decay}; it must be a number above 0.")


def clip_norm(bound: float | None, transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """Puts clipping of the global norm before a transformation, unless the bound is None."""
    return transform if bound is None else optax.chain(optax.clip_by_global_norm(bound), transform)


def mask_decayed(params: Params, roles: Roles | None, no_decay: tuple[str, ...] | None) -> Params:
    """Masks the parameters that are decayed: those matching no pattern of `no_decay`; by their roles if it is None."""
    if no_decay is None:
        return jax.tree.map(lambda role: bool(role.decay), default_roles(params) if roles is None else roles)
    match = select(no_decay)
    return map_paths(lambda path, _: match(path) is None, params)


def descend(
    direction: optax.GradientTransformation,
    rate: Callable[[Any], Any],
    decay: float,
    mask: Params,
    scales: Params | None = None,
) -> optax.GradientTransformation:
    """theta <- theta - rate * scale * (direction + decay * theta), decay where the mask says, scales by parameter."""
    chain = [direction, optax.add_decayed_weights(decay, mask=mask)]
    chain += [] if scales is None else [scale_by(scales)]
    return optax.chain(*chain, optax.scale_by_learning_rate(rate))


def repeat_alone(transform: optax.GradientTransformation, params: Params) -> optax.GradientTransformation:
    """Applies a transformation to each repeat of scanned parameters alone, as if the stack were a loop.

    For a transformation that takes means over a parameter's axes.  The state of repeats has leading axes.
    """
    transforms: dict[Hashable, optax.GradientTransformation] = {}

    def label(path: str, leaf: jax.Array) -> str:
        each, repeats = transform, leaf.shape[: count_stacked(path)]
        for _ in repeats:
            each = optax.GradientTransformation(_map_repeats(each.init), _map_repeats(each.update))
        transforms[name := f"repeats {repeats}"] = each
        return name

    labels = map_paths(label, params)
    return optax.partition(transforms, labels)


def _map_repeats(run: Callable[..., Params]) -> Callable[..., Params]:
    """Maps over the leading axis of all arguments; if no parameter is left in the first, there is nothing to map."""
    return lambda tree, *more: (jax.vmap(run) if jax.tree.leaves(tree) else run)(tree, *more)


def compute_layer_scales(params: Params, decay: float) -> Params:
    """Computes decay^(L - l) for each parameter of block l of the L of its stack, for each row of a scanned parameter.

    The embedding is below the first block; other parameters outside a stack have 1.  Repeats of a tied pattern are one
    block.  Raises ValueError if there is no stack.
    """
    paths = [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    # by stack: blocks of its prefix, blocks of its pattern, and repeats of the pattern
    counts: dict[str, dict[str, int]] = {}
    for name, leaf in paths:
        if layer := Layer.of(name):
            count = counts.setdefault(layer.stack, {"prefix": 0, "pattern": 0, "repeats": 1})
            part = "prefix" if layer.kind == "prefix" else "pattern"
            count[part] = max(count[part], layer.index + 1)
            count["repeats"] = leaf.shape[0] if layer.kind == "scan" else count["repeats"]
    if not counts:
        raise ValueError(
            "layer_decay has a rate for each block of a stack, and no parameter is in one; leave layer_decay out."
        )
    depths = {stack: count["prefix"] + count["pattern"] * count["repeats"] for stack, count in counts.items()}

    def scale(name: str, leaf: jax.Array) -> jax.Array | float:
        if (layer := Layer.of(name)) is None:
            return decay ** (max(depths.values()) + 1) if name.split("/")[0].endswith("embed") else 1.0
        count, depth = counts[layer.stack], depths[layer.stack]
        block = layer.index + (0 if layer.kind == "prefix" else count["prefix"])
        if layer.kind != "scan":
            return decay ** (depth - block)
        rows = block + jnp.arange(leaf.shape[0]) * count["pattern"]
        return (decay ** (depth - rows)).reshape(-1, *[1] * (len(leaf.shape) - 1))

    return map_paths(scale, params)
