"""Deeper stacks from shallow ones: the parameters of a trained stack laid out for more repeats of its pattern."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath

from models.contracts import Tree
from models.depth.stack import Stack, scanned, unrolled
from models.paths import SCANNED, block_name, in_loop, path_name
from models.residual.single import LayerScale, PreNorm, ReZero, ScaledNorm
from models.structure import replace

LAST = ("out", "down")  # the names of a layer's last projection
Order = Literal["stacked", "interleaved"]


def deepened(
    params: Mapping[str, Tree], stack: Stack, repeats: int, order: Order = "stacked", preserving: bool = False
) -> dict[str, Tree]:
    """The parameters of a stack as those of the same stack with more `repeats`; a loop stays a loop, a scan a scan.

    "stacked": repeat i takes the parameters of repeat i modulo the old number (arXiv:2405.15319); "interleaved": of old
    repeat i * old / new, rounded down, so that copies stand beside their originals.  `preserving` zeroes in the copies
    every kernel and bias of the projections named `out` and `down`, so that their branches give zero and the new stack
    computes what the old one did (arXiv:2401.02415).  That holds for residuals that add the branch to the stream.
    ScaledNorm divides by the block's place, so it must be stacked.  Tied stacks gain nothing.  Raises ValueError for
    fewer repeats; if `preserving`, for other residuals, and for a layer without such a projection.
    """
    if repeats < stack.repeats:
        raise ValueError(
            f"deepened was asked for {repeats} repeats of a stack that has {stack.repeats}; give at least as many."
        )
    if preserving:
        refuse_what_changes(stack, order)
    if stack.tied:
        return dict(params)
    old, width, loop = stack.repeats, len(stack.pattern), unrolled(params, stack)
    sources = [repeat % old if order == "stacked" else repeat * old // repeats for repeat in range(repeats)]
    layers: dict[str, Tree] = {}
    for repeat, source in enumerate(sources):
        for index in range(width):
            layer = loop[block_name("loop", source * width + index)]
            copied = source in sources[:repeat]
            layers[block_name("loop", repeat * width + index)] = silence(layer) if preserving and copied else layer
    new = {**layers, **{name: value for name, value in loop.items() if not in_loop(name)}}
    return scanned(new, replace(stack, "repeats", repeats)) if SCANNED in params else new


def silence(block: Mapping[str, Tree]) -> dict[str, Tree]:
    """Zeroes the last projection of every layer in a block's parameters."""

    def zero(path: KeyPath, leaf: jax.Array) -> jax.Array:
        return jnp.zeros_like(leaf) if ends_layer(path) else leaf

    for name, layer in block.items():
        if not name.endswith("_residual") and not any(
            ends_layer(path) for path, _ in jax.tree_util.tree_leaves_with_path(layer)
        ):
            raise ValueError(
                f"The layer {name} has no projection named {' or '.join(LAST)} that can be zeroed; grow without"
                " preserving."
            )
    return jax.tree_util.tree_map_with_path(zero, dict(block))


def ends_layer(path: KeyPath) -> bool:
    """Tells if a parameter belongs to a last projection: `down`, `down/kernel`, `out/bias`."""
    names = path_name(path).split("/")
    return names[-1] in LAST or (names[-1] in ("kernel", "bias") and len(names) > 1 and names[-2] in LAST)


def refuse_what_changes(stack: Stack, order: Order) -> None:
    """Raises ValueError for a residual that changes the stream when its branch gives zero."""
    kept = (PreNorm, LayerScale, ReZero, *((ScaledNorm,) if order == "stacked" else ()))
    for block in stack.pattern:
        if stack.tied or type(block.residual) not in kept:
            names = ", ".join(kind.__name__ for kind in kept)
            raise ValueError(
                f"Growth keeps the outputs of untied stacks whose residual is one of {names}; grow without preserving."
            )
