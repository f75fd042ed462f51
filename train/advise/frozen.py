"""Frozen features: the mean last hidden vector of a pretrained model, with a linear head of its own."""

import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.contracts import Batch
from models.transformer import Transformer
from train.advise.examples import HeldOut
from train.advise.measured import Measured
from train.advise.problem import Problem
from train.advise.terms import FEATURES
from train.contracts import Dataset, Params
from train.experiment import Experiment

NAME = "MiniLM features, linear"
BATCH = 64  # texts
FEWEST = 200  # texts to train on


Embed = Callable[[Dataset, Sequence[str]], np.ndarray]  # (data, texts) -> features (n, d)


def load_features(experiment: Experiment) -> Embed:
    """Loads the pretrained model of an experiment, without its head: texts -> mean last hidden vectors (n, d)."""
    model, initial = experiment.model, experiment.initial
    assert isinstance(model, Transformer)
    assert initial is not None
    body = model.clone(head=None)
    params = initial.load(body, jax.random.key(0)).params

    @jax.jit
    def pool(params: Params, batch: Batch) -> jax.Array:
        hidden = body.apply({"params": params}, batch)
        assert isinstance(hidden, jax.Array)
        present = (batch["segments"] > 0)[..., None]
        return (hidden * present).sum(1) / jnp.maximum(present.sum(1), 1)

    def embed(data: Dataset, texts: Sequence[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # texts of a batch are of like length
        batches = data.questions([texts[index] for index in order], BATCH, 1)
        rows = [np.asarray(pool(params, dict(batch))) for batch in batches.stream(0, len(batches))]
        features = np.concatenate(rows)[: len(texts)]
        return features[np.argsort(order)]

    return embed


def list_heads(task: str) -> dict[str, BaseEstimator]:
    """Lists the estimators on frozen features."""
    head = LogisticRegression(C=0.1, max_iter=1000) if task == "text classes" else Ridge(100.0)
    return {NAME: make_pipeline(StandardScaler(), head)}


def measure_frozen(
    problem: Problem, experiment: Experiment, data: Dataset, texts: HeldOut, seconds: float, say: Callable[[str], None]
) -> tuple[list[Measured], dict[str, str], HeldOut | None]:
    """Measures linear heads on frozen features of texts, of as many to train on as the seconds allow.

    Returns what was measured, the reasons why others were not, and the examples as features.
    """
    heads = list_heads(problem.task)
    if (reason := problem.limits.refuse(FEATURES)) is not None:
        return [], dict.fromkeys(heads, reason), None
    embed = load_features(experiment)
    few = list(texts.test[0][:BATCH])
    embed(data, few)  # compiles
    began = time.perf_counter()
    embed(data, few)
    each = (time.perf_counter() - began) / len(few)
    count = int(min(len(texts.train[1]), seconds / each - len(texts.test[1])))
    if count < min(len(texts.train[1]), FEWEST):
        return [], dict.fromkeys(heads, f"a text takes {each:.3g} s, for which --hours leave too little time"), None
    say(f"{NAME}: {count} texts to train on, about {each * (count + len(texts.test[1])):.0f} s")
    train, test = embed(data, list(texts.train[0][:count])), embed(data, list(texts.test[0]))
    pairs = (train, texts.train[1][:count]), (test, texts.test[1])
    examples = HeldOut(*pairs, texts.score, "frozen", each, each * count)
    return [examples.measure(name, head) for name, head in heads.items()], {}, examples
