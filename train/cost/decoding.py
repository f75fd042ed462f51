"""Costs of decoding: the bytes that a model keeps for a row, and the operations of one more token."""

import jax
import jax.numpy as jnp

from models.contracts import Model, Tree
from models.decoding.decodable import require_decodable
from models.decoding.sampling import advance, prefill
from train.cost.traced import count_bytes, count_flops

READ = ("source", "image")  # first words of the keys that a decoder reads beside the tokens


def measure_decoding(model: Model, params: Tree, batch: Tree, length: int) -> tuple[int, int]:
    """Counts the bytes of the cache for a row of `length` tokens, and the FLOPs of decoding its last one.

    `params` and `batch` are shapes.  Raises ValueError if the model does not decode: no tokens, a layer that sees later
    ones, or outputs that are not logits of a token.
    """
    if "tokens" not in batch:
        raise ValueError("the batch has no tokens")
    first = {
        name: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in batch.items()
        if name.startswith(READ)
    }
    first |= {
        name: jax.ShapeDtypeStruct((1, 1), jnp.int32)
        for name in ("tokens", "segments", "positions")
        if name == "tokens" or name in batch
    }
    require_decodable(model, first, length)
    logits, cache = jax.eval_shape(lambda params, batch: prefill(model, params, batch, length), params, first)
    if len(logits.shape) != 2:
        raise ValueError("the outputs are not logits of each token")

    def step(params: Tree, cache: Tree, batch: Tree) -> tuple[jax.Array, Tree]:
        return advance(model, params, cache, batch, jnp.asarray(length - 1), length)

    return count_bytes(cache), count_flops(step, params, cache, first)
