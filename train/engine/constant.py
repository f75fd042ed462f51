"""Constant predictions: the simple baseline of an objective, fitted to the training part, measured on the test part."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from train.baselines import Baseline, Baselines, HasConstant
from train.contracts import Arrays, Evidence, Findings, Labelled
from train.disk import explain_failed_writes
from train.engine.evidence import Trained
from train.engine.prepared import Inference
from train.errors import InputError
from train.sums import Sums, add_sums, compute_means

FILE = "constant.npy"  # in the folder of a run, what its model was compared with
MOST = 300  # batches that a constant is fitted to, evenly spread over the training part


@runtime_checkable
class Derives(Protocol):
    """A review whose metrics follow from `measured` alone, so that a constant has them too, such as perplexity."""

    def derive_metrics(self, evidence: Evidence) -> dict[str, float]: ...


def fit_constant(inference: Inference, known: Baselines, measured: Mapping[str, object]) -> np.ndarray | None:
    """Fits the constant prediction of the objective to the training part.

    None if the objective has none, or if a measured metric has a baseline already.
    """
    objective = inference.experiment.objective
    if not isinstance(objective, HasConstant) or known.keys() & measured.keys():
        return None
    return np.asarray(objective.fit_constant(_read_targets(inference)), float)


def write_constant(folder: Path, constant: np.ndarray) -> None:
    """Keeps a constant prediction in the folder of its run."""
    with explain_failed_writes(folder):
        np.save(folder / FILE, constant, allow_pickle=False)


def read_constant(folder: Path) -> np.ndarray | None:
    """Reads the constant prediction that a finished run was compared with; None if there is none.

    Raises InputError for a file that cannot be read.
    """
    try:
        return np.load(folder / FILE, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{folder / FILE} is damaged ({error}); remove it, and the baseline is left out.") from None


def add_constant(trained: Trained, findings: Findings, constant: np.ndarray) -> Findings:
    """Adds a constant prediction to the findings, as the baseline of what is measured and of what follows from it."""
    experiment = trained.inference.experiment
    simple = measure_constant(trained.inference, constant)
    if isinstance(experiment.review, Derives):
        measured = {name: baseline.value for name, (baseline,) in simple.items()}
        derived = experiment.review.derive_metrics(dataclasses.replace(trained, measured=measured))
        (name,) = {baseline.name for (baseline,) in simple.values()}
        simple |= {metric: (Baseline(name, value),) for metric, value in derived.items()}
    return dataclasses.replace(findings, baselines={**simple, **findings.baselines})


def _read_targets(inference: Inference) -> Iterator[Arrays]:
    data, experiment = inference.data, inference.experiment
    if isinstance(data, Labelled) and data.classes:
        yield {"labels": data.labels("train")}  # without reading the examples
        return
    batches = data.batches("train", experiment.batch_size, 1, None)
    for step in range(0, len(batches), -(-len(batches) // MOST)):
        yield batches[step]


def measure_constant(inference: Inference, constant: np.ndarray) -> dict[str, tuple[Baseline, ...]]:
    """Measures a constant prediction on the test part, as a baseline by metric; of accuracy, more is better."""
    experiment, objective = inference.experiment, inference.experiment.objective
    if not isinstance(objective, HasConstant):
        return {}
    batches = inference.data.batches("test", experiment.evaluation.batch_size, 1, None)
    sums: Sums = {}
    for batch in batches.stream(0, len(batches)):
        part = objective.measure_constant(constant, batch)
        part = {name: total._replace(each=None) for name, total in part.items()}
        sums = add_sums(sums, part) if sums else part
    return {
        name: (Baseline(objective.constant, value, greater=name == "accuracy"),)
        for name, value in compute_means(sums).items()
    }
