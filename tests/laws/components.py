"""Every component class of models/, found by walking the package; the forms of each that the laws run over, and their inputs."""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import (
    GLU,
    MLP,
    Attention,
    Block,
    ClassHead,
    Context,
    Dropout,
    EncoderDecoder,
    FirstToken,
    LayerNorm,
    LearnedPosition,
    LogitsHead,
    MeanPool,
    Memory,
    PostNorm,
    PreNorm,
    RMSNorm,
    RoPE,
    Sandwich,
    Sigmoid,
    Softmax,
    Stack,
    TokenEmbed,
    Transform,
    Transformer,
    ValueHead,
    bert,
)
from models.contracts import Embed, Head, Layer, Model, Norm, Pool, Position, Relative, Residual, Weigh, kind_of
from models.structure import fields
from tests.laws import variants

WIDTH, VOCAB = 16, 11


def module_classes() -> list[type]:
    """Every linen module that models/ itself defines."""
    found: list[type] = []
    for info in pkgutil.walk_packages(models.__path__, "models."):
        module = importlib.import_module(info.name)
        own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == info.name]
        found += [value for value in own if issubclass(value, nn.Module)]
    return found


def component_classes() -> list[type]:
    """Every linen module of models/ that belongs to a kind."""
    return [value for value in module_classes() if kind_of(value) is not None]


BLOCK = Block(Attention(4, causal=True, position=RoPE()), MLP(2.0), PreNorm(RMSNorm()))
OTHER = Block(Attention(2, kv_heads=1, window=3, causal=True), GLU(2.0, bias=True), Sandwich())
EMBED = TokenEmbed(VOCAB, WIDTH)
BERT = bert.transformer(vocab=VOCAB, width=WIDTH, depth=1, heads=4, hidden=24, length=12, dropout=0.1)
DECODER = Block(Attention(4, causal=True, position=RoPE()), GLU(2.0), PreNorm(), cross=Attention(2, cross=True))
ENCODER = Block(Attention(4, position=RoPE()), MLP(2.0), PostNorm())

# Forms of the classes that have several, or whose default is too large to run in a test; every other class runs as its default.
# More of them, by the file of models/ that they belong to, are in the folder variants/.
VARIANTS: dict[type, dict[str, Any]] = {
    Attention: {
        "gated_sunk": Attention(4, causal=True, gate=True, weigh=Softmax(cap=2.0, sink=True)),
        "sigmoid": Attention(4, kv_heads=2, causal=True, weigh=Sigmoid()),
        "chunked": Attention(4, causal=True, chunk=3),
        "bidirectional": Attention(4),
        "causal": Attention(4, causal=True),
        "windowed": Attention(4, window=3),
        "causal_windowed": Attention(4, causal=True, window=2),
        "grouped": Attention(4, kv_heads=2, causal=True),
        "multi_query": Attention(2, kv_heads=1, head_width=6),
        "normalised": Attention(4, qk_norm=RMSNorm()),
        "rotary": Attention(4, position=RoPE(), bias=True),
        "rotary_grouped": Attention(4, kv_heads=2, position=RoPE(), causal=True, qk_norm=LayerNorm()),
        "cross": Attention(4, cross=True),
        "cross_grouped": Attention(4, kv_heads=2, cross=True, dropout=0.2),
    },
    MLP: {"default": MLP(), "biased": MLP(2.0, bias=True)},
    GLU: {"default": GLU(), "biased": GLU(2.0, bias=True)},
    Softmax: {"plain": Softmax(), "capped_sunk": Softmax(2.0, sink=True)},
    Dropout: {"none": Dropout(), "half": Dropout(0.5)},
    LayerNorm: {"default": LayerNorm(), "no_bias": LayerNorm(bias=False)},
    FirstToken: {"default": FirstToken(), "projected": FirstToken(project=True)},
    ClassHead: {"default": ClassHead(), "mean": ClassHead(3, MeanPool(), dropout=0.1)},
    ValueHead: {"default": ValueHead(), "projected": ValueHead(2, FirstToken(project=True), dropout=0.1)},
    LogitsHead: {
        "capped": LogitsHead(cap=2.0),
        "chunked": LogitsHead(bias=True, chunk=3),
        "own": LogitsHead(tied=False, vocab=5),
        "tied": LogitsHead(),
        "untied": LogitsHead(tied=False),
        "masked": LogitsHead(bias=True, transform=Transform()),
    },
    TokenEmbed: {
        "tokens": EMBED,
        "typed": TokenEmbed(VOCAB, WIDTH, types=2, position=LearnedPosition(12), norm=LayerNorm(), dropout=0.1),
    },
    Stack: {
        "loop": Stack(BLOCK, 2),
        "scan": Stack(BLOCK, 2, RMSNorm(), scan=True),
        "pattern": Stack((BLOCK, OTHER), 1, LayerNorm()),
    },
    Transformer: {
        "causal": Transformer(EMBED, Stack((BLOCK, OTHER), 1, RMSNorm()), LogitsHead()),
        "scanned": Transformer(EMBED, Stack(BLOCK, 2, scan=True), ValueHead(2, MeanPool())),
        "classifier": bert.classifier(3, BERT),
        "masked": bert.masked_lm(BERT),
    },
    EncoderDecoder: {
        "shared": EncoderDecoder(EMBED, Stack(ENCODER, 1), Stack(DECODER, 1), LogitsHead()),
        "apart": EncoderDecoder(EMBED, Stack(ENCODER, 1), Stack(DECODER, 1), None, TokenEmbed(7, WIDTH)),
    },
}
for info in pkgutil.iter_modules(variants.__path__, "tests.laws.variants."):
    VARIANTS |= importlib.import_module(info.name).VARIANTS


