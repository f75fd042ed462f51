"""Privacy accounting of noisy steps on Poisson samples, by privacy loss distributions of dp-accounting.

A step that takes every example with probability q, and adds noise of `noise` times the most that an example changes
the sum, is a Poisson-sampled Gaussian mechanism; steps compose by the convolution of their privacy losses
(arXiv:2106.08567, arXiv:2207.04380).  Neighbouring data sets differ by one example, added or removed.
"""

import functools
import importlib
import importlib.util
from types import ModuleType
from typing import NamedTuple, Protocol

from train.errors import InputError

COARSE = 1e-3  # discretisation of privacy losses while noise is sought: an upper bound on epsilon like a finer one
TOLERANCE = 1e-3  # of the noise that is sought; what is found is never less than needed


class Spent(NamedTuple):
    """Steps of one mechanism: the noise multiplier, the probability that an example is taken, and their number."""

    noise: float
    share: float
    steps: int


class Losses(Protocol):
    """The distribution of the privacy loss of one or several mechanisms, of dp-accounting."""

    def self_compose(self, num_times: int) -> "Losses": ...

    def compose(self, other: "Losses") -> "Losses": ...

    def get_epsilon_for_delta(self, delta: float) -> float: ...


Ledger = tuple[Spent, ...]


def require_accounting() -> None:
    """Raises InputError if dp-accounting is not installed."""
    try:
        installed = importlib.util.find_spec("dp_accounting") is not None
    except ValueError:  # hidden by an entry of None in sys.modules
        installed = False
    if not installed:
        raise InputError(
            "The optimizer Private needs the package dp-accounting, which is not installed: run pip install"
            " 'morphax[privacy]', or train without Private."
        )


def add_steps(ledger: Ledger, noise: float, share: float, steps: int) -> Ledger:
    """Adds steps to a ledger; those of the last entry's mechanism are counted in it."""
    if steps <= 0:
        return ledger
    if ledger and ledger[-1][:2] == (noise, share):
        return (*ledger[:-1], ledger[-1]._replace(steps=ledger[-1].steps + steps))
    return (*ledger, Spent(noise, share, steps))


@functools.lru_cache(maxsize=256)
def compute_epsilon(ledger: Ledger, delta: float) -> float:
    """Computes the epsilon at which all steps of a ledger are (epsilon, delta)-private together; 0 for none."""
    composed: Losses | None = None
    for noise, share, steps in ledger:
        losses = _distribute_losses(noise, share).self_compose(steps)
        composed = losses if composed is None else composed.compose(losses)
    return 0.0 if composed is None else float(composed.get_epsilon_for_delta(delta))


@functools.lru_cache(maxsize=64)
def find_noise(share: float, steps: int, epsilon: float, delta: float) -> float:
    """Finds the least noise multiplier, to 0.2 %, by which `steps` steps spend at most `epsilon`."""
    library = _load()
    relation = library.NeighboringRelation.ADD_OR_REMOVE_ONE

    def compose(noise: float) -> object:
        sampled = library.PoissonSampledDpEvent(share, library.GaussianDpEvent(noise))
        return library.SelfComposedDpEvent(sampled, steps)

    calibrated = library.calibrate_dp_mechanism(
        lambda: library.pld.PLDAccountant(relation, COARSE),
        compose,
        epsilon,
        delta,
        bracket_interval=library.LowerEndpointAndGuess(0.0, 1.0),
        tol=TOLERANCE / 2,
    )
    noise = float(calibrated) + TOLERANCE / 2
    while compute_epsilon((Spent(noise, share, steps),), delta) > epsilon:
        noise *= 1 + TOLERANCE
    return noise


def count_affordable(ledger: Ledger, noise: float, share: float, epsilon: float, delta: float, most: int) -> int:
    """Counts the steps, `most` at most, that can follow those of a ledger before more than `epsilon` is spent."""

    def fits(steps: int) -> bool:
        return compute_epsilon(add_steps(ledger, noise, share, steps), delta) <= epsilon

    if fits(most):
        return most
    low, high = 0, most  # `high` steps are too many; none more than the ledger's own always are enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@functools.lru_cache(maxsize=16)
def _distribute_losses(noise: float, share: float) -> Losses:
    """The distribution of the privacy loss of one step, as the library's PLDAccountant makes it."""
    losses = _load().pld.privacy_loss_distribution
    return losses.from_gaussian_mechanism(noise, sampling_prob=share)


def _load() -> ModuleType:
    require_accounting()
    return importlib.import_module("dp_accounting")
