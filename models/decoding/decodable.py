"""Refusal of models in which something mixes tokens and keeps no state for decoding in the collection "cache"."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.module import InterceptorContext
from jax.core import Tracer

from models.context import Context, Decoding
from models.contracts import Model, Tree
from models.paths import path_name
from models.structure import fields

OURS = "models."  # laws test this package's classes; others are tried here
Path = tuple[str, ...]
Array: TypeAlias = jax.Array | jax.ShapeDtypeStruct
Shapes = tuple[tuple[str, tuple[int, ...], str], ...]


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a module in a model: path, unbound module, variables and arguments with arrays as shapes."""

    path: Path
    module: nn.Module
    variables: Tree
    args: tuple[Tree, ...]
    keywords: dict[str, Tree]


def require_decodable(model: Model, batch: Mapping[str, Array], length: int) -> None:
    """Raises ValueError for a part of a model that mixes tokens of a row of `length` and keeps nothing while decoding.

    `batch` has the keys of a prompt, arrays or shapes.  Each part whose class is not of `models`, that is called with a
    context while decoding and writes nothing to the collection "cache", is tested alone with random parameters: if its
    output for a token has a derivative by another token, it mixes.  Inner modules that do write to the cache are
    bypassed, so that a layer may mix through them.
    """
    if not all(type(module).__module__.startswith(OURS) for module in _modules(model)):
        shapes = tuple(
            sorted((name, tuple(leaf.shape[1:]), jnp.dtype(leaf.dtype).name) for name, leaf in batch.items())
        )
        traced = isinstance(jnp.zeros(()), Tracer)  # as in a beam search that is a part of a program
        with jax.ensure_compile_time_eval() if traced else contextlib.nullcontext():  # in which jax 0.7 knows no scan
            sentence = _objection(model, shapes, max(length, 3))
        if sentence is not None:
            raise ValueError(sentence)


@functools.lru_cache(maxsize=64)
def _objection(model: Model, shapes: Shapes, length: int) -> str | None:
    """The reason, as a sentence, that a model cannot decode; None if it can."""
    step = 2
    decoding, cache = trace_calls(model, _rows(shapes, step), Decoding(0, length, True))
    kept = find_keepers(cache)
    paths = {call.path for call in decoding if not call.path or _decodes(call, step)} - kept
    tried: set[tuple[nn.Module, str, frozenset[Path]]] = set()
    for call in trace_calls(model, _rows(shapes, length), None)[0]:
        shape = str(jax.tree.map(lambda leaf: getattr(leaf, "shape", None), (call.variables, call.args, call.keywords)))
        key = (
            call.module,
            shape,
            frozenset(path[len(call.path) :] for path in kept if path[: len(call.path)] == call.path),
        )
        if call.path not in paths or type(call.module).__module__.startswith(OURS) or key in tried:
            continue
        tried.add(key)
        if mixes(call, kept):
            location = f" at {'/'.join(call.path)}" if call.path else ""
            return (
                f"{type(call.module).__name__}{location} mixes tokens and keeps none of them, so it cannot decode"
                " one token"
                ' after the other: keep what it needs of earlier tokens in the collection "cache", by `remember` or'
                " `extend` of models/cache.py."
            )
    return None


def _modules(value: object) -> Iterator[nn.Module]:
    """A module and all modules among its fields."""
    if isinstance(value, nn.Module):
        yield value
    inner = value if isinstance(value, tuple) else ()
    if dataclasses.is_dataclass(value):
        inner = tuple(getattr(value, field.name, None) for field in fields(value))
    for part in inner:
        yield from _modules(part)


def _rows(shapes: Shapes, t: int) -> dict[str, np.ndarray]:
    """One row of t tokens, with all keys of a batch; a source keeps its length."""
    known = {"tokens": np.zeros(t), "segments": np.ones(t), "positions": np.arange(t)}
    return {name: known.get(name, np.ones(shape)).astype(kind)[None] for name, shape, kind in shapes}


