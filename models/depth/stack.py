"""Depth: a pattern of blocks repeated, as a loop or as one scanned body."""

import dataclasses
import re
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import DenyList
from flax.core.scope import CollectionFilter
from flax.errors import ScopeParamNotFoundError
from jax.extend.core import ClosedJaxpr

from models.context import Context
from models.contracts import Norm, Tree
from models.depth.block import Block
from models.depth.remat import POLICIES
from models.paths import PATTERN, SCANNED, TIED, block_name, in_loop
from models.structure import copy_as, nearest


class UnlikeRepeatsError(ValueError):
    """A scanned pattern whose later repeats, which find what an earlier one gave, are other programs than the first."""


class Stack(nn.Module):
    """The blocks `prefix`, the pattern `block` (one Block, or several in a tuple) `repeats` times, then `norm`.

    (b, t, d) -> (b, t, d).  `tied` gives every repeat the same parameters, which start as the first repeat's would:
    with one block ALBERT's sharing (arXiv:1909.11942), with several a looped transformer (arXiv:1807.03819; for its
    halting see `AdaptiveStack`).  `scan` compiles the pattern once and keeps parameters with a leading axis of repeats;
    `unrolled` and `scanned` convert.  `remat` recomputes activations in the backward pass instead of keeping them
    (arXiv:1604.06174): "full" keeps only what enters each block, "dots" the products with parameters, "context" these
    and what attention gives, "offload" moves the products to the host's memory meanwhile; or what to keep by a name of
    `jax.checkpoint_policies`.
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
        branches = max(len(block.layers) for block in (*self.prefix, *self.pattern))
        ctx = dataclasses.replace(ctx, depth=self.depth, branches=branches)
        expand = getattr(self.pattern[0].residual, "expand", None)
        state = expand(x, ctx) if expand else x
        for index, block in enumerate(self.prefix):
            state, ctx = run(self, block, block_name("prefix", index), self.remat, False)(
                state, dataclasses.replace(ctx, layer=index)
            )
        x = self.repeat(state, ctx)
        return x if self.norm is None else self.norm(x)

    def repeat(self, state: Tree, ctx: Context) -> jax.Array:
        """The stream after all repeats of the pattern: the residual's state -> (b, t, d)."""
        if self.scan or self.tied:
            state = self.scan_repeats(Pattern, state, ctx)
        else:
            for index in range(self.repeats * len(self.pattern)):
                block = self.pattern[index % len(self.pattern)]
                state, ctx = run(self, block, block_name("loop", index), self.remat, False)(
                    state, dataclasses.replace(ctx, layer=len(self.prefix) + index)
                )
        return self.pattern[0].take_stream(state, ctx)

    def scan_repeats(self, body: Callable[..., nn.Module], carry: Tree, ctx: Context, **settings: object) -> Tree:
        """The carry after a scan over the repeats, by a `Pattern` or a class of its kind with these settings."""
        first = len(self.prefix)
        # the context is the same for all repeats, the index of their first layer is not
        inputs: Tree = (nn.broadcast, 0)
        each: dict[CollectionFilter, int] = {"cache": 0, "intermediates": 0, "losses": 0, "metrics": 0}
        lifted = nn.scan(
            body,
            variable_axes=each if self.tied else {"params": 0, **each},
            variable_broadcast="params" if self.tied else False,
            split_rngs={"params": not self.tied, "dropout": True},
            in_axes=inputs,
            length=self.repeats,
        )
        free = tuple(block.copy(parent=None, name=None) for block in self.pattern)
        options: Tree = settings | {"remat": self.remat, "scanned": True, "name": TIED if self.tied else SCANNED}
        if self.tied and self.is_initializing():  # the first repeat initialises the parameters of all
            carry, _ = body(free, **options)(carry, ctx, first)
        else:
            layers = first + jnp.arange(self.repeats) * len(self.pattern)
            carry, _ = lifted(free, **options)(carry, ctx, layers)
        return carry


