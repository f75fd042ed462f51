"""Depth: a pattern of blocks repeated, as a loop or as one scanned body."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.block import Block
from models.context import Context
from models.contracts import Norm
from models.paths import PATTERN, SCANNED, TIED, block_name, looped
from models.remat import POLICIES
from models.structure import named, nearest


class Stack(nn.Module):
    """The blocks `prefix`, the pattern `block` (one Block, or several in a tuple) `repeats` times, then `norm`.  (b, t, d) -> (b, t, d).

    `tied` gives every repeat the same parameters, which start as the first repeat's would: with one block ALBERT's sharing
    (arXiv:1909.11942), with several a looped transformer (arXiv:1807.03819, without its halting).
    `scan` compiles the pattern once and keeps parameters with a leading axis of repeats; `unrolled` and `scanned` convert.
    `remat` recomputes activations in the backward pass instead of keeping them (arXiv:1604.06174): "full" keeps only what enters each
    block, "dots" the products with parameters, "context" these and what attention gives, "offload" moves the products to the host's
    memory meanwhile; or what to keep by a name of `jax.checkpoint_policies`.
    """

    block: Block | tuple[Block, ...] = Block()
    repeats: int = 6
    norm: Norm | None = None
    prefix: tuple[Block, ...] = ()
    tied: bool = False
    scan: bool = False
    remat: str | None = None

    def __post_init__(self) -> None:
        if self.block == ():
            raise ValueError("Stack.block is an empty tuple; give a Block, or several.")
        if self.repeats < 1:
            raise ValueError(f"Stack repeats its pattern {self.repeats} times; give 1 or more.")
        if self.remat is not None and self.remat not in POLICIES:
            raise ValueError(f"Stack.remat is {self.remat!r}: {nearest(str(self.remat), list(POLICIES))}")
        super().__post_init__()

    @property
    def pattern(self) -> tuple[Block, ...]:
        """The blocks of one repeat."""
        return self.block if isinstance(self.block, tuple) else (self.block,)

    @property
    def depth(self) -> int:
        """Number of blocks in all."""
        return len(self.prefix) + self.repeats * len(self.pattern)

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        ctx, first = dataclasses.replace(ctx, depth=self.depth), len(self.prefix)
        residual = self.pattern[0].residual
        expand, reduce = getattr(residual, "expand", None), getattr(residual, "reduce", None)
        state = expand(x, ctx) if expand else x
        for index, block in enumerate(self.prefix):
            state, ctx = run(self, block, block_name("prefix", index), self.remat, False)(state, dataclasses.replace(ctx, layer=index))
        if self.scan or self.tied:
            inputs: Any = (nn.broadcast, 0)  # the context is the same for all repeats, the index of their first layer is not
            each: dict[Any, Any] = {"cache": 0, "intermediates": 0, "losses": 0, "metrics": 0}
            lifted = nn.scan(
                Pattern,
                variable_axes=each if self.tied else {"params": 0, **each},
                variable_broadcast="params" if self.tied else False,
                split_rngs={"params": not self.tied, "dropout": True},
                in_axes=inputs,
                length=self.repeats,
            )
            free = tuple(block.copy(parent=None, name=None) for block in self.pattern)
            name = TIED if self.tied else SCANNED
            if self.tied and self.is_initializing():  # what serves every repeat starts as the first one's does
                state, _ = Pattern(free, remat=self.remat, scanned=True, name=name)(state, ctx, first)
            else:
                layers = first + jnp.arange(self.repeats) * len(self.pattern)
                state, _ = lifted(free, remat=self.remat, scanned=True, name=name)(state, ctx, layers)
        else:
            for index in range(self.repeats * len(self.pattern)):
                block = self.pattern[index % len(self.pattern)]
                state, ctx = run(self, block, block_name("loop", index), self.remat, False)(
                    state, dataclasses.replace(ctx, layer=first + index)
                )
        x = reduce(state, ctx) if reduce else state
        return x if self.norm is None else self.norm(x)


class Pattern(nn.Module):
    """One repeat of a stack's pattern, as the body of a scan: (state, ctx, index of its first layer) -> (state, None)."""

    blocks: tuple[Block, ...]
    remat: str | None = None
    scanned: bool = False

    @nn.compact
    def __call__(self, state: Any, ctx: Context, layer: jax.Array | int) -> tuple[Any, None]:
        first, before = state, ctx
        for index, block in enumerate(self.blocks):
            state, ctx = run(self, block, PATTERN.format(index), self.remat, self.scanned)(
                state, dataclasses.replace(ctx, layer=layer + index)
            )
        if self.scanned and set(ctx.shared) > set(before.shared):
            self._require_alike(first, before, ctx)
        return state, None

    def _require_alike(self, state: Any, before: Context, after: Context) -> None:
        """Raises ValueError if repeats that find what this one gives have other parameters: a scan would make each of them a first one."""
        alone = Pattern(tuple(block.copy(parent=None, name=None) for block in self.blocks), parent=None)

        def shapes(ctx: Context) -> Any:
            keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
            return jax.eval_shape(lambda: alone.init(keys, state, dataclasses.replace(ctx, decoding=None), 0)).get("params", {})

        if shapes(before) != shapes(dataclasses.replace(before, shared=after.shared)):
            given = ", ".join(sorted(set(after.shared) - set(before.shared)))
            raise ValueError(
                f"A scanned stack gives {given} in each repeat, and layers that find it have other parameters: put the block that gives"
                " it in Stack.prefix."
            )


def run(parent: nn.Module, block: Block, name: str, remat: str | None, scanned: bool) -> Callable[[Any, Context], tuple[Any, Context]]:
    """A block, under a name in its parent, as a function of (state, context): rematerialised if asked."""

    def apply(parent: nn.Module, state: Any, ctx: Context) -> tuple[Any, Context]:
        return named(block, name)(state, ctx)

    if remat is not None:
        apply = nn.remat(apply, policy=POLICIES[remat], prevent_cse=not scanned)
    return lambda state, ctx: apply(parent, state, ctx)


def unrolled(params: Mapping[str, Any], stack: Stack) -> dict[str, Any]:
    """A scanned stack's parameters as those of the same stack as a loop; what is a loop already stays, and what is tied."""
    if SCANNED not in params:
        return dict(params)
    width = len(stack.pattern)
    layers = {
        block_name("loop", index): jax.tree.map(lambda leaf, row=index // width: leaf[row], params[SCANNED][PATTERN.format(index % width)])
        for index in range(stack.repeats * width)
    }
    return {**layers, **{name: value for name, value in params.items() if name != SCANNED}}


def scanned(params: Mapping[str, Any], stack: Stack) -> dict[str, Any]:
    """A looped stack's parameters as those of the same stack scanned; what is scanned already stays."""
    if block_name("loop", 0) not in params:
        return dict(params)
    width = len(stack.pattern)
    blocks = {
        PATTERN.format(place): jax.tree.map(
            lambda *leaves: jnp.stack(leaves),
            *(params[block_name("loop", index)] for index in range(place, stack.repeats * width, width)),
        )
        for place in range(width)
    }
    return {SCANNED: blocks, **{name: value for name, value in params.items() if not looped(name)}}
