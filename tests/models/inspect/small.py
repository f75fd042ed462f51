"""A small language model, its batch, and a score of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import GLU, Attention, Block, LogitsHead, PreNorm, RMSNorm, Stack, TokenEmbed, Transformer
from models.laws.inputs import random_like

BATCH = {"tokens": jnp.asarray(np.random.default_rng(0).integers(0, 30, (3, 6)))}
OTHER = {"tokens": jnp.asarray(np.random.default_rng(1).integers(0, 30, (3, 6)))}
BLOCK = Block(Attention(2, causal=True), GLU(1.0), PreNorm(RMSNorm()))
MODEL: Any = Transformer(TokenEmbed(30, 8), Stack(BLOCK, repeats=2, norm=RMSNorm(), scan=True), LogitsHead())


def draw(model: Any, batch: Any = BATCH) -> Any:
    """Random parameters."""
    return random_like(jax.eval_shape(model.init, jax.random.key(0), batch)["params"])


PARAMS = draw(MODEL)


def score(logits: jax.Array) -> jax.Array:
    """The logit of one token over another at the end of a row, (b,)."""
    return logits[:, -1, 3] - logits[:, -1, 5]
