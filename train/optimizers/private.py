"""Differential privacy: gradients clipped example by example, summed, and hidden in Gaussian noise."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from models.contracts import Batch, Tree
from models.paths import map_paths, path_name, select
from train.contracts import Optimizer, Params, Roles, Schedule, Scheduled
from train.errors import InputError
from train.optimizers.accounting import (
    Ledger,
    add_steps,
    compute_epsilon,
    count_affordable,
    find_noise,
    require_accounting,
)
from train.optimizers.ghost import Ghosts, find_ghosts
from train.optimizers.transforms import build, require_clip
from train.sums import Sum, Sums

Loss = Callable[..., tuple[jax.Array, Sums]]  # (params, batch, rng) -> (the summed loss, all sums)
NOISE = 0x6E6F6973  # folded into the key of a step, so that its noise is no other draw of it
TOKENS = ("tokens", "segments", "positions")  # what a batch has of each token of a row
SHORTEST = 32  # tokens of rows whose padding is worth another compiled length
SHARES = (0.4, 0.6)  # of the length of a batch, that shorter rows are cut to
LOGGED = 32  # values of epsilon over a run that its log can have


@runtime_checkable
class Freezes(Protocol):
    """An optimizer that leaves parameters whose path matches a pattern as they are."""

    @property
    def freeze(self) -> tuple[str, ...]: ...


@dataclasses.dataclass(frozen=True)
class Guarantee:
    """A run's (epsilon, delta)-differential privacy: how its steps clip, add noise, and are accounted for.

    Data sets are neighbours if one of them has an example more.  A step takes each of `examples` examples with
    probability `share` and adds N(0, (noise clip)^2) to the sum of the clipped gradients.  `limit` is the epsilon at
    which training stops, if any.
    """

    noise: float
    clip: float
    delta: float
    limit: float | None
    examples: int
    batch_size: int
    steps: int
    chunk: int = 8
    freeze: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The probability that a step takes an example."""
        return self.batch_size / self.examples

    def clip_examples(self, loss: Loss) -> Callable[..., tuple[tuple[jax.Array, Sums], Params]]:
        """Makes (params, batch, rng) -> ((loss, sums), the sum over examples i of g_i min(1, clip / |g_i|)).

        g_i is the gradient of the loss of row i alone, divided by its own weight, so that the model and the objective
        see one row at a time, whatever they compute over a batch.  A row without weight, and a gradient that is not
        finite, add nothing.  `clipped` is the share of examples whose gradient was longer than the bound.

        Where one product each reads most of the parameters, |g_i| is computed first, without g_i (see
        `train.optimizers.ghost`), and then the gradient of the weighed sum of several rows; what is held for each of
        them is never more than `chunk` gradients.  Otherwise `chunk` gradients are held at once.
        """
        frozen = select(self.freeze)

        def mask(grads: Params) -> Params:
            return map_paths(lambda path, grad: jnp.zeros_like(grad) if frozen(path) is not None else grad, grads)

        def gradient(params: Params, row: Batch, rng: jax.Array) -> tuple[tuple[jax.Array, Sums], Params]:
            (total, sums), grads = jax.value_and_grad(loss, has_aux=True)(params, _as_batch(row), rng)
            weight = _get_weight(sums)
            grads = jax.tree.map(lambda grad: grad / jnp.maximum(weight, 1e-9), mask(grads))
            norm = optax.tree.norm(grads)
            factor = self._scale(norm, weight)
            grads = jax.tree.map(lambda grad: jnp.where(factor > 0, grad * factor, 0.0), grads)
            return (total, self._note(sums, norm, weight)), grads

        def sum_held(params: Params, batch: Batch, rngs: jax.Array) -> tuple[tuple[jax.Array, Sums], Params]:
            each = jax.vmap(gradient, in_axes=(None, 0, 0))(params, batch, rngs)
            return jax.tree.map(lambda leaf: leaf.sum(0), each)

        def sum_weighed(params: Params, batch: Batch, rngs: jax.Array) -> tuple[tuple[jax.Array, Sums], Params]:
            ghosts = find(params, batch, rngs[0])
            (totals, sums), squares = jax.vmap(lambda row, rng: ghosts.compute_norm(params, _as_batch(row), rng))(
                batch, rngs
            )
            weights = _get_weight(sums)
            norms = jnp.sqrt(squares) / jnp.maximum(weights, 1e-9)
            factors = self._scale(norms, weights) / jnp.maximum(weights, 1e-9)
            # what is not finite would make the sum so, also times 0: a row whose gradient is finite stands in for it
            finite = jnp.isfinite(norms)
            one = finite.argmax()
            batch, rngs = jax.tree.map(
                lambda leaf: jnp.where(finite.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, leaf[one]), (batch, rngs)
            )

            def weigh(params: Params) -> jax.Array:
                each = jax.vmap(lambda row, rng: loss(params, _as_batch(row), rng)[0])(batch, rngs)
                return (each * factors).sum()

            grads = jax.tree.map(lambda grad: jnp.where(finite.any(), grad, 0.0), mask(jax.grad(weigh)(params)))
            return jax.tree.map(lambda leaf: leaf.sum(0), (totals, jax.vmap(self._note)(sums, norms, weights))), grads

        def find(params: Params, batch: Batch, rng: jax.Array) -> Ghosts:
            skip = [frozen(path_name(path)) is not None for path, _ in jax.tree.leaves_with_path(params)]
            return find_ghosts(loss, params, _as_batch({name: value[0] for name, value in batch.items()}), rng, skip)

        def sum_rows(params: Params, batch: Batch, rng: jax.Array) -> tuple[tuple[jax.Array, Sums], Params]:
            rngs = jax.random.split(rng, len(next(iter(batch.values()))))
            whole = sum(leaf.size for leaf in jax.tree.leaves(params))
            direct = find(params, batch, rng).count_direct(params)
            if 2 * direct > whole:
                return _sum_parts(functools.partial(sum_held, params), (dict(batch), rngs), self.chunk)
            most = self.chunk * min(4, whole // max(direct, 1))
            return _sum_parts(functools.partial(sum_weighed, params), (dict(batch), rngs), most)

        return sum_rows

    def _scale(self, norm: jax.Array, weight: jax.Array) -> jax.Array:
        """The factor of a gradient: 0 without weight, and if it is not finite."""
        factor = jnp.minimum(1.0, self.clip / jnp.maximum(norm, 1e-30))
        return jnp.where((weight > 0) & jnp.isfinite(norm), factor, 0.0)

    def _note(self, sums: Sums, norm: jax.Array, weight: jax.Array) -> Sums:
        counted = (weight > 0).astype(jnp.float32)
        return sums | {"clipped": Sum(counted * (norm > self.clip), counted)}

    def release(self, grads: Params, key: jax.Array) -> Params:
        """(sum + N(0, (noise clip)^2)) / batch_size: the mean gradient that leaves a step, of the expected batch.

        That of frozen parameters is zero and stays so.
        """
        frozen, structure = select(self.freeze), jax.tree.structure(grads)
        keys = list(jax.random.split(jax.random.fold_in(key, NOISE), structure.num_leaves))

        def hide(path: str, grad: jax.Array, key: jax.Array) -> jax.Array:
            if frozen(path) is not None:
                return grad
            return (grad + self.noise * self.clip * jax.random.normal(key, grad.shape, grad.dtype)) / self.batch_size

        return map_paths(hide, grads, jax.tree.unflatten(structure, keys))


def _as_batch(row: Batch) -> Batch:
    return {name: value[None] for name, value in row.items()}


def _get_weight(sums: Sums) -> jax.Array:
    return jnp.asarray(sums["loss"].weight, jnp.float32)


def _sum_parts(add: Callable[..., Tree], inputs: tuple[dict[str, jax.Array], jax.Array], most: int) -> Tree:
    """Sums what `add` gives for up to `most` rows at a time.

    Of sentences, a part takes rows of a like length, and is cut to one of few lengths that holds the longest.
    """
    rows = len(inputs[1])
    parts = rows // next(size for size in range(min(most, rows), 0, -1) if rows % size == 0)
    # A part takes one row of every `parts` that follow each other, so that rows stay on the device that holds them.
    split = jax.tree.map(lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]), inputs)
    cuts, counts = _choose_cuts(split[0]), jnp.zeros((), jnp.int32)
    if len(cuts) > 1:
        t = cuts[-1]
        lengths = jnp.where(split[0]["segments"] > 0, jnp.arange(1, t + 1), 0).max(-1)
        order = lengths.argsort(axis=1)
        split = jax.tree.map(jax.vmap(lambda leaf, row: leaf[row]), split, jax.tree.map(lambda _: order, split))
        counts = jnp.searchsorted(jnp.asarray(cuts), jnp.sort(lengths, axis=1).max(0))

    def add_cut(length: int, batch: dict[str, jax.Array], rngs: jax.Array) -> Tree:
        return add({name: value[:, :length] if name in TOKENS else value for name, value in batch.items()}, rngs)

    def add_part(sums: Tree, part: tuple[Tree, jax.Array]) -> tuple[Tree, None]:
        inputs, cut = part
        branches = [functools.partial(add_cut, length) for length in cuts]
        return jax.tree.map(jnp.add, sums, jax.lax.switch(cut, branches, *inputs) if branches else add(*inputs)), None

    split = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), split)
    shapes = jax.eval_shape(add, *jax.tree.map(lambda leaf: leaf[0], split))
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add_part, empty, (split, jnp.broadcast_to(counts, parts)))[0]


