"""Models whose attention weights are captured."""

import jax.numpy as jnp
import numpy as np

from models import (
    Block,
    Stack,
    TokenEmbed,
    Transformer,
)
from models.contracts import Layer

WIDTH = 16
BATCH = {
    "tokens": jnp.asarray(np.random.default_rng(0).integers(0, 30, (2, 6))),
    "segments": jnp.asarray([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]]),
    "source": jnp.asarray(np.random.default_rng(1).integers(0, 30, (2, 5))),
    "source_segments": jnp.asarray([[1, 1, 2, 2, 2], [1, 1, 1, 0, 0]]),
}


def made(layer: Layer, scan: bool = False, repeats: int = 2, prefix: int = 0) -> Transformer:
    """A model of these layers alone."""
    block = Block(layer, feedforward=None)
    return Transformer(TokenEmbed(30, WIDTH), Stack(block, repeats=repeats, scan=scan, prefix=(block,) * prefix))
