"""Attention weights of every layer of a model, keyed by module path."""

import dataclasses

import flax.linen as nn
import jax

from models.contracts import Batch, Model, Tree, Weigh, kind_of
from models.paths import PATTERN, Layer

CALLED = "__call__"


def attention_weights(model: Model, params: Tree, batch: Batch) -> dict[str, jax.Array]:
    """Captures attention weights (b, h, t, s) of every layer, keyed by module path, such as `decoder/layer_1/cross`.

    A pure function.  Layers of a scanned stack have the paths that they would have in a loop.  Local attention gives
    its blocks, (b n, h, t / n, s).  The weights are the captured outputs of components of the kind `Weigh`, so a model
    computes nothing for it unless this function is called.
    """
    _, state = model.apply({"params": params}, batch, capture_intermediates=_weighs, mutable=["intermediates"])
    weights: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.get("intermediates", {})):
        keys = [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        calls = keys[: keys.index(CALLED)]
        weights |= _layers("/".join(calls[:-1]), leaf, state["intermediates"])
    return weights


def _weighs(module: nn.Module, method: str) -> bool:
    return method == CALLED and kind_of(module) is Weigh


def _layers(path: str, weights: jax.Array, whole: Tree) -> dict[str, jax.Array]:
    """Unstacks the weights of scanned layers along the first axis, keyed by the layers' paths in a loop."""
    layer = Layer.of(path)
    if layer is None or not layer.repeats:
        return {path: weights}
    for name in filter(None, layer.stack.split("/")):
        whole = whole[name]
    body, width = whole[layer.body], 0
    while PATTERN.format(width) in body:
        width += 1
    single = [dataclasses.replace(layer, kind="loop", index=row * width + layer.index) for row in range(len(weights))]
    return {block.path: weights[row] for row, block in enumerate(single)}
