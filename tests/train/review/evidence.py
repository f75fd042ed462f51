"""Evidence of trained models, and the law that metrics do not depend on batches or devices."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import pytest

from train.contracts import Parallel
from train.engine.evidence import Trained
from train.engine.prepared import prepare_evaluation
from train.parallel import Jit, Mesh, Pmap
from train.sums import compute_interval

WAYS: dict[str, tuple[Parallel, int]] = {
    "jit": (Jit(), 64),
    "alone": (Jit(), 1),
    "ragged": (Jit(), 7),
    "pmap": (Pmap(), 64),
    "mesh": (Mesh(data=4, fsdp=2), 8),
}


def trained(experiment: Any, parallel: Parallel, batch_size: int) -> Trained:
    """An experiment's model with parameters of chance, larger than usual so that its answers differ."""
    evaluation = dataclasses.replace(experiment.evaluation, batch_size=batch_size)
    experiment = dataclasses.replace(experiment, parallel=parallel, evaluation=evaluation)
    trainer = prepare_evaluation(experiment, experiment.data.open())
    batch = trainer.data.batches("test", batch_size, parallel.size(), None)[0]
    given = {name: jax.numpy.asarray(value) for name, value in batch.items()}
    params = jax.jit(experiment.model.init)(jax.random.key(1), given)["params"]
    placed = parallel.spread(jax.tree.map(lambda leaf: 3 * leaf, params))
    parts = trainer.evaluate(placed)
    assert parts is not None
    return Trained(trainer, placed, {name: compute_interval(sums)[0] for name, sums in parts.items()})


def law_metrics_do_not_depend_on_batches_or_devices(
    experiment: Any, review: Any, close: float = 1e-5, ways: Sequence[str] = tuple(WAYS)
) -> dict[str, float]:
    """An objective measures and a review finds the same in every way; gives what it finds."""
    made = {name: trained(experiment, *WAYS[name]) for name in ways}
    found = {name: review.review(one).metrics for name, one in made.items()}
    for name in ways:
        assert made[name].measured == pytest.approx(made["jit"].measured, rel=1e-4, abs=1e-5), name
        assert found[name] == pytest.approx(found["jit"], rel=close, abs=close), name
    return found["jit"]
