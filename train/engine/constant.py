"""Constant predictions: the simple baseline of an objective, fitted to the training part, measured on the test part."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from train.baselines import Baseline, Baselines, HasConstant
from train.contracts import Arrays, Labelled
from train.engine.prepared import Inference
from train.sums import Sums, add_sums, compute_means

MOST = 300  # batches that a constant is fitted to, evenly spread over the training part


def fit_constant(inference: Inference, known: Baselines, measured: Mapping[str, object]) -> list[float] | None:
    """Fits the constant prediction of the objective to the training part.

    None if the objective has none, or if a measured metric has a baseline already.
    """
    objective = inference.experiment.objective
    if not isinstance(objective, HasConstant) or known.keys() & measured.keys():
        return None
    return np.asarray(objective.fit_constant(_read_targets(inference)), float).tolist()


def _read_targets(inference: Inference) -> Iterator[Arrays]:
    data, experiment = inference.data, inference.experiment
    if isinstance(data, Labelled) and data.classes:
        yield {"labels": data.labels("train")}  # without reading the examples
        return
    batches = data.batches("train", experiment.batch_size, 1, None)
    for step in range(0, len(batches), -(-len(batches) // MOST)):
        yield batches[step]


def measure_constant(inference: Inference, constant: Sequence[float]) -> dict[str, tuple[Baseline, ...]]:
    """Measures a constant prediction on the test part, as a baseline by metric; of accuracy, more is better."""
    experiment, objective = inference.experiment, inference.experiment.objective
    if not isinstance(objective, HasConstant):
        return {}
    batches = inference.data.batches("test", experiment.evaluation.batch_size, 1, None)
    sums: Sums = {}
    for batch in batches.stream(0, len(batches)):
        part = objective.measure_constant(np.asarray(constant), batch)
        part = {name: total._replace(each=None) for name, total in part.items()}
        sums = add_sums(sums, part) if sums else part
    return {
        name: (Baseline(objective.constant, value, greater=name == "accuracy"),)
        for name, value in compute_means(sums).items()
    }
