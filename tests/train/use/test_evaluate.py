"""Predictions are made by the model that was evaluated."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import Decoding
from models.contracts import Batch
from train.contracts import Parallel
from train.data.batches import Batches
from train.engine.folder import Recorded
from train.experiment import Experiment
from train.optimizers import SGD
from train.parallel import Jit, Mesh, Pmap
from train.precision import Precision
from train.sums import Sums
from train.use.evaluate import predict


class Bits(nn.Module):
    """Scales a number, and says with how many bits it is given."""

    @nn.compact
    def __call__(self, batch: Batch, train: bool = False, decoding: Decoding | None = None) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, ())
        bits = jnp.full_like(batch["x"], 8 * batch["x"].dtype.itemsize)
        return jnp.stack([scale * batch["x"], bits], -1)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Questions that are numbers."""

    classes: tuple[str, ...] = ()
    vocab: int = 0
    names: tuple[str, ...] = ()

    def reader(self, classes: tuple[str, ...] = ()) -> "Numbers":
        return self

    def open(self, classes: tuple[str, ...] = (), only: Any = None) -> "Numbers":
        return self

    def batches(self, part: str, batch_size: int, multiple: int, seed: int | None) -> Batches:
        raise NotImplementedError

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        rows = -(-len(asked) // multiple) * multiple
        x = np.pad(np.array(asked, np.float32), (0, rows - len(asked)))
        return Batches(1, lambda step: {"x": x, "weights": np.ones(rows, np.float32)})


@dataclasses.dataclass(frozen=True)
class Shown:
    """Answers with what the model gives."""

    def __call__(self, outputs: Any, batch: Batch) -> Sums:
        raise NotImplementedError

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        return {"value": float(output[0]), "bits": int(output[1])}


@pytest.mark.parametrize("parallel", [Jit(), Pmap(), Mesh(fsdp=2)], ids=["jit", "pmap", "mesh"])
@pytest.mark.parametrize(("precision", "bits"), [("bfloat16", 16), ("float32", 32)])
def test_inputs_of_predictions_have_the_precision_of_the_run(
    monkeypatch: pytest.MonkeyPatch, parallel: Parallel, precision: Precision, bits: int
) -> None:
    monkeypatch.setattr("train.use.evaluate.restore_params", lambda *_: (1, parallel.spread({"scale": jnp.float32(2)})))
    data: Any = Numbers()
    experiment = Experiment(Bits(), Shown(), data, SGD(), steps=1, precision=precision, parallel=parallel)
    answers = list(predict(Path("run"), Recorded(experiment, "numbers", ()), ["1", "2", "3"]))
    assert answers == [(name, {"value": 2.0 * float(name), "bits": bits}) for name in ("1", "2", "3")]
