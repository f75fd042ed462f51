"""Transforms of updates by the roles of parameters: routing, muP, rates by layer."""

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from models.paths import Layer, map_paths, path_name, select
from models.roles import Role, default_roles
from train.contracts import Params, Roles


def routed(
    transform: optax.GradientTransformation, params: Params, roles: Roles | None, freeze: tuple[str, ...] = ()
) -> Any:
    """The transformation for what it moves: what matches `freeze` stays, and what has a `step` in its role moves by
    that.

    What moves otherwise enters no norm of the transformation and has no state in it.  Raises ValueError for a pattern
    of no parameter.
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
        transforms[name := f"step {role.step:g}"] = _signed(role.step)
        return name

    labels = map_paths(label, default_roles(params) if roles is None else roles)
    return transform if set(jax.tree.leaves(labels)) <= {"trained"} else optax.partition(transforms, labels)


def _signed(step: float) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(lambda update: -step * jnp.sign(update), updates))


def in_mup(roles: Roles | None) -> bool:
    """Whether the roles are those of a model whose parametrization is muP."""
    return any(role.growth is not None for role in jax.tree.leaves(roles))


def layer_scales(params: Params, decay: float) -> Params:
    """decay^(L - l) for each parameter, l its block of the L of its stack: a number, or one for each row of a scanned
    parameter.

    The embedding is below the first block, what else is in no stack has 1.  Repeats of a tied pattern are one.  Raises
    ValueError if there is no stack.
    """
    paths = [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    # of each stack: blocks of its prefix, blocks of its pattern, and of these the repeats
    counts: dict[str, dict[str, int]] = {}
    for name, leaf in paths:
        if layer := Layer.of(name):
            own = counts.setdefault(layer.stack, {"prefix": 0, "pattern": 0, "repeats": 1})
            part = "prefix" if layer.kind == "prefix" else "pattern"
            own[part] = max(own[part], layer.index + 1)
            own["repeats"] = leaf.shape[0] if layer.kind == "scan" else own["repeats"]
    if not counts:
        raise ValueError(
            "layer_decay has a rate for each block of a stack, and no parameter is in one; leave layer_decay out."
        )
    depths = {stack: own["prefix"] + own["pattern"] * own["repeats"] for stack, own in counts.items()}

    def scale(name: str, leaf: Any) -> Any:
        if (layer := Layer.of(name)) is None:
            return decay ** (max(depths.values()) + 1) if name.split("/")[0].endswith("embed") else 1.0
        own, depth = counts[layer.stack], depths[layer.stack]
        place = layer.index + (0 if layer.kind == "prefix" else own["prefix"])
        if layer.kind != "scan":
            return decay ** (depth - place)
        rows = place + jnp.arange(leaf.shape[0]) * own["pattern"]
        return (decay ** (depth - rows)).reshape(-1, *[1] * (len(leaf.shape) - 1))

    return map_paths(scale, params)
