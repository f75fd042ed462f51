"""A small model around every component class, in the component's natural place, with an objective: what is trained and
compiled whole.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models import (
    MLP,
    RWKV7,
    Attention,
    Block,
    BoxHead,
    ClassHead,
    EncoderDecoder,
    EveryToken,
    Experts,
    LogitsHead,
    MeanPool,
    PreNorm,
    RMSNorm,
    SharedAttention,
    Stack,
    Transformer,
    ValueHead,
)
from models.contracts import (
    Batch,
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
    Weigh,
    kind_of,
)
from models.structure import fields
from tests.laws.components import EMBED, WIDTH, forms_of, module_classes
from train.contracts import Objective
from train.objectives import Classification, MeanSquaredError, NextToken, NextTokens, SetPrediction

CLASSES = 2  # and the fewest rows of any vocabulary among the forms is 5

MIXER = Attention(4, causal=True)
FEEDFORWARD = MLP(1.0)
PLAIN = Block(MIXER, None)  # what stands around a part that is no layer: the less, the quicker compiled
ENCODER = Stack(Block(Attention(4), None), 1)

# Layers whose second form lives on what the first gives.
BESIDE: dict[type, tuple[Layer, ...]] = {
    SharedAttention: (SharedAttention(4, causal=True), SharedAttention(4, causal=True, reuse=True)),
    RWKV7: (RWKV7(4, value_residual=True), RWKV7(4, value_residual=True)),
}
STACKS = {
    "scanned": Stack(Block(MIXER, FEEDFORWARD), 2, RMSNorm(), scan=True, remat="full"),
    "tied": Stack(Block(MIXER, FEEDFORWARD), 2, RMSNorm(), tied=True),
    "prefixed": Stack(Block(MIXER, FEEDFORWARD), 1, prefix=(Block(MIXER, None),)),
}


class Trained(NamedTuple):
    """A model of two layers or more around one component or several, and what it is trained for."""

    name: str
    model: Any
    objective: Objective


def deep(*blocks: Block) -> Stack:
    """Each block as one layer; a single one as two."""
    return Stack(blocks if len(blocks) > 1 else blocks * 2, 1, RMSNorm())


def decoder(*blocks: Block) -> Transformer:
    """A language model of these blocks."""
    return Transformer(EMBED, deep(*blocks), LogitsHead())


def layered(*layers: Layer) -> Transformer | EncoderDecoder:
    """Layers that mix tokens say whether they are causal; any other is a feedforward.  Those that read a memory have
    one.
    """
    if any(getattr(layer, "cross", False) for layer in layers):
        stack = deep(
            *(
                Block(MIXER, None, cross=layer) if getattr(layer, "cross", False) else Block(layer, None)
                for layer in layers
            )
        )
        return EncoderDecoder(EMBED, ENCODER, stack, LogitsHead())
    return decoder(*(Block(layer, None) if hasattr(layer, "causal") else Block(MIXER, layer) for layer in layers))


# Components of these kinds are small parts of a layer: all of a kind share one model.
SHARED: dict[type, Callable[..., Transformer]] = {
    Norm: lambda *norms: decoder(*(Block(Attention(4, qk_norm=norm), None, PreNorm(norm)) for norm in norms)),
    Position: lambda *positions: decoder(*(Block(Attention(2, position=position), None) for position in positions)),
    Relative: lambda *relatives: decoder(*(Block(Attention(4, relative=relative), None) for relative in relatives)),
    Weigh: lambda *weighs: decoder(*(Block(Attention(4, weigh=weigh), None) for weigh in weighs)),
    Router: lambda *routers: decoder(*(Block(MIXER, Experts(4, 2, router=router)) for router in routers)),
}
# A model for one component.
ALONE: dict[type | None, Callable[[Any], Transformer | EncoderDecoder]] = {
    Layer: lambda layer: Transformer(EMBED, layer, LogitsHead(chunk=5)) if isinstance(layer, Stack) else layered(layer),
    Block: lambda block: decoder(PLAIN, block),
    Residual: lambda residual: decoder(Block(MIXER, FEEDFORWARD, residual)),
    Embed: lambda embed: Transformer(embed, deep(PLAIN), ClassHead(CLASSES, MeanPool())),
    Pool: lambda pool: Transformer(
        EMBED, deep(PLAIN), (ValueHead if isinstance(pool, EveryToken) else ClassHead)(CLASSES, pool)
    ),
    Head: lambda head: Transformer(EMBED, deep(PLAIN), head),
    Model: lambda model: model if model.head is not None else dataclasses.replace(model, head=LogitsHead()),
}


def socket_of(owner: type) -> type | None:
    """The kind of a class, those that only a block or a layer of experts has included; None for what another class
    makes.
    """
    return kind_of(owner) or (Block if issubclass(owner, Block) else None)


def trained_with(owner: type) -> list[Trained]:
    """The models around one class: its first and its last form as the two layers of one, or where that is one layer,
    its last.
    """
    socket = socket_of(owner)
    if socket is None:
        return []
    forms = list(forms_of(owner).values())
    if socket in SHARED:
        return [trained(owner.__name__, SHARED[socket](forms[-1]))]
    if owner is Stack:
        return [trained(f"Stack-{name}", ALONE[Layer](stack)) for name, stack in STACKS.items()]
    if socket is Layer and not issubclass(owner, Stack):
        return [
            trained(owner.__name__, layered(*BESIDE.get(owner, (forms[0], forms[-1]) if len(forms) > 1 else forms)))
        ]
    return [trained(owner.__name__, ALONE[socket](forms[-1]))]


def trained(name: str, model: Transformer | EncoderDecoder) -> Trained:
    """A model with the objective that its head asks for."""
    return Trained(name, model, objective_of(model))


def objective_of(model: Transformer | EncoderDecoder) -> Objective:
    """What a model's head can be trained for: classes, several tokens ahead, the next token, boxes, else values."""
    head = model.head
    if isinstance(head, ClassHead):
        return Classification()
    if isinstance(head, LogitsHead):
        return NextToken()
    if isinstance(head, BoxHead):
        return SetPrediction()
    return NextTokens() if hasattr(head, "tokens") else MeanSquaredError()