def forms_of(component: type) -> dict[str, Any]:
    """A class's variants, or its default alone."""
    return VARIANTS[component] if component in VARIANTS else {"default": component()}


def forms(*kinds: type) -> list[Any]:
    """Every form of every component of the kinds (of all kinds where none is given), as parameters of a test."""
    classes = [component for component in component_classes() if not kinds or kind_of(component) in kinds]
    return [pytest.param(form, id=f"{owner.__name__}-{name}") for owner in classes for name, form in forms_of(owner).items()]


def modules_within(component: Any) -> Iterator[nn.Module]:
    """A component and every module among its parts."""
    if isinstance(component, nn.Module):
        yield component
    inner = component if isinstance(component, tuple) else ()
    if dataclasses.is_dataclass(component):
        inner = tuple(getattr(component, field.name) for field in fields(component))
    for value in inner:
        yield from modules_within(value)


def normal(seed: int, *shape: int) -> jax.Array:
    """Standard normal numbers; from numpy, which compiles nothing."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def tokens(seed: int, *shape: int, below: int = VOCAB) -> jax.Array:
    """Uniform token ids."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, below, shape), jnp.int32)


def packed_context() -> Context:
    """Two rows of eight tokens: examples of 3 and 4 tokens and one of padding; examples of 5 and 3."""
    return Context(
        positions=jnp.array([[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 0, 1, 2]]),
        segments=jnp.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 2, 2, 2]]),
        starts=jnp.array([[0, 3], [0, 5]]),
        memory=Memory(normal(3, 2, 8, WIDTH), jnp.array([[1, 1, 2, 2, 2, 2, 2, 0], [1, 1, 1, 2, 2, 0, 0, 0]])),
    )


def batch() -> dict[str, jax.Array]:
    """The keys that some model reads, for two packed rows."""
    ctx = packed_context()
    rows = {"positions": ctx.positions, "segments": ctx.segments, "starts": ctx.starts}
    given = {name: value for name, value in rows.items() if value is not None}
    return given | {
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


def arguments(component: Any) -> tuple[Any, ...]:
    """What a component of its kind is called with."""
    kind, x, ctx = kind_of(component), normal(1, 2, 8, WIDTH), packed_context()
    places = batch()["positions"][:, None]
    inputs: dict[type | None, tuple[Any, ...]] = {
        Layer: (x, ctx),
        Norm: (x,),
        Position: (x, ctx.positions),
        Relative: (normal(7, 2, 4, 8, 8), normal(1, 2, 4, 8, 4), places, places),
        Weigh: (normal(7, 2, 4, 8, 8), jnp.tri(8, dtype=bool)[None, None]),
        Residual: (x, jnp.sin, ctx),
        Embed: (batch(), Context.of(batch())),
        Pool: (x, ctx),
        Head: (x, ctx, normal(4, VOCAB, WIDTH)),
        Model: (batch(),),
    }
    if kind is Residual and hasattr(component, "expand"):
        return component.expand(x, ctx), jnp.sin, ctx
    return inputs[kind]


@functools.lru_cache(maxsize=256)
def _traced(component: Any) -> tuple[Any, frozenset[type]]:
    seen: set[type] = set()

    def record(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
        seen.add(type(context.module))
        return run(*args, **kwargs)

    with nn.intercept_methods(record):
        variables = jax.eval_shape(lambda: component.init(jax.random.key(0), *arguments(component)))
    return variables.get("params", {}), frozenset(seen)


def shapes(component: Any) -> Any:
    """The shapes of a component's parameters."""
    return _traced(component)[0]


def modules_run(component: Any) -> frozenset[type]:
    """The classes of the modules that run when the component runs."""
    return _traced(component)[1]


@functools.lru_cache(maxsize=256)
def _parameters(component: Any) -> Any:
    return random_like(shapes(component))


def parameters(component: Any) -> Any:
    """Random parameters of a component, none zero by design and scales around one; an empty tree where it has none."""
    return _parameters(component)


def random_like(tree: Any) -> Any:
    """Random values for a tree of shapes, each leaf its own."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    drawn: list[jax.Array] = []
    with jax.ensure_compile_time_eval():
        for index, (path, leaf) in enumerate(paths):
            centre = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
            drawn.append(jnp.asarray(centre + 0.25 * np.random.default_rng(index).standard_normal(leaf.shape), jnp.float32))
    return structure.unflatten(drawn)