def trace_calls(model: Model, batch: Mapping[str, np.ndarray], decoding: Decoding | None) -> tuple[list[Call], Tree]:
    """Records the calls of a model's modules with a context, and its own, as they complete, and the cache's shapes.

    The call of a parent class by a module is a part of the module's own.
    """
    calls: list[Call] = []
    running: list[Path] = []

    def note(
        run: Callable[..., object],
        args: tuple[object, ...],
        keywords: Mapping[str, object],
        at: InterceptorContext,
    ) -> object:
        if at.method_name != "__call__" or running[-1:] == [at.module.path]:
            return run(*args, **keywords)
        running.append(at.module.path)
        result = run(*args, **keywords)
        running.pop()
        if not at.module.path or _contexts(args, keywords):
            module, variables = at.module.unbind()
            calls.append(Call(at.module.path, module, *map(_abstract, (variables, args, keywords))))
        return result

    with nn.intercept_methods(note):
        variables = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, decoding=decoding))
    return calls, variables.get("cache", {})


def _contexts(args: tuple[object, ...], keywords: Mapping[str, object]) -> list[Context]:
    return [value for value in (*args, *keywords.values()) if isinstance(value, Context)]


def _abstract(tree: Tree) -> Tree:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else leaf, tree
    )


def find_keepers(cache: Tree) -> set[Path]:
    """The paths of the modules that write to the cache."""
    paths = [
        [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        for path, _ in jax.tree.leaves_with_path(cache)
    ]
    return {tuple(str(key) for key in path[:-1]) for path in paths}


def name_states(caches: Mapping[int, Tree]) -> list[str]:
    """The paths of what is kept and has no place for each token, by two caches and the number of tokens in each.

    What has a place for each token grows as their number does, along one axis, and another token at the same index
    writes over it.
    """
    (few, small), (many, large) = caches.items()
    pairs = zip(jax.tree.leaves_with_path(small), jax.tree.leaves(large), strict=True)
    return [
        path_name(path).removeprefix("cache/")
        for (path, leaf), other in pairs
        if [(a, b) for a, b in zip(leaf.shape, other.shape, strict=True) if a != b] != [(few, many)]
    ]


def _decodes(call: Call, step: int) -> bool:
    """Tells if a call decodes, over the new tokens alone."""
    decoding = any(ctx.decoding is not None for ctx in _contexts(call.args, call.keywords))
    return decoding and (
        isinstance(call.args[0], Mapping) or any(leaf.shape[1:2] == (step,) for leaf in _arrays(call.args[0]))
    )


def _arrays(tree: Tree) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "shape") and len(leaf.shape) > 1]


def mixes(call: Call, kept: set[Path]) -> bool:
    """Tells if a module's output for a token depends on another, other than through modules that write to the cache."""
    first, *rest = call.args
    t = first["tokens"].shape[1] if isinstance(first, Mapping) else max(leaf.shape[1] for leaf in _arrays(first))
    variables, rest, keywords = _draw(call.variables, t), _draw(tuple(rest), t), _draw(call.keywords, t)
    # two tokens differ in one of these at least
    bits = np.arange(t) >> np.arange(max(t - 1, 1).bit_length())[:, None] & 1
    masks = jnp.asarray(np.concatenate([bits, 1 - bits]).astype(bool))

    def run(inputs: Tree) -> list[jax.Array]:
        with nn.intercept_methods(
            functools.partial(_bypass, kept={path[len(call.path) :] for path in kept if _below(path, call.path)})
        ):
            y = call.module.apply(variables, inputs, *rest, **keywords)
        leaves = _arrays(y[0] if isinstance(y, tuple) else y)
        return [leaf for leaf in leaves if leaf.shape[1] == t and jnp.issubdtype(leaf.dtype, jnp.floating)]

    # the largest change of a token that is not of the mask
    def elsewhere(mask: jax.Array, changes: list[jax.Array]) -> jax.Array:
        inside = [mask.reshape(1, t, *[1] * (leaf.ndim - 2)) for leaf in changes]
        return jnp.stack(
            [jnp.zeros(()), *(jnp.where(m, 0, jnp.abs(leaf)).max() for m, leaf in zip(inside, changes, strict=True))]
        ).max()

    if isinstance(first, Mapping):  # integers have no derivative: replace tokens and compare, up to rounding
        plain = {name: jnp.ones(leaf.shape, leaf.dtype) for name, leaf in first.items()} | _number_tokens(first, t)

        def change(mask: jax.Array) -> jax.Array:
            tokens = jnp.where(mask, 1, plain["tokens"])
            pairs = zip(run({**plain, "tokens": tokens}), run(plain), strict=True)
            return elsewhere(mask, [jnp.where(jnp.abs(a - b) > 1e-4 * jnp.abs(b).max(), 1.0, 0.0) for a, b in pairs])
    else:
        start = _draw(first, t)
        leaves, tree = jax.tree.flatten(start)
        moving = [index for index, leaf in enumerate(leaves) if leaf.ndim > 1 and leaf.shape[1] == t and _floats(leaf)]

        def move(parts: list[jax.Array]) -> list[jax.Array]:
            filled = dict(zip(moving, parts, strict=True))
            return run(tree.unflatten([filled.get(index, leaf) for index, leaf in enumerate(leaves)]))

        def change(mask: jax.Array) -> jax.Array:  # a VJP, which everything trainable has
            outputs, back = jax.vjp(move, [leaves[index] for index in moving])
            insides = [mask.reshape(1, t, *[1] * (leaf.ndim - 2)) for leaf in outputs]
            seeds = [jnp.where(inside, jnp.cos(3 * leaf), 0) for inside, leaf in zip(insides, outputs, strict=True)]
            return elsewhere(mask, back(seeds)[0])

    return bool((jax.jit(lambda: jax.lax.map(change, masks))() > 0).any())


