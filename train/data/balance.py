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

EMPHASIS = "emphasis"  # of a batch to train on: what each example weighs in the loss


def class_weights(asked: tuple[float, ...] | str | None, data: object) -> np.ndarray | None:
    """The weight w_c of each class, (k,): the numbers that are given, or of "auto"

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
    """Raises InputError if rare classes are made up for twice: by weights that follow the counts, and by draws of a
    power."""
    if asked == "auto" and power:
        raise InputError(
            f"objective.class_weights=auto and data.balance={power:g} each make up for rare classes, and together they"
            " do so twice; leave one out, or give objective.class_weights as numbers."
        )


def emphasised(batches: Steps, weights: np.ndarray | None) -> Steps:
    """The batches with each example's weight as `emphasis`: w[label], or of a mixed one's shares q sum_c w_c q_c."""
    if weights is None:
        return batches

    def make(step: int) -> Arrays:
        batch = batches[step]
        return batch | {EMPHASIS: batch["targets"] @ weights if "targets" in batch else weights[batch["labels"]]}

    return Batches(len(batches), make)


@dataclasses.dataclass(frozen=True)
class Balanced:
    """Draws of examples in which rare classes come more often than in the data, by their `labels` and a `power` b.

    Of the n draws of an epoch the class c, of n_c examples, has n q_c, rounded, with

        q_c = n_c^(1 - b) / sum_k n_k^(1 - b)

    0 is the data as it is, 1 draws every class equally often, 0.5 is the square root of Mahajan et al.,
    arXiv:1805.00932, section 2.2.  Of a class every example comes as often as the others, or once more; which do,
    and the order of all, are drawn by (seed, epoch).
    """

    labels: tuple[int, ...]
    power: float

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def counts(self) -> dict[int, int]:
        """How many draws of an epoch each class has; they add up to the number of examples."""
        n, sizes = len(self.labels), collections.Counter(self.labels)
        shares = {label: size ** (1 - self.power) for label, size in sizes.items()}
        exact = {label: n * share / sum(shares.values()) for label, share in shares.items()}
        counts = {label: math.floor(value) for label, value in exact.items()}
        missing = sorted(exact, key=lambda label: (counts[label] - exact[label], label))  # the largest remainders first
        return counts | {label: counts[label] + 1 for label in missing[: n - sum(counts.values())]}

    @functools.cached_property
    def members(self) -> dict[int, np.ndarray]:
        """The examples of each class."""
        labels = np.asarray(self.labels)
        return {label: np.nonzero(labels == label)[0] for label in sorted(set(self.labels))}

    def draws(self, seed: int, epoch: int) -> np.ndarray:
        """The examples of an epoch in their order, (n,): a pure function of seed and epoch."""
        chance = np.random.default_rng((seed, epoch, len(self.labels)))
        drawn: list[np.ndarray] = []
        for label, own in self.members.items():
            turns = -(-self.counts[label] // len(own))
            orders = [own[:0], *(chance.permutation(own) for _ in range(turns))]
            drawn.append(np.concatenate(orders)[: self.counts[label]])
        return chance.permutation(np.concatenate(drawn))


def balanced(power: float, labels: Sequence[int] | np.ndarray, part: PART, seed: int | None) -> Balanced | None:
    """The sampler of a part that is trained on in shuffled order; None for another part, and for a power of 0."""
    if not power or part != "train" or seed is None:
        return None
    return Balanced(tuple(int(label) for label in labels), power)


def require_power(name: str, power: float) -> None:
    """Raises ValueError for a power that is not from 0 to 1."""
    if not 0 <= power <= 1:
        raise ValueError(f"{name}.balance is {power}; give a number from 0 (as in the data) to 1 (all equally).")
