"""What attention looked at: the weights of every attention of a model, by where it stands."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from models.contracts import Batch, Model, Weigh, kind_of
from models.paths import PATTERN, Layer

CALLED = "__call__"


def attention_weights(model: Model, params: Any, batch: Batch) -> dict[str, jax.Array]:
    """The weights (b, h, t, s) of every attention of a model on a batch, by its path, such as `decoder/layer_1/cross`.  Pure.

    A scanned stack's are those of its layers as a loop.  An attention that sees only a neighbourhood gives its blocks, (b n, h, t / n, s).
    They are what the components of the kind `Weigh` give, caught on their way out: nothing is computed for it where nobody asks.
    """
    _, state = model.apply({"params": params}, batch, capture_intermediates=_weighs, mutable=["intermediates"])
    found: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.get("intermediates", {})):
        keys = [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        calls = keys[: keys.index(CALLED)]
        found |= _layers("/".join(calls[:-1]), leaf, state["intermediates"])
    return found


def _weighs(module: nn.Module, method: str) -> bool:
    return method == CALLED and kind_of(module) is Weigh


def _layers(path: str, weights: jax.Array, whole: Any) -> dict[str, jax.Array]:
    """The weights of the layers that a scan has along its first axis."""
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
