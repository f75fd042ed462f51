"""Transforms of updates by the roles of parameters: routing, muP, rates by layer."""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
import optax

from models.paths import Layer, map_paths, path_name, select
from models.roles import Role, default_roles
from train.contracts import Params, Roles


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
