"""Small models of images, and experiments on them."""

import dataclasses
from typing import Any

from models import (
    Attention,
    AxialRoPE,
    Block,
    ClassHead,
    LearnedPosition,
    MeanPool,
    PatchEmbed,
    Stack,
    TokenEmbed,
    Transformer,
)
from train.objectives import Classification

BYTES, MIXER, FIVE, CLASSIFIED = TokenEmbed(256, 8), Attention(2), ClassHead(5, MeanPool()), Classification()


def seen(head: Any, embed: Any = BYTES, mixer: Any = MIXER) -> Transformer:
    """A model with this head."""
    return Transformer(embed, Stack(Block(mixer), repeats=1), head)


def pictured(side: int, head: Any = FIVE, **settings: Any) -> Transformer:
    """A model for pictures that four pixels a side make a token of, `side` x `side` of them."""
    embed = PatchEmbed(8, 4, 0, LearnedPosition(side * side))
    return dataclasses.replace(seen(head, embed, Attention(2, position=AxialRoPE((side, side)))), **settings)