def _choose_cuts(batch: Mapping[str, jax.Array]) -> list[int]:
    """The lengths that parts of a batch of padded sentences, (n, parts, t), are cut to; none for other batches.

    Windows of a text have no weights, and no padding.
    """
    if not {"weights", *TOKENS} <= set(batch):
        return []
    t = batch["segments"].shape[2]
    if t < SHORTEST or any(value.shape[2:3] == (t,) for name, value in batch.items() if name not in TOKENS):
        return []
    return [*(-(-int(share * t) // 8) * 8 for share in SHARES), t]


@dataclasses.dataclass(frozen=True)
class Budget:
    """Budget of a run: its guarantee, and the ledger of the steps before step `start`, as the checkpoint has it.

    A step that is taken again after a kill has the same sample and the same noise, and is counted once.
    """

    guarantee: Guarantee
    before: Ledger
    start: int

    def spend(self, step: int) -> Ledger:
        """The ledger after a step."""
        return add_steps(self.before, self.guarantee.noise, self.guarantee.share, step - self.start)

    def compute_epsilon(self, step: int) -> float:
        """The epsilon spent after a step."""
        return compute_epsilon(self.spend(step), self.guarantee.delta)

    def bound_epsilon(self, step: int, last: int) -> float:
        """An upper bound of the epsilon after a step for the log: exact after each 32nd part of the `last` steps."""
        part = math.ceil(max(last, 1) / LOGGED)
        return self.compute_epsilon(min(math.ceil(step / part) * part, last))

    def find_last(self, steps: int) -> int:
        """The last of `steps` steps that the limit allows; those that were taken are not undone."""
        made = self.guarantee
        if made.limit is None:
            return steps
        most = steps - self.start
        return self.start + count_affordable(self.before, made.noise, made.share, made.limit, made.delta, most)

    def record(self, step: int) -> dict[str, float]:
        """Epsilon and delta after a step, and the mechanism behind them, as JSON values."""
        made = self.guarantee
        return {
            "epsilon": self.compute_epsilon(step),
            "delta": made.delta,
            "noise": made.noise,
            "clip": made.clip,
            "examples": made.examples,
            "sampled": made.batch_size,
            "steps": step,
        }


@runtime_checkable
class Protects(Protocol):
    """An optimizer that trains with differential privacy.

    `rule` is the update rule, which sees noisy gradients alone; `protect` says how they are made, and `secret` if their
    randomness comes from the system's entropy.
    """

    @property
    def rule(self) -> Optimizer: ...

    @property
    def secret(self) -> bool: ...

    @property
    def chunk(self) -> int: ...

    def protect(self, examples: int, batch_size: int, steps: int) -> Guarantee: ...


@dataclasses.dataclass(frozen=True)
class Private:
    """DP-SGD around any update rule: its gradient is (sum_i g_i min(1, clip / |g_i|) + N(0, (noise clip)^2)) / b.

    arXiv:1607.00133.  g_i is the gradient of example i, of which each step takes every one with probability b / n, b
    the batch size; their number varies from step to step, and b does not.  Give `epsilon`, for which the noise of all
    steps is found, or the multiplier `noise`; with both, training stops when epsilon is spent.  The guarantee is
    (epsilon, delta)-differential privacy of the weights of every step against one example more or less in the training
    part.  At most `chunk` gradients of examples are held in memory at once, `chunk` times the memory of the parameters.

    `secret` draws the sample and the noise from the system's entropy, which is kept in the run's checkpoints and has no
    other copy; without it they follow from `seed`, for tests, and whoever knows the seed can take the noise off again.
    """

    rule: Optimizer
    epsilon: float | None = None
    delta: float = 1e-5
    noise: float | None = None
    clip: float = 1.0
    chunk: int = 8
    secret: bool = True

    def __post_init__(self) -> None:
        require_clip(self.clip)
        if isinstance(self.rule, Protects):
            raise ValueError("Private.rule is Private itself; give the optimizer that it protects, such as AdamW.")
        if self.epsilon is None and self.noise is None:
            raise ValueError("Private has neither epsilon nor noise; give optimizer.epsilon, such as 3.")
        for name in ("epsilon", "noise"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"Private.{name} is {value}; it must be a number above 0, or none.")
        if not 0 < self.delta < 1:
            raise ValueError(f"Private.delta is {self.delta}; give a probability below 1 / examples, such as 1e-5.")
        if self.chunk < 1:
            raise ValueError(f"Private.chunk is {self.chunk}; it must be 1 or more.")

    @property
    def rate(self) -> Schedule:
        """The learning rate of the rule.  Raises ValueError if it has none."""
        if not isinstance(self.rule, Scheduled):
            raise ValueError(f"Private.rule is {type(self.rule).__name__}, which has no rate; give one that has.")
        return self.rule.rate

    def build(self, steps: int, params: Params, roles: Roles | None = None) -> optax.GradientTransformation:
        """The optax transformation of the rule."""
        return build(self.rule, steps, params, roles)

    def protect(self, examples: int, batch_size: int, steps: int) -> Guarantee:
        """The guarantee of a run of `steps` steps of `batch_size` of `examples` examples.

        Raises InputError if dp-accounting is absent, for batches larger than the data, and for a delta that would allow
        an example to be published.
        """
        require_accounting()
        if batch_size > examples:
            raise InputError(
                f"batch_size is {batch_size} and the data has {examples} examples, each of which Private takes with"
                f" probability batch_size / examples; set batch_size={examples} or less."
            )
        if self.delta * examples >= 1:
            raise InputError(
                f"optimizer.delta is {self.delta:g} and the data has {examples} examples: an example may be published"
                f" with probability delta; set optimizer.delta below {1 / examples:.1g}."
            )
        noise = self.noise
        if noise is None:
            assert self.epsilon is not None  # as __post_init__ requires
            noise = find_noise(batch_size / examples, steps, self.epsilon, self.delta)
        elif self.epsilon is not None and not count_affordable(
            (), noise, batch_size / examples, self.epsilon, self.delta, 1
        ):
            raise InputError(
                f"optimizer.noise is {noise:g}, of which one step spends more than optimizer.epsilon={self.epsilon:g};"
                " raise one of them, or leave optimizer.noise out."
            )
        freeze = self.rule.freeze if isinstance(self.rule, Freezes) else ()
        sizes = examples, batch_size, steps
        return Guarantee(noise, self.clip, self.delta, self.epsilon, *sizes, self.chunk, freeze)
