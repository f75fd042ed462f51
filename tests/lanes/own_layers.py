"""Decodes a layer of one's own, and is refused one that keeps no tokens: `python -m tests.lanes.own_layers`."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import Attention, Block, LogitsHead, Stack, TokenEmbed, Transformer
from models.context import Context
from models.decoding.sampling import generate
from models.laws.inputs import parameters


class Doubled(nn.Module):
    """Twice each token."""

    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return 2 * x


class Summed(nn.Module):
    """The sum of the tokens so far."""

    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return jnp.cumsum(x, axis=1)


def decode(layer: nn.Module) -> int:
    """The number of tokens that a model with this layer gives."""
    model = Transformer(TokenEmbed(11, 16), Stack(Block(Attention(2, causal=True), layer), 1), LogitsHead())
    return len(list(generate(model, parameters(model), {"tokens": jnp.ones((1, 3), jnp.int32)}, 4)))


def main() -> None:
    """Decodes one layer, and is refused the other."""
    assert decode(Doubled()) == 4
    try:
        decode(Summed())
    except ValueError as refusal:
        print(f"refused: {refusal}")
    else:
        raise SystemExit("a layer that sums tokens and keeps none was decoded")


if __name__ == "__main__":
    main()
