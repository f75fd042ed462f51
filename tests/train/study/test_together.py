"""Seeds in one program: equal to separate runs, on one device and on several, for structures of several kinds."""

from pathlib import Path

import jax
import numpy as np
import pytest

from tests.places import CONFIGS
from train.config import load_config
from train.study.together import Together, Way
from train.study.trial import Outcome, Trainer

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
SEEDS = (3, 4, 5)
SHORT = ("steps=6", "parallel=Jit()")
STRUCTURES = {
    "dropout": (),  # of the config
    "experts": ("model.stack.block.feedforward=Experts(experts=4, active=2)",),
    "recurrent": ("model.stack.block.mixer=GatedDeltaNet(heads=2)",),
    "scanned": ("model.stack.repeats=2", "model.stack.scan=true"),
    "averaged": ("optimizer=ScheduleFreeAdamW(Constant(1e-3))",),
    "parts": ("accumulate=2",),
}
DEVICES = {"dropout": (1, 3, 2)}  # of 2, the last one has a seed that fills up


@pytest.fixture(autouse=True)
def _inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)


def load(*overrides: str) -> Trainer:
    return Trainer(load_config(LANGUAGE_MODEL, [*SHORT, *overrides])[0])


def assert_equal(outcomes: list[Outcome], expected: list[Outcome]) -> None:
    assert [outcome.loss for outcome in outcomes] == pytest.approx([outcome.loss for outcome in expected], rel=1e-5)
    for outcome, other in zip(outcomes, expected, strict=True):
        assert len(outcome.curve) == 6
        np.testing.assert_allclose(outcome.curve, other.curve, rtol=1e-5)
    assert len({round(outcome.loss, 6) for outcome in outcomes}) == len(SEEDS), "seeds differ"


@pytest.mark.slow
@pytest.mark.parametrize("structure", STRUCTURES)
def test_seeds_in_one_program_have_the_losses_of_separate_runs(structure: str) -> None:
    trainer = load(*STRUCTURES[structure])
    expected = [trainer.run(seed, "verdict") for seed in SEEDS]
    for devices in DEVICES.get(structure, (2,)):
        together = Together(trainer.prepared, len(SEEDS), devices)
        assert_equal(trainer.train(SEEDS, "verdict", together), expected)


def test_devices_have_equal_shares_of_the_states() -> None:
    trainer = load("model.stack.block.mixer.position=none")
    together = Together(trainer.prepared, 3, 2)
    state = together.begin([trainer.seed(seed) for seed in SEEDS])
    leaves = jax.tree.leaves(state)
    assert all(leaf.shape[0] == 4 and len(leaf.sharding.device_set) == 2 for leaf in leaves)
    assert all(leaf.addressable_shards[0].data.shape[0] == 2 for leaf in leaves)


def test_what_cannot_be_split_over_seeds_is_refused() -> None:
    trainer = load("parallel=Pmap()", "batch_size=8")
    with pytest.raises(ValueError, match="splits one seed over devices"):
        Together(trainer.prepared, 2)
    with pytest.raises(ValueError, match="3 seeds cannot be split over 2 devices"):
        Way(2, 3)
    assert [str(way) for way in (Way(), Way(1, 3), Way(2, 2), Way(2, 4))] == [
        "one after the other",
        "3 in one program",
        "one a device on 2 devices",
        "2 a device on 2 devices",
    ]
