"""Membership inference: who was in the training data of a run, by losses, by shadow models, by planted secrets."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from models.contracts import Batch
from train.contracts import PART, Continues, Dataset, Params, Steps
from train.engine.folder import Recorded
from train.engine.prepared import Inference, prepare_evaluation
from train.engine.step import make_sums
from train.errors import InputError
from train.optimizers.private import Protects
from train.sums import sum_by_example
from train.use.attack import RATES, Attack, Interval, compute_exposure, measure_attack
from train.use.evaluate import restore_params
from train.use.shadows import attack_by_shadows

BATCH = 32


@dataclasses.dataclass(frozen=True)
class Audit:
    """Attacks on a run by name, the exposure of secrets, and the epsilon and delta that the run claims, if any."""

    step: int
    attacks: dict[str, Attack]
    exposures: dict[str, Interval]
    claimed: tuple[float, float] | None = None

    @property
    def beaten(self) -> bool:
        """Tells if an attack shows that more was learnt about examples than the run claims."""
        return self.claimed is not None and any(attack.epsilon > self.claimed[0] for attack in self.attacks.values())


def open_parts(run: Recorded, folder: Path, best: bool) -> tuple[Inference, Dataset, int, Params]:
    """Opens both parts of a run's data, its model and its parameters."""
    data = run.experiment.data.open(run.classes)
    inference = prepare_evaluation(run.experiment, data)
    if "loss" in inference.uncertain:
        name = type(run.experiment.objective).__name__
        raise InputError(
            f"The objective {name} gives its loss without `each`, so examples have none of their own to attack; make it"
            " by train.sums.sum_weighted(values, weights)."
        )
    return inference, data, *restore_params(folder, inference, best)


