"""The law that is tested of every variant before it is compared: a language model's outputs know no later token."""

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch
from models.head.chunked import Projected
from models.laws.inputs import random_like
from train.engine.prepared import Prepared
from train.objectives import NextToken, NextTokens

PLACES = 4  # places in a row after which all tokens are changed
CLOSE = 1e-3  # of the largest output


def find_leak(prepared: Prepared) -> str | None:
    """A sentence if outputs of a model of next tokens change with tokens that come later, otherwise None.

    Parameters are random, so that no branch is silent; the row is as long as in training.
    """
    experiment = prepared.experiment
    if not isinstance(experiment.objective, NextToken | NextTokens):
        return None
    first = {name: jnp.asarray(value[:1]) for name, value in prepared.batches[0].items()}
    first["segments"] = jnp.ones_like(first["tokens"])
    length, params = first["tokens"].shape[1], random_like(prepared.shapes)

    @jax.jit
    def run(params: object, batch: Batch) -> jax.Array:
        outputs = experiment.model.apply({"params": params}, batch)
        return outputs.logits() if isinstance(outputs, Projected) else outputs

    before = np.asarray(run(params, first), np.float64)
    if not np.isfinite(before).all():  # too large for a model of these values
        params = prepared.parallel.whole(prepared.begin().state).params
        before = np.asarray(run(params, first), np.float64)
    for place in np.linspace(1, length - 1, PLACES).astype(int).tolist():
        tokens = first["tokens"].at[:, place:].set((first["tokens"][:, place:] + 1) % prepared.data.vocab)
        after = np.asarray(run(params, first | {"tokens": tokens}), np.float64)
        moved = np.abs(after - before)[:, :place].reshape(place, -1).max(1)
        if not moved.max() <= CLOSE * np.abs(before).max():
            return f"later tokens move earlier outputs: tokens from {place} on change output {int(moved.argmax())}"
    return None
