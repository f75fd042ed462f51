"""Refusals of differential privacy: settings by which examples would decide more of a run than its noisy gradients."""

import math
import os
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from models.structure import part
from train.contracts import Counted, Dataset, Roles, WeighsClasses
from train.errors import InputError
from train.experiment import Experiment
from train.optimizers.private import Protects


def require_private(experiment: Experiment, data: Dataset, example: Mapping[str, np.ndarray]) -> None:
    """Raises InputError for a setting by which a private run would leak what its guarantee says it hides.

    `example` is a batch of one example.
    """
    if isinstance(experiment.optimizer, Protects):
        for said in _find_leaks(experiment, data, example):
            raise InputError(f"The optimizer {type(experiment.optimizer).__name__} {said}.")


def require_apart(experiment: Experiment, uncertain: tuple[str, ...], roles: Roles) -> None:
    """Raises InputError for an objective or a model that joins the examples of a batch in what it is trained by."""
    if not isinstance(experiment.optimizer, Protects):
        return
    name, objective = type(experiment.optimizer).__name__, type(experiment.objective).__name__
    if "loss" in uncertain:
        raise InputError(
            f"The optimizer {name} clips the gradient of each example, and {objective} gives its loss without `each`,"
            " so that it may compare examples; make it by train.sums.sum_weighted(values, weights)."
        )
    if any(role.step is not None for role in jax.tree.leaves(roles)):
        raise InputError(
            f"The optimizer {name} hides each example, and the experts are balanced by counts over the batch, without"
            " noise; use a router without an update of its own, such as SoftmaxRouter."
        )


def _find_leaks(experiment: Experiment, data: Dataset, example: Mapping[str, np.ndarray]) -> Iterator[str]:
    watched = experiment.evaluation
    for setting, value in (("patience", watched.patience), ("goal", watched.goal)):
        if value is not None:
            yield (
                "accounts for a number of steps that the data does not decide, and evaluation."
                f"{setting}={value:g} lets it; set evaluation.{setting}=none"
            )
    if "starts" in example:
        yield "clips the gradient of each row, and data.pack joins several examples in a row; set data.pack=false"
    if "index" not in example and not isinstance(data, Counted):
        yield "protects a fixed set of examples, and this data is made anew at each step; train without it"
    if _get(experiment, "data.balance"):
        yield (
            "takes all examples with one probability, and data.balance draws those of classes that are rare in the"
            " private data more often; set data.balance=0"
        )
    if isinstance(experiment.objective, WeighsClasses) and experiment.objective.class_weights is not None:
        yield (
            "weighs all examples alike, and objective.class_weights weighs them by their private labels; set"
            " objective.class_weights=none"
        )
    if experiment.groups is not None:
        yield (
            f"weighs all examples alike, and groups={type(experiment.groups).__name__} weighs them by losses of their"
            " groups, to which no noise is added; set groups=none"
        )
    for setting in ("mixup", "cutmix"):
        if _get(experiment, f"data.augment.{setting}"):
            yield (
                f"clips the gradient of each example, and data.augment.{setting} mixes examples; set"
                f" data.augment.{setting}=0"
            )
    if str(tokenizer := _get(experiment, "data.tokenizer")).startswith("bpe:"):
        yield (
            f"hides each text, and data.tokenizer={tokenizer} learns its tokens from them; set data.tokenizer=bytes, or"
            " to a tokenizer.json made from public texts"
        )
    if data.classes and _get(experiment, "data.path") is not None and _get(experiment, "data.labels") == ():
        listed = f"{data.classes!r}".replace(" ", "")
        yield f'hides each example, and the classes are read off their labels; list them: "data.labels={listed}"'


def draw_key(like: jax.Array | jax.ShapeDtypeStruct) -> np.ndarray:
    """Draws key data of a shape from the system's entropy."""
    return np.frombuffer(os.urandom(math.prod(like.shape) * like.dtype.itemsize), like.dtype).reshape(like.shape)


def _get(experiment: Experiment, path: str) -> object:
    """A setting, None if there is none of the name."""
    try:
        return part(experiment, path)
    except LookupError:
        return None
