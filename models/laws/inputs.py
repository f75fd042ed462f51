"""Inputs of every kind of component and random parameters, on which the laws are tested."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.module import InterceptorContext

from models.context import Context, Memory
from models.contracts import (
    Embed,
    Head,
    Layer,
    Model,
    Norm,
    Pool,
    Position,
    Relative,
    Residual,
    Router,
    Tree,
    Weigh,
    kind_of,
)
from models.structure import fields

WIDTH, VOCAB = 16, 11


class Component(Protocol):
    """A module of any kind, as the laws initialise and run it."""

    def init(self, rngs: jax.Array, *args: Tree, **kwargs: Any) -> Tree: ...

    def apply(self, variables: Tree, *args: Tree, rngs: dict[str, jax.Array] | None = None, **kwargs: Any) -> Tree: ...


def draw(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers in float32, without jax: a module may have them as constants."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def normal(seed: int, *shape: int) -> jax.Array:
    """Standard normal numbers; from numpy, which compiles nothing."""
    return jnp.asarray(draw(seed, *shape))


def tokens(seed: int, *shape: int, below: int = VOCAB) -> jax.Array:
    """Uniform token ids."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, below, shape), jnp.int32)


def name_tokens(x: jax.Array) -> jax.Array:
    """Ids of the tokens of a stream, as if it were of embeddings: the largest channel, (b, t, d) -> (b, t)."""
    return jnp.argmax(x, axis=-1).astype(jnp.int32)


def packed_context() -> Context:
    """Two rows of eight tokens: examples of 3 and 4 tokens and one of padding; examples of 5 and 3."""
    return Context(
        positions=jnp.array([[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 0, 1, 2]]),
        segments=jnp.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 2, 2, 2]]),
        starts=jnp.array([[0, 3], [0, 5]]),
        memory=Memory(normal(3, 2, 8, WIDTH), jnp.array([[1, 1, 2, 2, 2, 2, 2, 0], [1, 1, 1, 2, 2, 0, 0, 0]])),
        tokens=name_tokens(normal(1, 2, 8, WIDTH)),
    )


def batch() -> dict[str, jax.Array]:
    """The keys that some model reads, for two packed rows."""
    ctx = packed_context()
    rows = {"positions": ctx.positions, "segments": ctx.segments, "starts": ctx.starts}
    known = {name: value for name, value in rows.items() if value is not None}
    return known | {
        "tokens": tokens(5, 2, 8),
        "types": jnp.array([[0, 0, 1, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0, 0, 1]]),
        "source": tokens(6, 2, 8, below=7),
        "image": normal(7, 2, 4, 6, 3),
        "video": normal(8, 2, 2, 4, 6, 3),
        "features": normal(9, 2, 8, 3),
        "returns": normal(10, 2, 8, 1),
        "actions": normal(11, 2, 8, 2),
        "source_segments": jnp.array([[1, 1, 2, 2, 2, 2, 2, 0], [1, 1, 1, 2, 2, 0, 0, 0]]),
    }


def arguments(component: Component) -> tuple[Tree, ...]:
    """The arguments that a component of its kind is called with."""
    kind, x, ctx = kind_of(component), normal(1, 2, 8, WIDTH), packed_context()
    positions = batch()["positions"][:, None]
    inputs: dict[type | None, tuple[Tree, ...]] = {
        Layer: (x, ctx),
        Norm: (x,),
        Position: (x, ctx.positions),
        Relative: (normal(7, 2, 4, 8, 8), normal(1, 2, 4, 8, 4), positions, positions),
        Weigh: (normal(7, 2, 4, 8, 8), jnp.tri(8, dtype=bool)[None, None]),
        Router: (x, ctx.segments, 6, 2),
        Residual: (x, jnp.sin, ctx),
        Embed: (batch(), Context.of(batch())),
        Pool: (x, ctx),
        Head: (x, ctx, normal(4, VOCAB, WIDTH)),
        Model: (batch(),),
    }
    if kind is Residual and (expand := getattr(component, "expand", None)) is not None:
        return expand(x, ctx), jnp.sin, ctx
    return inputs[kind]


def modules_within(component: object) -> Iterator[nn.Module]:
    """A component and every module among its parts."""
    if isinstance(component, nn.Module):
        yield component
    inner = component if isinstance(component, tuple) else ()
    if dataclasses.is_dataclass(component):
        inner = tuple(getattr(component, field.name) for field in fields(component))
    for value in inner:
        yield from modules_within(value)


@functools.lru_cache(maxsize=256)
def _trace(component: Component) -> tuple[Tree, frozenset[type]]:
    seen: set[type] = set()

    def record(
        run: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        context: InterceptorContext,
    ) -> object:
        seen.add(type(context.module))
        return run(*args, **kwargs)

    with nn.intercept_methods(record):
        variables = jax.eval_shape(lambda: component.init(jax.random.key(0), *arguments(component)))
    return variables.get("params", {}), frozenset(seen)


def shapes(component: Component) -> Tree:
    """The shapes of a component's parameters."""
    return _trace(component)[0]


def modules_run(component: Component) -> frozenset[type]:
    """The classes of the modules that run when the component runs."""
    return _trace(component)[1]


@functools.lru_cache(maxsize=256)
def _parameters(component: Component) -> Tree:
    return random_like(shapes(component))


def parameters(component: Component) -> Tree:
    """Random parameters of a component, none zero by design and scales around one; an empty tree if it has none."""
    return _parameters(component)


def random_like(tree: Tree) -> Tree:
    """Random values for a tree of shapes, each leaf its own."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    values: list[jax.Array] = []
    with jax.ensure_compile_time_eval():
        for index, (path, leaf) in enumerate(paths):
            centre = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
            values.append(
                jnp.asarray(centre + 0.25 * np.random.default_rng(index).standard_normal(leaf.shape), jnp.float32)
            )
    return structure.unflatten(values)
