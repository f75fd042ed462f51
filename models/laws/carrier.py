"""Test harnesses around a component: a function of tokens, a layer and a stack that have it as a part."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from models.attention.softmax import Attention
from models.context import Context
from models.contracts import Layer, Norm, Position, Relative, Residual, Router, Tree, Weigh, kind_of
from models.depth.block import Block
from models.depth.stack import Stack
from models.experts.routed import Experts
from models.laws.inputs import Component, name_tokens, parameters, random_like
from models.residual.single import PreNorm
from models.structure import replace

LAYERS, BRANCHES = 3, 2  # of a residual under test


def layer_of(component: Component) -> Component | None:
    """The component if it is a layer or a residual, or a layer with it as a part; None if no layer has such a part."""
    kind = kind_of(component)
    if kind in (Layer, Residual):
        return component
    parts = {Position: "position", Relative: "relative", Weigh: "weigh"}
    if kind in parts:
        return replace(Attention(4, causal=True), parts[kind], component)
    return replace(Experts(4, 2), "router", component) if kind is Router else None


def stack_of(component: Component) -> Stack | None:
    """Two blocks with the component as a part of each; None if blocks have no such part."""
    if isinstance(component, Stack):
        return None
    if kind_of(component) in (Residual, Norm):
        residual = component if kind_of(component) is Residual else replace(PreNorm(), "norm", component)
        return Stack(replace(Block(Attention(4, causal=True), None), "residual", residual), 2)
    layer = layer_of(component)
    return None if layer is None else Stack(replace(Block(feedforward=None), "mixer", layer), 2)


def branch(index: int, x: jax.Array, change: jax.Array | float = 0.0) -> jax.Array:
    """Stand-in for a layer in a residual: a function of each token alone, plus a change."""
    return (jnp.cos(3 * x) + jnp.roll(x, 1 + index, -1) + change).astype(x.dtype)


def chain(residual: Component, params: Tree, x: jax.Array, ctx: Context, changes: jax.Array | None = None) -> jax.Array:
    """The stream after a residual around each branch of three blocks.

    `changes` (blocks, branches, b, t, d) are added to the branches.
    """
    ctx = dataclasses.replace(ctx, depth=LAYERS, branches=BRANCHES)
    state = expand_stream(residual, x, ctx)
    for layer in range(LAYERS):
        for index in range(BRANCHES):
            ctx = dataclasses.replace(ctx, layer=layer, branch=index)
            run = functools.partial(branch, index, change=0.0 if changes is None else changes[layer, index])
            state = residual.apply({"params": params[f"{layer}_{index}"]}, state, run, ctx)
    return reduce_state(residual, state, ctx)


def expand_stream(residual: Component, x: jax.Array, ctx: Context) -> Tree:
    """The state of a residual for the stream x."""
    expand = getattr(residual, "expand", None)
    return x if expand is None else expand(x, ctx)


def reduce_state(residual: Component, state: Tree, ctx: Context) -> jax.Array:
    """The stream of a residual from its state."""
    reduce = getattr(residual, "reduce", None)
    return state if reduce is None else reduce(state, ctx)


def _chain_shapes(residual: Component, x: jax.Array) -> dict[str, Tree]:
    ctx = Context(depth=LAYERS, branches=BRANCHES)
    state = expand_stream(residual, x, ctx)
    params: dict[str, Tree] = {}
    for layer in range(LAYERS):
        for index in range(BRANCHES):
            ctx, run = dataclasses.replace(ctx, layer=layer, branch=index), functools.partial(branch, index)
            variables = residual.init(jax.random.key(0), state, run, ctx)
            params[f"{layer}_{index}"] = variables.get("params", {})
    return params


@functools.lru_cache(maxsize=64)
def _parameters_of(component: Component) -> Tree:
    if kind_of(component) is not Residual:
        return parameters(component)
    return random_like(
        jax.eval_shape(functools.partial(_chain_shapes, component), jax.ShapeDtypeStruct((2, 8, 16), jnp.float32))
    )


def parameters_of(component: Component) -> Tree:
    """Random parameters of a component; of a residual those of each branch of each block, by "block_branch"."""
    return _parameters_of(component)


def apply_to(component: Component, x: jax.Array, ctx: Context, params: Tree | None = None) -> jax.Array:
    """The output of a layer, without what it may give to later layers; of a residual, the stream after three blocks.

    The context's tokens are those of `name_tokens`.
    """
    params = parameters_of(component) if params is None else params
    if kind_of(component) is Residual:
        return chain(component, params, x, ctx)
    y = component.apply({"params": params}, x, dataclasses.replace(ctx, tokens=name_tokens(x)))
    return y[0] if isinstance(y, tuple) else y
