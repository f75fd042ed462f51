"""Rare classes: weights of classes in the loss, and a sampler that draws examples of rare classes more often."""

import collections
import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from models.words import join
from train.contracts import PART, Arrays, Labelled, Steps
from train.data.batches import Batches
from train.errors import InputError

EMPHASIS = "emphasis"  # array of a training batch: the weight of each example in the loss


def compute_class_weights(asked: tuple[float, ...] | str | None, data: object) -> np.ndarray | None:
    """Computes the weight w_c of each class (k,): the numbers asked for, or for "auto"

        w_c = n / (k n_c)

    where n_c of the n examples to train on have the class c of k, so that all classes weigh the same, and examples 1
    on average (King and Zeng, Political Analysis 2001).  0 for a class without an example; None if none are asked for.

    Raises InputError for data without classes, and for another number of weights than of classes.
    """
    if asked is None:
        return None
    if not isinstance(data, Labelled) or not data.classes:
        raise InputError(
            "objective.class_weights weighs the classes of examples; this data has none: leave it out (of trajectories,"
            " data.balance repeats the windows that turn)."
        )
    names = data.classes
    if not isinstance(asked, str):
        if len(asked) != len(names):
            said = f"objective.class_weights has {len(asked)} numbers for the {len(names)} classes {join(names)}"
            raise InputError(f"{said}; give one for each.")
        return np.asarray(asked, np.float32)
    counts = np.bincount(data.labels("train"), minlength=len(names))
    return np.divide(counts.sum(), len(names) * counts, out=np.zeros(len(names)), where=counts > 0).astype(np.float32)


def require_once(asked: tuple[float, ...] | str | None, power: float | None) -> None:
    """Raises InputError if both the class weights ("auto") and the sampler (a `power`) make up for rare classes."""
    if asked == "auto" and power:
        raise InputError(
            f"objective.class_weights=auto and data.balance={power:g} each make up for rare classes, and together they"
            " do so twice; leave one out, or give objective.class_weights as numbers."
        )


def add_emphasis(batches: Steps, weights: np.ndarray | None) -> Steps:
    """Adds each example's weight to the batches as `emphasis`: w[label], or sum_c w_c q_c for mixed classes q."""
    if weights is None:
        return batches

    def make(step: int) -> Arrays:
        batch = batches[step]
        return batch | {EMPHASIS: batch["targets"] @ weights if "targets" in batch else weights[batch["labels"]]}

    return Batches(len(batches), make)


@dataclasses.dataclass(frozen=True)
class Balanced:
    """A sampler that draws rare classes more often than they occur, by the `labels` of all examples and a `power` b.

    Of the n draws of an epoch the class c, of n_c examples, has n q_c, rounded, with

        q_c = n_c^(1 - b) / sum_k n_k^(1 - b)

    b = 0 keeps the distribution of the data, 1 draws every class equally often, 0.5 is the square root of Mahajan et
    al., arXiv:1805.00932, section 2.2.  Every example of a class is drawn as often as the others, or once more; which
    are, and the order of all draws, depend on (seed, epoch).
    """

    labels: tuple[int, ...]
    power: float

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def counts(self) -> dict[int, int]:
        """The number of draws of each class in an epoch; they add up to the number of examples."""
        n = len(self.labels)
        sizes = collections.Counter(self.labels)
        shares = {label: size ** (1 - self.power) for label, size in sizes.items()}
        exact = {label: n * share / sum(shares.values()) for label, share in shares.items()}
        counts = {label: math.floor(value) for label, value in exact.items()}
        missing = sorted(exact, key=lambda label: (counts[label] - exact[label], label))  # the largest remainders first
        return counts | {label: counts[label] + 1 for label in missing[: n - sum(counts.values())]}

    @functools.cached_property
    def members(self) -> dict[int, np.ndarray]:
        """The indices of the examples of each class."""
        labels = np.asarray(self.labels)
        return {label: np.nonzero(labels == label)[0] for label in sorted(set(self.labels))}

    def draw(self, seed: int, epoch: int) -> np.ndarray:
        """Draws the indices of an epoch in their order, (n,): a pure function of seed and epoch."""
        chance = np.random.default_rng((seed, epoch, len(self.labels)))
        draws: list[np.ndarray] = []
        for label, members in self.members.items():
            turns = -(-self.counts[label] // len(members))
            orders = [members[:0], *(chance.permutation(members) for _ in range(turns))]
            draws.append(np.concatenate(orders)[: self.counts[label]])
        return chance.permutation(np.concatenate(draws))


def make_sampler(power: float, labels: Sequence[int] | np.ndarray, part: PART, seed: int | None) -> Balanced | None:
    """Makes the sampler of a shuffled training part; None for the test part, without a seed, or for a power of 0."""
    if not power or part != "train" or seed is None:
        return None
    return Balanced(tuple(int(label) for label in labels), power)


def require_power(name: str, power: float) -> None:
    """Raises ValueError unless the power is from 0 to 1."""
    if not 0 <= power <= 1:
        raise ValueError(f"{name}.balance is {power}; give a number from 0 (as in the data) to 1 (all equally).")
