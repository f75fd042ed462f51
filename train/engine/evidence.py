"""Evidence: what a trained model gives on a part of its data, for metrics and reviews; and metrics made of it."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from models.contracts import Batch, Model
from train.contracts import PART, Arrays, Case, Dataset, Params, Shows
from train.engine.prepared import Inference
from train.engine.step import make_outputs
from train.page import Figure
from train.precision import cast
from train.sums import interval

KEPT = 2**30  # bytes of outputs that are kept, so that several metrics share one pass over the data


class StoppedError(Exception):
    """A signal came while examples were gone through."""


@dataclasses.dataclass
class Trained:
    """A model with its parameters, placed, on a part of its data.  `stop`: if the run was asked to stop."""

    inference: Inference
    params: Params
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)
    part: PART = "test"
    stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._kept: list[Case] | None = None

    @property
    def data(self) -> Dataset:
        """The data, opened."""
        return self.inference.data

    @property
    def model(self) -> Model:
        """The model, without parameters."""
        return self.inference.experiment.model

    @property
    def multiple(self) -> int:
        """Rows of a batch come in multiples of this."""
        return self.inference.parallel.size()

    def stopped(self) -> bool:
        """If the run was asked to stop."""
        return self.stop()

    def cases(self, changed: Callable[[Arrays], Arrays] | None = None) -> Iterator[Case]:
        """Every example exactly once, with the output of the model, in the order of the batches.

        `changed` gives the batch that the model sees in place of one of the data's.  Raises StoppedError after a
        signal.
        """
        if changed is None and self._kept is not None:
            yield from self._kept
            return
        kept, size = list[Case](), 0
        outputs = self.compiled()
        for batch in self._batches():
            seen = batch if changed is None else changed(batch)
            given = jax.tree.map(lambda leaf: leaf.astype(np.float32), outputs(seen))
            weights = seen["weights"]
            own = {name: value for name, value in seen.items() if value.shape[: weights.ndim] == weights.shape}
            size += sum(leaf.nbytes for leaf in jax.tree.leaves((given, own)))
            for place in zip(*np.nonzero(weights > 0), strict=True):
                output = jax.tree.map(lambda leaf, place=place: leaf[place], given)
                case = Case(output, {name: value[place] for name, value in own.items()}, int(seen["index"][place]))
                if size <= KEPT:
                    kept.append(case)
                yield case
        if changed is None and size <= KEPT:
            self._kept = kept

    def shown(self, index: int) -> str | Figure:
        """An example as plain text or as a figure."""
        data = self.data
        return data.shown(self.part, index) if isinstance(data, Shows) else f"example {index + 1}"

    def _batches(self) -> Iterator[Arrays]:
        size = self.inference.experiment.evaluation.batch_size
        batches = self.data.batches(self.part, size, self.multiple, None)
        for batch in batches.stream(0, len(batches)):
            if self.stop():
                raise StoppedError
            yield batch

    def first(self, rows: int) -> Arrays:
        """The first batch of the part, of at least so many rows if the part has them."""
        return self.data.batches(self.part, -(-rows // self.multiple) * self.multiple, self.multiple, None)[0]

    def compiled(self, function: Callable[[Params, Batch], Any] | None = None) -> Callable[[Arrays], Any]:
        """Outputs of the model, or of a pure function of its parameters and a batch, as arrays of the host.

        The function gets both in the precision of the experiment, and gives a row for each of the batch.
        """
        parallel, precision = self.inference.parallel, self.inference.experiment.precision
        program = self.inference.outputs
        if function is not None:
            program = parallel.compile_outputs(
                lambda params, batch: function(cast(params, precision), cast(dict(batch), precision)),
            )
        return lambda batch: jax.tree.map(np.asarray, program(self.params, parallel.put(batch)))

    def alone(self) -> Callable[[Arrays], Any]:
        """Outputs of the model on one device, the same program in any parallelism, for batches of any size."""
        experiment = self.inference.experiment
        params = jax.device_get(self.inference.parallel.whole(self.params))
        program = jax.jit(make_outputs(experiment.model, experiment.precision))
        return lambda batch: jax.tree.map(np.asarray, program(params, batch))

    def search(self) -> Iterator[tuple[int, list[int]]]:
        """The index of each example and the tokens that the objective's search finds for it.

        Raises StoppedError after a signal.
        """
        for batch in self._batches():
            yield from search_batch(self.inference, self.params, batch)


def search_batch(inference: Inference, params: Params, batch: Arrays) -> Iterator[tuple[int, list[int]]]:
    """The index of each example of a batch and the tokens that the objective's search finds for it, without the end."""
    data: Any = inference.data
    rows = np.asarray(inference.search(params, inference.parallel.put(batch))).tolist()
    for index, row, weight in zip(batch["index"].tolist(), rows, batch["weights"], strict=True):
        if weight:
            yield index, row[: row.index(data.end)] if data.end in row else row


Measured = dict[str, tuple[float, float]]  # a value and the half width of its 95 % interval, by metric


def measure(inference: Inference, params: Params, stop: Callable[[], bool] = lambda: False) -> Measured | None:
    """Metrics of the objective, and of `metrics`, on the test split; None if `stop` said so.  Nothing is updated."""
    parts = inference.evaluate(params, stop)
    if parts is None:
        return None
    measured = {name: interval(sums) for name, sums in parts.items()}
    if not inference.metrics:
        return measured
    evidence = Trained(inference, params, {name: value for name, (value, _) in measured.items()}, stop=stop)
    try:
        for metric in inference.metrics:
            absent = dict.fromkeys(metric.names(inference.data), (math.nan, math.inf))
            found = absent | dict(metric.measure(evidence))
            measured |= {name: both for name, both in found.items() if name not in measured}
    except StoppedError:
        return None
    return None if stop() else measured