class Pattern(nn.Module):
    """One repeat of a stack's pattern, as the body of a scan: (state, ctx, index of first layer) -> (state, None)."""

    blocks: tuple[Block, ...]
    remat: str | None = None
    scanned: bool = False

    @nn.compact
    def __call__(self, state: Tree, ctx: Context, layer: jax.Array | int) -> tuple[Tree, None]:
        first, before, shared = state, ctx, set[str]()
        for index, block in enumerate(self.blocks):
            state, ctx = run(self, block, PATTERN.format(index), self.remat, self.scanned, shared)(
                state, dataclasses.replace(ctx, layer=layer + index)
            )
        if self.scanned and shared:
            self._require_alike(first, before, {name: ctx.shared[name] for name in sorted(shared)})
        return state, None

    def _require_alike(self, state: Tree, before: Context, shared: dict[str, Tree]) -> None:
        """Raises UnlikeRepeatsError if repeats that find what an earlier one gives compute something else.

        A scan would make each of them a first one.  The program of a repeat is traced without and with what is given,
        and both are compared as text; nothing is computed.  Programs that differ in their derivatives alone are not
        told apart.
        """
        alone = Pattern(tuple(block.copy(parent=None, name=None) for block in self.blocks), parent=None)
        before = dataclasses.replace(before, decoding=None)

        def program(later: bool) -> ClosedJaxpr:
            def repeat(params: Tree, key: jax.Array, state: Tree, ctx: Context, shared: dict[str, Tree]) -> Tree:
                ctx = dataclasses.replace(ctx, shared={**ctx.shared, **shared}) if later else ctx
                variables, rngs = {"params": params}, {"dropout": key}
                return alone.apply(variables, state, ctx, ctx.layer, rngs=rngs, mutable=DenyList("params"))

            shapes = jax.eval_shape(lambda tree: tree, (self.variables.get("params", {}), state, before, shared))
            params, *others = shapes
            return jax.make_jaxpr(repeat)(params, jax.eval_shape(lambda: jax.random.key(0)), *others)

        try:
            alike = same_program(program(False), program(True))
        except ScopeParamNotFoundError:  # a layer has other parameters if it finds something
            alike = False
        if not alike:
            raise UnlikeRepeatsError(
                f"A scanned stack gives {', '.join(shared)} in each repeat, and layers that find it have other"
                " parameters or compute something else than the first: put the block that gives it in Stack.prefix,"
                " and let later ones give nothing."
            )


def same_program(left: ClosedJaxpr, right: ClosedJaxpr) -> bool:
    """Tells if two traced functions are the same operations, in order, on the same inputs and constants."""
    texts = [re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr)) for traced in (left, right)]  # without addresses
    constants = zip(left.consts, right.consts, strict=False)
    return texts[0] == texts[1] and all(value is other or np.array_equal(value, other) for value, other in constants)


def run(
    parent: nn.Module, block: Block, name: str, remat: str | None, scanned: bool, shared: set[str] | None = None
) -> Callable[[Tree, Context], tuple[Tree, Context]]:
    """A block, under a name in its parent, as a function of (state, context): rematerialised if asked.

    Tracing adds to `shared` the names in `ctx.shared` that the block gives.
    """

    def apply(parent: nn.Module, state: Tree, ctx: Context) -> tuple[Tree, Context]:
        state, after = copy_as(block, name)(state, ctx)
        if shared is not None:
            shared.update(name for name, value in after.shared.items() if value is not ctx.shared.get(name))
        return state, after

    if remat is not None:
        apply = nn.remat(apply, policy=POLICIES[remat], prevent_cse=not scanned)
    return lambda state, ctx: apply(parent, state, ctx)


def unrolled(params: Mapping[str, Tree], stack: Stack) -> dict[str, Tree]:
    """A scanned stack's parameters as those of the same stack as a loop; loops and tied stacks stay as they are."""
    if SCANNED not in params:
        return dict(params)
    width = len(stack.pattern)
    layers = {
        block_name("loop", index): jax.tree.map(
            lambda leaf, row=index // width: leaf[row], params[SCANNED][PATTERN.format(index % width)]
        )
        for index in range(stack.repeats * width)
    }
    return {**layers, **{name: value for name, value in params.items() if name != SCANNED}}


def scanned(params: Mapping[str, Tree], stack: Stack) -> dict[str, Tree]:
    """A looped stack's parameters as those of the same stack scanned; what is scanned already stays."""
    if block_name("loop", 0) not in params:
        return dict(params)
    width = len(stack.pattern)
    blocks = {
        PATTERN.format(column): jax.tree.map(
            lambda *leaves: jnp.stack(leaves),
            *(params[block_name("loop", index)] for index in range(column, stack.repeats * width, width)),
        )
        for column in range(width)
    }
    return {SCANNED: blocks, **{name: value for name, value in params.items() if not in_loop(name)}}