def _bypass(
    run: Callable[..., Tree],
    args: tuple[Tree, ...],
    keywords: Mapping[str, Tree],
    at: InterceptorContext,
    kept: set[Path],
) -> Tree:
    """Replaces a module that writes to the cache: each of its outputs for a token is the mean of the token's vector."""
    if (
        at.method_name != "__call__"
        or at.module.path not in kept
        or not _contexts(args, keywords)
        or isinstance(args[0], Mapping)
    ):
        return run(*args, **keywords)
    module, variables = at.module.unbind()
    shapes = jax.eval_shape(lambda: module.apply(variables, *args, **keywords))
    x = jax.tree.leaves(args[0])[0]
    means = x.reshape(*x.shape[:2], -1).mean(-1)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.shape[:2] != x.shape[:2] or not _floats(leaf):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jnp.broadcast_to(means.reshape(*means.shape, *[1] * (len(leaf.shape) - 2)), leaf.shape).astype(
            leaf.dtype
        )

    return jax.tree.map(fill, shapes)


def _below(path: Path, other: Path) -> bool:
    return path[: len(other)] == other


def _floats(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _number_tokens(first: Mapping[str, Array], t: int) -> dict[str, jax.Array]:
    """Tokens, segments and positions of a row that is one example."""
    known = {"tokens": np.zeros((1, t)), "segments": np.ones((1, t)), "positions": np.arange(t)[None]}
    return {name: jnp.asarray(value, first[name].dtype) for name, value in known.items() if name in first}


def _draw(tree: Tree, t: int) -> Tree:
    """Random numbers for floats, ones for whole numbers, contexts of one example of t tokens, identity branches."""
    count = iter(range(10**6))

    def draw(leaf: Tree) -> Tree:
        if isinstance(leaf, Context):
            segments = None if leaf.segments is None else jnp.ones((1, t), jnp.int32)
            inner = dataclasses.replace(leaf, positions=None, segments=None, starts=None, decoding=None)
            return dataclasses.replace(jax.tree.map(draw, inner), positions=jnp.arange(t)[None], segments=segments)
        if not hasattr(leaf, "dtype"):
            return (lambda x: x) if callable(leaf) else leaf
        if not _floats(leaf):
            return (
                jax.random.key(0)
                if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                else jnp.ones(leaf.shape, leaf.dtype)
            )
        return jnp.asarray(0.5 * np.random.default_rng(next(count)).standard_normal(leaf.shape), leaf.dtype)

    return jax.tree.map(draw, tree, is_leaf=lambda leaf: isinstance(leaf, Context))
