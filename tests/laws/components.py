"""Every component class of models/, found by walking the package; the forms of each that the laws run over, and their
inputs.
"""

import importlib
import pkgutil
from typing import Any

import flax.linen as nn
import pytest

import models
from models import (
    GLU,
    MLP,
    Attention,
    Block,
    ClassHead,
    Dropout,
    EncoderDecoder,
    FirstToken,
    LayerNorm,
    LearnedPosition,
    LogitsHead,
    MeanPool,
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
from models.contracts import kind_of
from models.laws.inputs import (
    VOCAB,
    WIDTH,
    arguments,
    batch,
    modules_run,
    modules_within,
    normal,
    packed_context,
    parameters,
    random_like,
    shapes,
    tokens,
)
from tests.laws import variants

__all__ = [
    "VOCAB",
    "WIDTH",
    "arguments",
    "batch",
    "modules_run",
    "modules_within",
    "normal",
    "packed_context",
    "parameters",
    "random_like",
    "shapes",
    "tokens",
]


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

# Forms of the classes that have several, or whose default is too large to run in a test; every other class runs as its
# default.
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


def is_recurrence(component: object) -> bool:
    """Tells if a component is a recurrence of the package."""
    return type(component).__module__.startswith("models.recurrence.")


def forms_of(component: type) -> dict[str, Any]:
    """A class's variants, or its default alone."""
    return VARIANTS[component] if component in VARIANTS else {"default": component()}


def forms(*kinds: type) -> list[Any]:
    """Every form of every component of the kinds (of all kinds where none is given), as parameters of a test."""
    classes = [component for component in component_classes() if not kinds or kind_of(component) in kinds]
    return [
        pytest.param(form, id=f"{owner.__name__}-{name}") for owner in classes for name, form in forms_of(owner).items()
    ]
