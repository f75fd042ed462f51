"""Features of a model's intermediate values: a sparse autoencoder trained on them, and what activates each feature."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch, Model, Tree
from models.inspect.autoencoder import Reconstruction, SparseAutoencoder
from models.inspect.intermediates import capture
from train.contracts import Optimizer, Params
from train.engine.step import initialise, make_step
from train.errors import InputError
from train.optimizers import AdamW, Constant
from train.sums import Sum, Sums, compute_means, sum_weighted

REVIVAL = 1 / 32  # the weight of the error that silent features model, as in the paper


class ReconstructionError:
    """|x - x'|^2 + |e - e'|^2 / 32, over the variance of x; e = x - x' has no gradient, e' is by silent features.

    Also `unexplained`, |x - x'|^2 over the variance, and `silent`, the share of features that no vector of the batch
    activates.  Gao et al. 2024, arXiv:2406.04093, section 2.4 and appendix A.2.
    """

    def __init__(self, variance: float = 1.0) -> None:
        self.variance = variance

    def __call__(self, outputs: Reconstruction, batch: Batch) -> Sums:
        error = batch["values"] - outputs.values
        squared = jnp.square(error).sum(-1) / self.variance
        revival = jnp.square(jax.lax.stop_gradient(error) - outputs.error).sum(-1) / self.variance
        silent = ~(outputs.codes > 0).any(0)
        return {
            "loss": sum_weighted(squared + REVIVAL * revival, None),
            "unexplained": sum_weighted(squared, None),
            "silent": Sum(silent.sum(dtype=jnp.float32), jnp.float32(silent.size)),
        }

    def answer(self, output: Tree, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
        """The codes of the features that a vector activates, largest first."""
        del names
        codes = np.asarray(output.codes)
        return {"features": {str(index): float(codes[index]) for index in np.argsort(-codes) if codes[index] > 0}}


class Trained(NamedTuple):
    """Parameters of an autoencoder, and its metrics by step: loss, unexplained, silent, gradient_norm, (steps,)."""

    params: Params
    history: dict[str, np.ndarray]


class TopExamples(NamedTuple):
    """The largest codes of each feature (f, n), largest first, and where: batch, row and token (f, n, 3).

    A code of 0 is of no token.
    """

    codes: np.ndarray
    tokens: np.ndarray


def capture_vectors(model: Model, params: Params, batches: Iterable[Batch], path: str) -> Iterator[np.ndarray]:
    """Captures the vectors (n, d) at a path, a batch at a time, without tokens of segment 0.

    Raises InputError if the path names several values, or one that is no array (..., d).
    """
    for values, present in _capture(model, params, batches, path):
        yield values[present]


def train_autoencoder(
    autoencoder: SparseAutoencoder,
    vectors: np.ndarray,
    steps: int,
    batch_size: int = 1024,
    optimizer: Optimizer | None = None,
    seed: int = 0,
) -> Trained:
    """Trains an autoencoder on vectors (n, d), drawn anew for each step; by default with Adam at a rate of 0.001.

    Raises InputError for fewer than two different vectors.
    """
    variance = float(vectors.var(0).sum(dtype=np.float64)) if len(vectors) else 0.0
    if not 0 < variance < np.inf:
        raise InputError(f"{len(vectors)} vectors have a variance of {variance}; give two different ones or more.")
    optimizer = AdamW(Constant(1e-3), decay=0.0, clip=None) if optimizer is None else optimizer

    def draw(step: int) -> dict[str, np.ndarray]:
        rows = np.random.default_rng((seed, step)).integers(0, len(vectors), batch_size)
        return {"values": vectors[rows].astype(np.float32)}

    params = autoencoder.init(jax.random.key(seed), {"values": jnp.asarray(draw(0)["values"])})["params"]
    transform = optimizer.build(steps, params)
    train_step = jax.jit(make_step(autoencoder, ReconstructionError(variance), transform), donate_argnums=0)
    state, history = initialise(params, transform, seed), []
    for step in range(steps):
        state, sums = train_step(state, draw(step))
        history.append(compute_means(sums))
    return Trained(state.params, {name: np.array([each[name] for each in history]) for name in history[0]})


def find_top_examples(
    autoencoder: SparseAutoencoder,
    weights: Params,
    model: Model,
    params: Params,
    batches: Iterable[Batch],
    path: str,
    count: int = 10,
) -> TopExamples:
    """Finds the tokens with the largest code of each feature, `count` of them, in all batches."""
    encode = jax.jit(autoencoder.encode)
    codes = np.zeros((autoencoder.features, count))
    tokens = np.zeros((autoencoder.features, count, 3), int)
    for number, (values, present) in enumerate(_capture(model, params, batches, path)):
        fresh = np.where(present[..., None], np.asarray(encode(weights, values)), 0).reshape(-1, autoencoder.features)
        most = np.argsort(-fresh, axis=0, kind="stable")[:count].T
        row, token = np.divmod(most, present[0].size)
        codes = np.concatenate([codes, np.take_along_axis(fresh.T, most, 1)], 1)
        tokens = np.concatenate([tokens, np.stack([np.full_like(row, number), row, token], -1)], 1)
        best = np.argsort(-codes, axis=1, kind="stable")[:, :count]
        codes, tokens = np.take_along_axis(codes, best, 1), np.take_along_axis(tokens, best[..., None], 1)
    return TopExamples(codes, tokens)


def _capture(
    model: Model, params: Params, batches: Iterable[Batch], path: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Captures the values (b, ..., d) at a path, and which of them are of a token that is there, (b, ...)."""
    run = jax.jit(lambda params, batch: capture(model, params, batch, path))
    for batch in batches:
        values = run(params, {name: jnp.asarray(value) for name, value in batch.items()})
        (value,) = values.values() if len(values) == 1 else (None,)
        if not isinstance(value, jax.Array) or value.ndim < 2:
            raise InputError(
                f"The path {path!r} names {', '.join(values)}; give a path of one array of vectors (..., d)."
            )
        present = np.ones(value.shape[:-1], bool)
        if "segments" in batch and batch["segments"].shape == present.shape:
            present = np.asarray(batch["segments"]) > 0
        yield np.asarray(value), present