def everything() -> list[Trained]:
    """The models of all classes, named by what they are about."""
    found = [one for owner in module_classes() if socket_of(owner) not in SHARED for one in trained_with(owner)]
    for socket, build in SHARED.items():
        owners = [owner for owner in module_classes() if socket_of(owner) is socket]
        found.append(
            trained(
                "+".join(owner.__name__ for owner in owners),
                build(*(list(forms_of(owner).values())[-1] for owner in owners)),
            )
        )
    return found


def resized(value: Any, width: int, length: int) -> Any:
    """A structure whose embeds give this width, and whose layers and positions reach this far."""
    if isinstance(value, tuple):
        return tuple(resized(item, width, length) for item in value)
    if not isinstance(value, nn.Module):
        return value
    changes = {field.name: resized(getattr(value, field.name), width, length) for field in fields(value)}
    if kind_of(value) is Embed:
        changes["width"] = width
    if "length" in changes:
        changes["length"] = max(length, changes["length"])
    return dataclasses.replace(value, **changes)


def training_batch(trained: Trained, rows: int, length: int) -> Batch:
    """Random rows of two examples and padding, with the keys that some model or objective reads.  `length` is a
    multiple of 4.
    """
    draw = np.random.default_rng(0)
    cut = (length // 2, length // 2 - length // 4, length // 4)
    segments = np.repeat([1, 2, 0], cut)
    positions = np.concatenate([np.arange(part) for part in cut])

    def ids(below: int, *shape: int) -> np.ndarray:
        return draw.integers(0, below, (rows, *shape))

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal((rows, *shape))

    batch = {
        "tokens": ids(5, length),
        "segments": np.tile(segments, (rows, 1)),
        "positions": np.tile(positions, (rows, 1)),
        "types": ids(2, length),
        "source": ids(5, length),
        "source_segments": np.tile(segments, (rows, 1)),
        "image": normal(4, length // 2, 3),
        "video": normal(2, 4, length // 2, 3),
        "features": normal(length, 3),
        "returns": normal(length, 1),
        "actions": normal(length, 2),
        "labels": ids(CLASSES),
        "boxes": draw.uniform(0.2, 0.4, (rows, 3, 4)),
        "box_labels": ids(3, 3),
        "present": np.tile([1.0, 1.0, 0.0], (rows, 1)),
    }
    if isinstance(trained.objective, MeanSquaredError):
        model = resized(trained.model, WIDTH, length)
        outputs = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jax.tree.map(jnp.asarray, batch))[0])
        batch["values"] = normal(*outputs.shape[1:])
    return {
        name: jnp.asarray(value, jnp.float32 if value.dtype.kind == "f" else jnp.int32) for name, value in batch.items()
    }
