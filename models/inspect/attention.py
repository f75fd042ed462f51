"""Attention weights of every layer of a model, by path."""

import jax

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
