"""Attention weights of every layer of a model, by path, and what they make of each other over depth."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from models.contracts import Batch, Model, Tree, Weigh, kind_of
from models.inspect.intermediates import observe


def attention_weights(model: Model, params: Tree, batch: Batch) -> dict[str, jax.Array]:
    """Captures attention weights (b, h, t, s) of every layer, by the layer's path, such as `decoder.1.cross`.

    A pure function.  Local attention gives its blocks, (b n, h, t / n, s).  The weights are the captured outputs of
    components of the kind `Weigh`, so a model computes nothing for it unless this function is called.
    """
    weights = observe(
        model, {"params": params}, (batch,), lambda site: not site.suffix and kind_of(site.module) is Weigh
    )
    return {path.rpartition(".")[0] + path[len(path.partition("@")[0]) :]: value for path, value in weights.items()}


def roll_out_attention(layers: Sequence[jax.Array]) -> jax.Array:
    """The product over layers of (A_l + I) / 2, the last on the left; A_l is the mean over heads.

    (b, h, t, t) each, from the first layer on -> (b, t, t): in row i the shares of the tokens in what token i became,
    if each block kept half of what it reads.  Attention rollout, Abnar and Zuidema 2020, arXiv:2005.00928.
    """
    total = jnp.eye(layers[0].shape[-1], dtype=layers[0].dtype)
    for weights in layers:
        mixed = (weights.mean(1) + jnp.eye(weights.shape[-1], dtype=weights.dtype)) / 2
        total = mixed @ total
    return total