def collect_losses(inference: Inference, params: Params, batches: Steps, most: int) -> np.ndarray:
    """Collects the mean loss of each of the first `most` examples, (n,)."""
    experiment = inference.experiment
    measure = make_sums(experiment.model, experiment.objective, experiment.precision)

    @jax.jit
    def sum_losses(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        each = measure(params, batch)[0]["loss"].each
        assert each is not None  # as open_parts requires
        return sum_by_example(each.values, batch), sum_by_example(each.weights, batch)

    losses: list[float] = []
    for batch in batches.stream(0, len(batches)):
        sums, weights = map(np.asarray, sum_losses(params, dict(batch)))
        losses += (sums[weights > 0] / weights[weights > 0]).tolist()
        if len(losses) >= most:
            break
    return np.asarray(losses[:most])


def attack_by_loss(
    inference: Inference, data: Dataset, params: Params, among: int, delta: float = 0.0, seed: int = 0
) -> Attack:
    """Attacks by a threshold of the loss: an example that the model finds easy was likelier in its training data.

    arXiv:1709.01604.  Members are up to `among` examples of the training part, others of the test part, drawn by
    `seed`.
    """
    parts: tuple[PART, PART] = ("train", "test")
    losses = [collect_losses(inference, params, shuffle(data, part, among, seed), among) for part in parts]
    return measure_attack(-losses[0], -losses[1], delta, seed)


def shuffle(data: Dataset, part: PART, among: int, seed: int) -> Steps:
    """Batches of a part in the order of the data if all are read, otherwise of examples drawn by the seed."""
    ordered = data.batches(part, BATCH, 1, None)
    return ordered if len(ordered) * BATCH <= among else _Shuffled(ordered, seed)


@dataclasses.dataclass(frozen=True)
class _Shuffled:
    """Batches in an order drawn by a seed; the examples of a batch stay together, as the order of the data has them."""

    batches: Steps
    seed: int

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self.batches[int(np.random.default_rng(self.seed).permutation(len(self))[step])]

    def stream(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        return (self[step] for step in range(start, stop))


def measure_exposure(
    inference: Inference, data: Dataset, params: Params, canary: str, count: int = 1000, seed: int = 0
) -> Interval:
    """Measures the exposure of a text that was planted in the training data, such as "the code is 281265017".

    Its digits are the secret: `count` others are drawn by the seed.  Raises InputError for a text without digits, and
    for a model that does not continue texts.
    """
    objective = inference.experiment.objective
    if not (isinstance(objective, Continues) and objective.continues):
        raise InputError(f"--canary is a text for a language model, and the objective is {type(objective).__name__}.")
    if not re.search(r"\d", canary):
        raise InputError(f"--canary is {canary!r}, which has no digits to draw other secrets for; give one that has.")
    chance = np.random.default_rng(seed)
    texts = [canary, *(re.sub(r"\d", lambda _: str(chance.integers(10)), canary) for _ in range(count))]
    losses = collect_losses(inference, params, data.questions(texts, BATCH, 1), len(texts))
    return compute_exposure(float(losses[0]), losses[1:])


def audit(
    folder: Path,
    run: Recorded,
    among: int,
    shadows: int = 0,
    steps: int | None = None,
    canaries: Sequence[str] = (),
    best: bool = False,
    seed: int = 0,
) -> Audit:
    """Attacks a run by the losses of its last checkpoint (or its best), by shadow models, and by planted secrets."""
    inference, data, step, params = open_parts(run, folder, best)
    claimed = read_claim(folder, run)
    delta = claimed[1] if claimed else 0.0
    attacks = {"loss": attack_by_loss(inference, data, params, among, delta, seed)}
    if shadows:
        attacks["shadows"] = attack_by_shadows(run, data, params, shadows, among, steps, delta, seed)
    exposures = {text: measure_exposure(inference, data, params, text, seed=seed) for text in canaries}
    return Audit(step, attacks, exposures, claimed)


def read_claim(folder: Path, run: Recorded) -> tuple[float, float] | None:
    """Reads the epsilon and delta that a private run has spent; None for others.

    Raises InputError for a private run that is not finished.
    """
    optimizer = run.experiment.optimizer
    if not isinstance(optimizer, Protects):
        return None
    done = folder / "summary.json"
    if done.is_file():
        spent = json.loads(done.read_text(encoding="utf-8"))["privacy"]
        return spent["epsilon"], spent["delta"]
    raise InputError(f"{folder} is private and not finished, so it claims no epsilon yet; finish it first.")


def describe_audit(audited: Audit) -> Iterator[str]:
    """Describes an audit, line by line."""
    for name, attack in audited.attacks.items():
        auc, low, high = attack.auc
        said = "tells members from others" if low > 0.5 else "shows nothing"
        sizes = f"{attack.members} members, {attack.others} others"
        yield f"{name}: AUC {auc:.3f} ({low:.3f} to {high:.3f}), {sizes}: it {said}"
        for rate, (share, least, most) in attack.rates.items():
            yield f"    {share:.2%} ({least:.2%} to {most:.2%}) of members are found at {rate:.1%} of others"
        yield f"    epsilon is at least {attack.epsilon:.3f}, with 95 % confidence"
    for text, (bits, low, high) in audited.exposures.items():
        judged = "memorised" if low > 3 else "not shown to be memorised"
        yield f"exposure of {text!r}: {bits:.1f} bits ({low:.1f} to {high:.1f}): {judged}"
    if audited.claimed is not None:
        epsilon, delta = audited.claimed
        verdict = "FAILED: an attack shows more" if audited.beaten else "no attack shows more"
        yield f"claimed: epsilon {epsilon:.3g} at delta {delta:g}; {verdict}"
        for rate in RATES:
            most = min(math.exp(min(epsilon, 700)) * rate + delta, 1)
            yield f"    at most {most:.2%} of members can be found at {rate:.1%} of others"
    yield "(members and others count as draws of one distribution: of a test part that is another, this says nothing)"


def record_audit(audited: Audit) -> dict[str, object]:
    """An audit as JSON values."""
    claimed = audited.claimed
    return {
        "step": audited.step,
        "attacks": {
            name: dataclasses.asdict(attack) | {"rates": {str(rate): share for rate, share in attack.rates.items()}}
            for name, attack in audited.attacks.items()
        },
        "exposures": {
            text: [bits if math.isfinite(bits) else None for bits in bounds]
            for text, bounds in audited.exposures.items()
        },
        "claimed": None if claimed is None else {"epsilon": claimed[0], "delta": claimed[1]},
        "beaten": audited.beaten,
    }
