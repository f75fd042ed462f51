"""Quantisation of delivered weights to 8 bits, and the metrics of a run computed by a delivered program."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import TypedDict

import jax
import numpy as np

from models.backend.platform import compile_for
from models.contracts import Batch, Tree
from models.paths import path_name
from models.products import trace_sums
from models.roles import roles_of
from models.words import join
from train.contracts import Params, Searches
from train.engine.evidence import measure
from train.engine.prepared import Inference
from train.engine.step import make_outputs
from train.errors import InputError
from train.parallel import Jit
from train.summary import Measured, list_measured
from train.sums import compute_moments
from train.use.delivery import SHOWN, Axes, Delivery, Program, name_outputs

METHODS = {
    "int8": "matrices in int8, with a scale for each output and 128 inputs; products are in the precision of the run",
    "dynamic": "matrices in int8, and the activations that meet them too, with scales found as the model runs",
}


class Quantized(TypedDict):
    """The method, bytes of the run's weights and of the files, and metrics of the run and of what is delivered."""

    method: str
    weights: int
    written: int
    metrics: dict[str, dict[str, Measured]]


def require_method(name: str, method: str, offered: Collection[str], others: Mapping[str, Collection[str]]) -> None:
    """Raises InputError unless the format `name` offers a method; `others` are the methods of all formats."""
    if method not in METHODS:
        raise InputError(f"--quantize is {method!r}, which is no method; give one of {join(METHODS)}.")
    if method not in offered:
        able = " or ".join(other for other, methods in others.items() if method in methods)
        raise InputError(
            f"--to {name} holds no weights quantised by {method}; export to {able}, or leave --quantize out."
        )


def quantize(delivery: Delivery, method: str) -> Delivery:
    """Quantises what a run delivers.  Raises InputError if it has no matrix, or one that is not finite."""
    shared = find_shared(delivery)
    if not shared:
        raise InputError("The model has no matrix to quantise; leave --quantize out.")
    if wrong := [path for path in shared if not np.isfinite(delivery.weights[path]).all()]:
        raise InputError(f"{wrong[0]} holds numbers that are not finite and cannot be quantised; train the run anew.")
    return dataclasses.replace(delivery, method=method, shared=shared if method == "int8" else {})


def find_shared(delivery: Delivery) -> dict[str, Axes]:
    """Finds matrices, by path, with the axes that one scale is shared over: those that products sum over.

    Of a table whose rows are looked up it is the last axis.  A matrix is a parameter that weight decay shrinks by
    default, so what only shifts, scales or sets rates stays as it is.
    """
    model, shapes, batch = delivery.experiment.model, delivery.inference.shapes, delivery.inference.batch
    with compile_for("cpu"):  # its programs have no opaque kernels
        summed, lost = trace_sums(lambda params, batch: model.apply({"params": params}, batch), shapes, dict(batch))
    leaves = zip(
        jax.tree_util.tree_leaves_with_path(shapes),
        jax.tree.leaves(roles_of(model, batch)),
        jax.tree.leaves(summed, is_leaf=lambda axes: isinstance(axes, frozenset)),
        jax.tree.leaves(lost),
        strict=True,
    )
    return {
        path_name(path): tuple(sorted(axes)) or ((-1,) if looked_up else (-2,))
        for (path, _), role, axes, looked_up in leaves
        if role.decay
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Programmed(Inference):
    """An inference whose outputs are those of a delivered program, whatever the parameters; it searches nothing."""

    program: Program = dataclasses.field(kw_only=True)

    @functools.cached_property
    def outputs(self) -> Callable[[Params, Batch], Tree]:
        """(params, batch) -> outputs of the program."""
        model = make_outputs(self.experiment.model, self.experiment.precision)
        shapes = jax.eval_shape(model, self.shapes, self.batch)
        names, structure = name_outputs(shapes), jax.tree.structure(shapes)

        def outputs(params: Params, batch: Batch) -> Tree:
            del params
            named = self.program({name: np.asarray(value) for name, value in batch.items()})
            return structure.unflatten([named[name] for name in names])

        return outputs

    @functools.cached_property
    def evaluation(self) -> Callable[[Params, Batch], dict[str, Tree]]:
        """(params, batch) -> moments of each metric of the objective."""

        @jax.jit
        def evaluate(outputs: Tree, batch: Batch) -> dict[str, Tree]:
            sums = self.experiment.objective(outputs, batch)
            return {name: compute_moments(total._replace(each=None), total.each, batch) for name, total in sums.items()}

        return lambda params, batch: evaluate(self.outputs(params, batch), batch)


def measure_program(delivery: Delivery, program: Program, symbols: Collection[str]) -> dict[str, Measured]:
    """Measures the metrics of a run on its test split by a program, but for those of a search over many passes."""
    inference, experiment = delivery.inference, delivery.experiment
    rows = experiment.evaluation.batch_size if "b" in symbols else min(SHOWN, delivery.sizes["b"])
    evaluation = dataclasses.replace(experiment.evaluation, batch_size=rows)
    measured = measure(
        Programmed(
            dataclasses.replace(experiment, evaluation=evaluation, parallel=Jit()),
            inference.data,
            inference.batch,
            inference.shapes,
            () if isinstance(experiment.objective, Searches) else inference.metrics,
            program=program,
        ),
        delivery.params,
    )
    assert measured is not None
    return list_measured(measured)


def describe_quantized(delivery: Delivery, program: Program, symbols: Collection[str], written: int) -> Quantized:
    """Describes what quantisation saves in bytes and costs in the metrics of the run, on its test split."""
    metrics = {"run": measure_program(delivery, delivery.compute, symbols)}
    metrics["delivered"] = measure_program(delivery, program, symbols)
    return {
        "method": delivery.method,
        "weights": sum(leaf.nbytes for leaf in jax.tree.leaves(delivery.params)),
        "written": written,
        "metrics": {name: {who: values[name] for who, values in metrics.items()} for name in metrics["run"]},
    }
