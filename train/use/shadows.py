"""The likelihood-ratio attack: shadow models, trained with and without each example, say what its loss would be."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.contracts import Batch, Tree
from train.contracts import PART, Arrays, Dataset, Params
from train.data.poisson import join_rows
from train.engine.folder import Recorded
from train.engine.prepared import Prepared, prepare, reseed
from train.engine.step import make_sums
from train.sums import sum_by_example
from train.use.attack import Attack, measure_attack

TOGETHER = 8  # shadow models that are trained in one vmapped program, as far as memory is concerned


class Shadows(NamedTuple):
    """Shadow models' confidences in examples, (shadows, n), and who was trained on which, (shadows, n)."""

    confidences: np.ndarray
    trained: np.ndarray


def attack_by_shadows(
    run: Recorded,
    data: Dataset,
    params: Params,
    shadows: int,
    among: int,
    steps: int | None = None,
    delta: float = 0.0,
    seed: int = 0,
) -> Attack:
    """Attacks by the ratio of likelihoods of each example's confidence with and without it (LiRA, arXiv:2112.03570).

    The pool has up to `among` / 2 examples of each part; every one trains half of the shadow models, by the run's own
    step, for `steps` steps (the run's own number if None).
    """
    prepared = prepare(run.experiment, data)
    members, others = (_read_pool(data, part, among // 2, seed) for part in ("train", "test"))
    pool = join_rows([*members, *others], len(members) + len(others))
    made = train_shadows(prepared, pool, shadows, prepared.steps if steps is None else steps, seed)
    stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], params)
    ratios = compare_likelihoods(measure_confidences(prepared, stacked, pool)[0], made)
    return measure_attack(ratios[: len(members)], ratios[len(members) :], delta, seed)


def _read_pool(data: Dataset, part: PART, most: int, seed: int) -> list[Arrays]:
    """Reads examples of a part that the seed draws, each as a batch of one row."""
    alone = data.batches(part, 1, 1, None)
    taken = np.random.default_rng((seed, len(alone))).permutation(len(alone))[:most]
    return [alone[int(index)] for index in taken]


def train_shadows(prepared: Prepared, pool: Arrays, count: int, steps: int, seed: int) -> Shadows:
    """Trains shadow models, each on a random half of the pool, several at a time in one vmapped step."""
    chance = np.random.default_rng((seed, count))
    size = len(next(iter(pool.values())))
    ranks = np.stack([chance.permutation(count) for _ in range(size)], axis=1)  # each example is in half of the shadows
    trained = ranks < count // 2
    rows = prepared.experiment.batch_size
    step = jax.jit(jax.vmap(lambda state, batch: prepared.pure_step(state, batch)), donate_argnums=0)
    confidences: list[np.ndarray] = []
    for first in range(0, count, TOGETHER):
        group = trained[first : first + TOGETHER]
        states = [reseed(prepared, seed + 1 + first + number).begin().state for number in range(len(group))]
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        for _ in range(steps):
            drawn = [chance.choice(np.nonzero(inside)[0], rows, replace=inside.sum() < rows) for inside in group]
            state, _ = step(state, {name: value[np.stack(drawn)] for name, value in pool.items()})
        confidences.append(measure_confidences(prepared, state.params, pool))
    return Shadows(np.concatenate(confidences), trained)


def measure_confidences(prepared: Prepared, params: Tree, pool: Arrays) -> np.ndarray:
    """Measures log(p / (1 - p)), p = exp(-loss), of stacked parameters on a pool, (shadows, n).

    A loss that may be negative has -loss as its confidence.
    """
    experiment = prepared.experiment
    measure = make_sums(experiment.model, experiment.objective, experiment.precision)

    def average(params: Params, batch: Batch) -> jax.Array:
        each = measure(params, batch)[0]["loss"].each
        assert each is not None  # as open_parts requires
        values, weights = (sum_by_example(terms, batch).sum(1) for terms in each)
        return values / jnp.maximum(weights, 1e-9)

    averages = jax.jit(jax.vmap(average, in_axes=(0, None)))
    size, rows = len(next(iter(pool.values()))), prepared.experiment.evaluation.batch_size
    parts = [{name: value[at : at + rows] for name, value in pool.items()} for at in range(0, size, rows)]
    losses = np.concatenate([np.asarray(averages(params, part), np.float64) for part in parts], axis=1)
    if (losses < 0).any():
        return -losses
    return -losses - np.log(-np.expm1(-np.maximum(losses, 1e-7)))


def compare_likelihoods(confidence: np.ndarray, shadows: Shadows) -> np.ndarray:
    """Computes log N(c; in) - log N(c; out) of each example, (n,): means of its own, variances over all examples.

    Equation 4 of arXiv:2112.03570 with the global variances that it advises for few shadow models.
    """
    inside, values = shadows.trained, shadows.confidences
    logs = []
    for chosen in (inside, ~inside):
        number = chosen.sum(0)
        mean = np.where(chosen, values, 0).sum(0) / number
        squares = np.where(chosen, (values - mean) ** 2, 0).sum()
        variance = max(squares / max((number - 1).sum(), 1), 1e-12)
        logs.append(-((confidence - mean) ** 2) / (2 * variance) - np.log(variance) / 2)
    return logs[0] - logs[1]
