"""The laws that are tested of every variant before it is compared.

Outputs of a language model know no later token and no other row of the batch, and they are plain logits: an output of
another class could compute the loss in its own way.
"""

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch
from models.head.chunked import Projected, compute_logits
from models.laws.inputs import random_like
from train.engine.prepared import Prepared
from train.objectives import NextToken, NextTokens

PLACES = 32  # places in a row after which all tokens are changed
CLOSE = 1e-3  # of the largest output


def find_leak(prepared: Prepared) -> str | None:
    """A sentence if outputs of a model of next tokens know what they may not, otherwise None.

    Parameters are random, so that no branch is silent; rows are as long as in training.
    """
    experiment = prepared.experiment
    if not isinstance(experiment.objective, NextToken | NextTokens):
        return None
    first = {name: jnp.asarray(value[:2]) for name, value in prepared.batches[0].items()}
    first["segments"] = jnp.ones_like(first["tokens"])
    length, params = first["tokens"].shape[1], random_like(prepared.shapes)

    @jax.jit
    def run(params: object, batch: Batch) -> jax.Array:
        outputs = experiment.model.apply({"params": params}, batch)
        return compute_logits(outputs)

    outputs = jax.eval_shape(lambda params: experiment.model.apply({"params": params}, first), prepared.shapes)
    if type(outputs) not in (jax.ShapeDtypeStruct, Projected):
        return f"its outputs are of the class {type(outputs).__name__}, and no logits"
    before = np.asarray(run(params, first), np.float64)
    if not np.isfinite(before).all():  # too large for a model of these values
        params = prepared.parallel.whole(prepared.begin().state).params
        before = np.asarray(run(params, first), np.float64)
    if len(before) > 1:
        tokens = first["tokens"].at[1].set((first["tokens"][1] + 1) % prepared.data.vocab)
        moved = np.abs(np.asarray(run(params, first | {"tokens": tokens}), np.float64) - before)[0].max()
        if not moved <= CLOSE * np.abs(before).max():
            return "tokens of one row of the batch move outputs of another"
    for cut in np.unique(np.linspace(1, length - 1, PLACES).astype(int)).tolist():
        tokens = first["tokens"].at[:, cut:].set((first["tokens"][:, cut:] + 1) % prepared.data.vocab)
        after = np.asarray(run(params, first | {"tokens": tokens}), np.float64)
        moved = np.abs(after - before)[:, :cut].max((0, *range(2, before.ndim)))
        if not moved.max() <= CLOSE * np.abs(before).max():
            return f"later tokens move earlier outputs: tokens from {cut} on change output {int(moved.argmax())}"
    return None
