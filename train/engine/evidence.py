"""Evidence for metrics and reviews: outputs of a trained model on a split of its data; and metrics computed from it."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from models.contracts import Batch, Model, Tree
from train.contracts import PART, Arrays, Case, Dataset, Ends, Params, Shows
from train.engine.prepared import Inference
from train.engine.step import make_outputs
from train.page import Figure
from train.precision import cast
from train.sums import compute_interval

KEPT = 2**30  # bytes of outputs that are cached, so that several metrics share one pass over the data


class StoppedError(Exception):
    """A signal that arrived during a pass over the examples."""


@dataclasses.dataclass
class Trained:
    """A model with its placed parameters on a split of its data; `stop` tells if a signal asked the run to stop."""

    inference: Inference
    params: Params
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)
    part: PART = "test"
    stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._kept: list[Case] | None = None

    @property
    def data(self) -> Dataset:
        """The opened data."""
        return self.inference.data

    @property
    def model(self) -> Model:
        """The model, without parameters."""
        return self.inference.experiment.model

    @property
    def multiple(self) -> int:
        """The number that the rows of a batch are a multiple of."""
        return self.inference.parallel.size()

    def stopped(self) -> bool:
        """Tells if a signal asked the run to stop."""
        return self.stop()

    def cases(self, changed: Callable[[Arrays], Arrays] | None = None) -> Iterator[Case]:
        """Iterates over all examples once, with the output of the model, in the order of the batches.

        `changed` maps a batch of the data to the one that the model sees.  Raises StoppedError after a signal.
        """
        if changed is None and self._kept is not None:
            yield from self._kept
            return
        kept: list[Case] = []
        size = 0
        outputs = self.compiled()
        for batch in self._batches():
            seen = batch if changed is None else changed(batch)
            predicted = jax.tree.map(lambda leaf: leaf.astype(np.float32), outputs(seen))
            weights = seen["weights"]
            targets = {name: value for name, value in seen.items() if value.shape[: weights.ndim] == weights.shape}
            size += sum(leaf.nbytes for leaf in jax.tree.leaves((predicted, targets)))
            for at in zip(*np.nonzero(weights > 0), strict=True):
                output = jax.tree.map(lambda leaf, at=at: leaf[at], predicted)
                case = Case(output, {name: value[at] for name, value in targets.items()}, int(seen["index"][at]))
                if size <= KEPT:
                    kept.append(case)
                yield case
        if changed is None and size <= KEPT:
            self._kept = kept

    def show_example(self, index: int) -> str | Figure:
        """Shows an example as plain text or as a figure."""
        data = self.data
        return data.show_example(self.part, index) if isinstance(data, Shows) else f"example {index + 1}"

    def _batches(self) -> Iterator[Arrays]:
        size = self.inference.experiment.evaluation.batch_size
        batches = self.data.batches(self.part, size, self.multiple, None)
        for batch in batches.stream(0, len(batches)):
            if self.stop():
                raise StoppedError
            yield batch

    def first(self, rows: int) -> Arrays:
        """Reads the first batch of the split, of at least so many rows if the split has them."""
        return self.data.batches(self.part, -(-rows // self.multiple) * self.multiple, self.multiple, None)[0]

    def compiled(self, function: Callable[[Params, Batch], Tree] | None = None) -> Callable[[Arrays], Tree]:
        """Compiles the model, or a pure function of its parameters and a batch; the outputs are NumPy arrays.

        The function gets both in the precision of the experiment, and returns a row for each row of the batch.
        """
        parallel = self.inference.parallel
        precision = self.inference.experiment.precision
        program = self.inference.outputs
        if function is not None:
            program = parallel.compile_outputs(
                lambda params, batch: function(cast(params, precision), cast(dict(batch), precision)),
            )
        return lambda batch: jax.tree.map(np.asarray, program(self.params, parallel.put(batch)))

    def alone(self) -> Callable[[Arrays], Tree]:
        """Compiles the model for one device, the same program in any parallelism, for batches of any size."""
        experiment = self.inference.experiment
        params = jax.device_get(self.inference.parallel.whole(self.params))
        program = jax.jit(make_outputs(experiment.model, experiment.precision))
        return lambda batch: jax.tree.map(np.asarray, program(params, batch))

    def search(self) -> Iterator[tuple[int, list[int]]]:
        """Iterates over the index of each example and the tokens that the objective's search finds for it.

        Raises StoppedError after a signal.
        """
        for batch in self._batches():
            yield from search_batch(self.inference, self.params, batch)


def search_batch(inference: Inference, params: Params, batch: Arrays) -> Iterator[tuple[int, list[int]]]:
    """Iterates over the examples of a batch: the index, and the tokens that the search finds, without the end."""
    rows = np.asarray(inference.search(params, inference.parallel.put(batch))).tolist()
    data = inference.data
    assert isinstance(data, Ends)  # Inference.search refuses other data
    for index, row, weight in zip(batch["index"].tolist(), rows, batch["weights"], strict=True):
        if weight:
            yield index, row[: row.index(data.end)] if data.end in row else row


Measured = dict[str, tuple[float, float]]  # a value and the half width of its 95 % interval, by metric


def measure(inference: Inference, params: Params, stop: Callable[[], bool] = lambda: False) -> Measured | None:
    """Measures the objective's metrics and `metrics` on the test split; None if `stop` becomes true on the way."""
    parts = inference.evaluate(params, stop)
    if parts is None:
        return None
    measured = {name: compute_interval(sums) for name, sums in parts.items()}
    if not inference.metrics:
        return measured
    evidence = Trained(inference, params, {name: value for name, (value, _) in measured.items()}, stop=stop)
    try:
        for metric in inference.metrics:
            absent = dict.fromkeys(metric.names(inference.data), (math.nan, math.inf))
            values = absent | dict(metric.measure(evidence))
            measured |= {name: value for name, value in values.items() if name not in measured}
    except StoppedError:
        return None
    return None if stop() else measured
