"""Training examples behind an answer: the nearest ones, and those that moved its score most."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch, Model
from models.head.chunked import compute_logits
from models.inspect.influence import measure_influence
from models.inspect.intermediates import capture
from train.contracts import Arrays, Dataset, Params, Scheduled, Shows
from train.engine.checkpoint import Store
from train.engine.folder import Recorded
from train.engine.prepared import Inference
from train.engine.step import make_sums
from train.errors import InputError
from train.optimizers import Constant
from train.page import Figure
from train.sums import sum_by_example

HIDDEN = "head:input"
LARGEST = 50_000_000  # parameters of a model whose influences are measured


@dataclasses.dataclass(frozen=True)
class Example:
    """A training example with its cosine or its influence, and its label if it has one."""

    value: float
    example: str | Figure
    label: str


@dataclasses.dataclass(frozen=True)
class Examples:
    """The first of `compared` training examples, if `whole` of all; `missing` says why there are none.

    `checkpoints` are the steps whose gradients were used.
    """

    first: tuple[Example, ...] = ()
    compared: int = 0
    whole: bool = False
    missing: str = ""
    checkpoints: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Training:
    """The training part of a run's data; `among` of its examples are read."""

    data: Dataset
    among: int

    def measure(self, compute: Callable[[Batch], jax.Array | np.ndarray]) -> tuple[list[tuple[float, int, str]], bool]:
        """Computes a number for each example, (b, n) for a batch: numbers, indices and labels, and if that is all."""
        scored: list[tuple[float, int, str]] = []
        batches = self.data.batches("train", min(self.among, 32), 1, None)
        step = 0
        for step in range(len(batches)):
            batch = batches[step]
            values = np.asarray(compute({name: jnp.asarray(value) for name, value in batch.items()}), np.float64)
            scored += self._list(batch, values)
            if len(scored) >= self.among:
                break
        return scored[: self.among], len(scored) <= self.among and step == len(batches) - 1

    def _list(self, batch: Arrays, values: np.ndarray) -> Iterator[tuple[float, int, str]]:
        weights = batch.get("weights", np.ones(values.shape))
        if weights.shape != values.shape:  # of tokens
            weights = weights.reshape(len(values), -1).max(1, keepdims=True)
        index = np.broadcast_to(batch["index"].reshape(len(values), -1)[:, : weights.shape[1]], weights.shape)
        labels = batch.get("labels")
        labels = None if labels is None or labels.size != weights.size else labels.reshape(weights.shape)
        for row in zip(*np.nonzero(weights > 0), strict=True):
            label = "" if labels is None or not self.data.classes else self.data.classes[int(labels[row])]
            yield float(values[row]), int(index[row]), label

    def show(self, chosen: list[tuple[float, int, str]]) -> tuple[Example, ...]:
        """The examples at these indices."""
        assert isinstance(self.data, Shows)
        return tuple(Example(value, self.data.show_example("train", index), label) for value, index, label in chosen)


def open_training(run: Recorded, among: int) -> Training | str:
    """Opens the training part of a run's data; a sentence if it cannot be read or shows no examples."""
    try:
        opened = run.experiment.data.open(run.classes)
    except (InputError, OSError) as error:
        return f"the training data cannot be read: {error}"
    if not isinstance(opened, Shows):
        return f"{type(run.experiment.data).__name__} shows no examples"
    return Training(opened, among)


def find_neighbours(training: Training, model: Model, params: Params, question: Batch, nearest: int) -> Examples:
    """Finds the training examples whose mean last hidden vector has the largest cosine with the question's."""

    @jax.jit
    def represent(params: Params, batch: Batch) -> jax.Array:
        """The mean hidden vector of each example, (b, n, d)."""
        (hidden,) = capture(model, params, batch, HIDDEN).values()
        if "segments" not in batch:
            return hidden.mean(1, keepdims=True)
        member = (batch["segments"][:, None] == jnp.arange(1, _count_slots(batch) + 1)[:, None]).astype(hidden.dtype)
        return member @ hidden / jnp.maximum(member.sum(-1, keepdims=True), 1)

    def compare(batch: Batch) -> np.ndarray:
        vectors = np.asarray(represent(params, batch), np.float64)
        return vectors @ own / np.maximum(np.linalg.norm(vectors, axis=-1) * np.linalg.norm(own), 1e-12)

    try:
        own = np.asarray(represent(params, question), np.float64)[0, 0]
        scored, whole = training.measure(compare)
    except (LookupError, ValueError) as error:
        return Examples(missing=str(error))
    return Examples(training.show(sorted(scored, reverse=True)[:nearest]), len(scored), whole)


def _count_slots(batch: Batch) -> int:
    """Counts the examples that a row has room for."""
    return batch["starts"].shape[1] if "starts" in batch else 1


def find_influential(
    folder: Path,
    inference: Inference,
    training: Training,
    question: Batch,
    score: Callable[[jax.Array], jax.Array],
    count: int,
) -> Examples:
    """Finds the training examples that moved the score of an answer most, up or down, by TracIn over checkpoints.

    The influence of an example is sum_k rate_k (-grad s . grad l) over the kept checkpoints k, with the loss l of the
    example and the learning rate of the checkpoint's step: what a step of plain gradient descent on it would have
    added to the score.
    """
    experiment = inference.experiment
    size = sum(leaf.size for leaf in jax.tree.leaves(inference.shapes))
    if size > LARGEST:
        return Examples(missing=f"the model has {size:,} parameters, and influences are for at most {LARGEST:,}")
    model, measure = experiment.model, make_sums(experiment.model, experiment.objective)

    @jax.jit
    def compute(params: Params, batch: Batch) -> jax.Array:
        def losses(params: Params) -> jax.Array:
            each = measure(params, batch)[0]["loss"].each
            if each is None:
                raise ValueError(f"the loss of {type(experiment.objective).__name__} does not tell examples apart")
            values = sum_by_example(each.values, batch)
            return values if values.shape[1] == 1 else values[:, 1 : _count_slots(batch) + 1]

        return measure_influence(
            lambda params: score(compute_logits(model.apply({"params": params}, question))), losses, params
        )

    total: dict[tuple[int, str], float] = {}
    whole = False
    rate = experiment.optimizer.rate if isinstance(experiment.optimizer, Scheduled) else Constant(1.0)
    schedule = rate.build(experiment.count_steps(len(training.data.batches("train", experiment.batch_size, 1, 0))))
    watched = experiment.evaluation
    try:
        with Store(folder / "checkpoints", metric=watched.metric, greater=watched.greater, reading=True) as store:
            steps = tuple(sorted(store.list_steps()))
            for step in steps:
                params = inference.parallel.whole(
                    store.restore_params(inference.parallel.logical(inference.shapes), step)
                )
                scored, whole = training.measure(lambda batch, params=params: compute(params, batch))
                for value, index, label in scored:
                    key = index, label
                    total[key] = total.get(key, 0.0) + float(np.asarray(schedule(step - 1))) * value
    except (LookupError, ValueError, TypeError) as error:
        return Examples(missing=str(error))
    ranked = sorted(
        ((value, index, label) for (index, label), value in total.items()), key=lambda entry: -abs(entry[0])
    )
    return Examples(training.show(ranked[:count]), len(total), whole, checkpoints=steps)
