"""An experiment that is prepared: the trace whose operations are counted is that of the first step."""

import dataclasses
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from models.contracts import Batch
from models.head.chunked import Projected
from tests.places import CONFIGS
from train.config import load_config
from train.engine.prepared import prepare, reseed
from train.objectives import NextToken
from train.parallel import Jit
from train.sums import Sums

TRACES: list[int] = []


class Counted(NextToken):
    """The next-token loss, which counts its traces."""

    def __call__(self, outputs: jax.Array | Projected, batch: Batch) -> Sums:
        TRACES.append(1)
        return super().__call__(outputs, batch)


def test_the_step_is_traced_once_whatever_the_seed(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    experiment, _ = load_config(str(CONFIGS / "language_model.py"), [])
    experiment = dataclasses.replace(experiment, objective=Counted(), parallel=Jit())
    prepared = prepare(experiment, experiment.data.open())
    counted = len(TRACES)
    state = prepared.begin().state
    for step in range(2):
        state, _ = prepared.step(state, prepared.parallel.put(prepared.batches[step]))
    assert len(TRACES) == counted
    other = reseed(prepared, 5)
    afresh = prepare(dataclasses.replace(experiment, seed=5), prepared.data)
    chex.assert_trees_all_equal(other.begin().state, afresh.begin().state)
    chex.assert_trees_all_equal(dict(other.batches[3]), dict(afresh.batches[3]))
    assert not np.array_equal(other.batches[3]["tokens"], prepared.batches[3]["tokens"])
