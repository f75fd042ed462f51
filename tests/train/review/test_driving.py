"""Driving: what is logged and seen, the Decision Transformer by its gradient, and the closed loop."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import (
    Attention,
    Block,
    Context,
    EveryToken,
    FeatureEmbed,
    LearnedPosition,
    RoPE,
    Stack,
    TrajectoryEmbed,
    Transformer,
    ValueHead,
)
from tests.train.review.evidence import law_metrics_do_not_depend_on_batches_or_devices, trained
from train.cli import main
from train.data.builders.highway_drives import TINY, draw_style
from train.data.simulators import highway
from train.data.simulators.highway import (
    CARS,
    FEATURES,
    LANES,
    WIDTH,
    Highway,
    Style,
    Trip,
    compute_reward,
    drive,
    observe,
)
from train.data.sources import open_dataset
from train.data.tasks.drives import Drives, cut_window
from train.errors import InputError
from train.experiment import Evaluation, Experiment
from train.objectives import MeanSquaredError
from train.optimizers import AdamW
from train.page import to_html
from train.parallel import Jit
from train.review.driving import ClosedLoop, Wheel, correlate

BLOCK = Block(Attention(2, causal=True, position=RoPE()))
DECIDING = Transformer(TrajectoryEmbed(8, LearnedPosition(60)), Stack(BLOCK, repeats=2), ValueHead(2, EveryToken(3, 1)))
CLONING = Transformer(FeatureEmbed(8), Stack(BLOCK, 1), ValueHead(2, EveryToken()))


@pytest.fixture(autouse=True)
def prepared(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))


def experiment(model: Any = CLONING, **data: Any) -> Experiment:
    """A tiny driver."""
    return Experiment(
        model=model,
        objective=MeanSquaredError(),
        data=Drives(**{"dataset": "highway_drives/tiny", "context": 4} | data),
        optimizer=AdamW(),
        batch_size=8,
        steps=1,
        evaluation=Evaluation(batch_size=32),
    )


def test_logs_are_the_drives_of_their_seeds_and_no_seed_is_in_both_parts() -> None:
    rows = {part: open_dataset("highway_drives/tiny", part).examples for part in ("train", "test")}
    assert [len(some) for some in rows.values()] == [24, 8]
    logged = {part: [some[index] for index in range(len(some))] for part, some in rows.items()}
    for row in logged["train"]:
        assert row["features"].shape == (len(row["rewards"]), FEATURES)
        assert np.abs(row["actions"]).max() <= 1
        assert (row["rewards"] >= 0).all()
        assert (row["rewards"] <= 1).all()
    starts = [{row["features"][0].tobytes() for row in some} for some in logged.values()]
    assert not starts[0] & starts[1]
    assert len({round(float(row["rewards"].mean()), 2) for row in logged["train"]}) > 8  # timid to hasty
    chance = np.random.default_rng((0, True))
    again = drive([Highway("test", 0, [draw_style(TINY, chance) for _ in range(8)])], steps=50)
    found = {row["features"].tobytes() for row in logged["test"]}
    assert {np.stack(trip.features).tobytes() for trip in again} == found


def test_the_model_at_the_wheel_sees_what_was_logged_when_it_does_what_was_done() -> None:
    (logged,) = drive([Highway("closed", 3, [Style()])], steps=40)
    seen, given = [], []

    def wheel(now: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        seen.append(now[0])
        given.append(rewards[0])
        return logged.actions[len(seen) - 1][None]

    (driven,) = drive([Highway("closed", 3, [Style()])], wheel, 40)
    assert np.abs(np.stack(logged.actions)[:, 1]).max() > 0.2  # a change of lane is among them
    np.testing.assert_allclose(np.stack(seen), np.stack(logged.features), atol=1e-3)
    np.testing.assert_allclose(driven.rewards, logged.rewards, atol=1e-4)
    np.testing.assert_allclose(given[1:], driven.rewards[:-1], atol=1e-6)
    assert given[0] == 0


def described(scene: np.ndarray, own: int) -> list[float]:
    """The features in words: one vehicle, one neighbour after the other."""
    along, across, heading, speed = scene[own]
    lane = min(range(LANES), key=lambda lane: abs(across - WIDTH * lane))
    found = [
        (speed - 25) / 5,
        5 * heading,
        (across - WIDTH * lane) / 2,
        lane / 3,
        (3 - lane) / 3,
        float(lane > 0),
        float(lane < 3),
    ]
    for side in (lane - 1, lane, lane + 1):
        for ahead in (True, False):
            best = None
            for place, other in enumerate(scene):
                there = 0 <= side < LANES and abs(other[1] - WIDTH * side) <= 3 and (other[0] >= along) == ahead
                if place != own and there and (best is None or abs(other[0] - along) < abs(best[0] - along)):
                    best = other
            if best is None:
                found += [0, 1, 0, 0]
            else:
                gap = abs(best[0] - along)
                found += [1 / (1 + gap / 20), min(gap / 100, 1), max(-2, min(2, (best[3] - speed) / 10)), 5 * best[2]]
    return found


def test_features_are_what_they_say() -> None:
    for seed in range(50):
        chance = np.random.default_rng(seed)
        scene = np.stack(
            [
                chance.uniform(0, 300, CARS),
                chance.uniform(-2, 14, CARS),
                chance.normal(0, 0.1, CARS),
                chance.uniform(0, 40, CARS),
            ],
            -1,
        )
        own = sorted(chance.choice(CARS, 3, replace=False).tolist())
        np.testing.assert_allclose(
            observe(scene, own), [described(scene, place) for place in own], rtol=1e-5, atol=1e-5
        )


def test_the_reward_is_that_of_the_environment() -> None:
    highway.load_simulator()  # which imports the package without its greeting
    from highway_env.envs.highway_env import HighwayEnv
    from highway_env.vehicle.kinematics import Vehicle

    env: Any = HighwayEnv(config={"action": {"type": "ContinuousAction"}, "vehicles_count": 1})
    chance = np.random.default_rng(0)
    for _ in range(100):
        along, across, heading, speed = (
            chance.uniform(0, 100),
            chance.uniform(-3, 15),
            chance.normal(0, 0.2),
            chance.uniform(10, 35),
        )
        env.vehicle = Vehicle(env.road, [along, across], heading, speed)
        env.vehicle.crashed = bool(chance.random() < 0.3)
        expected = env._reward(np.zeros(2))
        assert compute_reward(np.array([along, across, heading, speed]), env.vehicle.crashed) == pytest.approx(
            expected, abs=1e-6
        )


def test_noise_moves_the_vehicle_and_not_what_is_logged() -> None:
    plain, pushed = (Highway("train", 5, [Style(noise=noise)]) for noise in ((0.0, 0.0), (0.9, 0.9)))
    pushed.drivers[0].chance = np.random.default_rng(2)  # whose first draw is a push
    for road in (plain, pushed):
        road.look()
        road.step(None)
    np.testing.assert_array_equal(plain.trips[0].actions[0], pushed.trips[0].actions[0])
    carried = [
        np.array([one.drivers[0].action["acceleration"], one.drivers[0].action["steering"]]) / highway.RANGES
        for one in (plain, pushed)
    ]
    np.testing.assert_allclose(carried[0], plain.trips[0].actions[0], atol=1e-6)
    np.testing.assert_allclose(
        carried[1], np.clip(pushed.trips[0].actions[0] + pushed.drivers[0].push, -1, 1), atol=1e-6
    )
    assert np.abs(pushed.drivers[0].push).max() > 0
    assert not np.allclose(plain.look(), pushed.look())


def test_an_action_is_predicted_from_nothing_that_comes_later_nor_from_itself() -> None:
    chance = np.random.default_rng(0)
    shapes = {"returns": (1, 5, 1), "features": (1, 5, 3), "actions": (1, 5, 2)}
    batch = {name: jnp.asarray(chance.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    batch["positions"] = jnp.arange(7, 12)[None]
    params = jax.jit(DECIDING.init)(jax.random.key(0), batch)["params"]

    @jax.jit
    def jacobian(given: dict[str, jax.Array]) -> Any:
        def outputs(some: dict[str, jax.Array]) -> jax.Array:
            found: Any = DECIDING.apply({"params": params}, some | {"positions": batch["positions"]})
            return found[0].sum(-1)

        return jax.jacobian(outputs)(given)

    found = jacobian({name: batch[name] for name in shapes})
    for name, one in found.items():
        moved = np.abs(np.asarray(one)).sum((1, 3))  # (step predicted, step given)
        seen = np.tril(np.ones((5, 5)), -1 if name == "actions" else 0)
        assert (moved[seen == 0] == 0).all(), name
        assert (moved[seen == 1] > 0).all(), name


@pytest.mark.slow
def test_predictions_depend_on_the_step_and_a_token_is_taken_from_three() -> None:
    hidden = jnp.arange(12.0).reshape(1, 6, 2)
    assert np.asarray(EveryToken(3, 1).apply({}, hidden, Context())).tolist() == [[[2, 3], [8, 9]]]
    batch = {"returns": jnp.ones((1, 2, 1)), "features": jnp.ones((1, 2, 3)), "actions": jnp.ones((1, 2, 2))}
    params = jax.jit(DECIDING.init)(jax.random.key(0), batch)["params"]
    first, later = (
        np.asarray(DECIDING.apply({"params": params}, batch | {"positions": jnp.array([places])}))
        for places in ([0, 1], [30, 31])
    )
    assert not np.allclose(first, later)


@pytest.mark.parametrize(
    ("model", "ways"), [(CLONING, ("jit", "alone", "pmap")), (DECIDING, ("jit", "ragged", "pmap", "mesh"))]
)
@pytest.mark.slow
def test_drives_do_not_depend_on_batches_or_devices(model: Any, ways: tuple[str, ...]) -> None:
    review = ClosedLoop(episodes=2, asked=(10.0, 20.0) if model is DECIDING else (), steps=12, film=False)
    law_metrics_do_not_depend_on_batches_or_devices(experiment(model), review, 0, ways)


@pytest.mark.slow
def test_drives_are_the_same_twice_and_are_shown() -> None:
    review = ClosedLoop(episodes=2, asked=(8.0, 16.0), steps=20)
    one = trained(experiment(DECIDING), Jit(), 64)
    first, second = review.review(one), review.review(one)
    assert first == second
    measured = {"collision_rate", "off_road_rate", "time_on_road", "mean_speed", "reward_ratio", "return_correlation"}
    assert set(first.metrics) == measured | {"reached_8", "reached_16"}
    (film,) = (to_html(piece) for caption, piece in first.pictures.items() if "above" in caption)
    assert "data:image/gif;base64," in film
    assert len(film) < 1_000_000
    assert "2 drives from seeds that no log has" in first.pictures


def test_at_the_wheel_a_model_sees_the_windows_of_its_own_drive_with_what_is_left_of_the_return_asked() -> None:
    steps, asked, context = 9, np.array([4.0, 7.0]), 4
    data = {"horizon": 50, "middle": 0.3, "scale": 0.5}
    wheel: Any = Wheel(trained(experiment(DECIDING, **data), Jit(), 64), asked, steps)
    chance, seen = np.random.default_rng(0), list[dict[str, np.ndarray]]()

    def outputs(batch: Any) -> np.ndarray:
        seen.append({name: np.array(value) for name, value in batch.items()})
        return chance.uniform(-0.05, 0.05, (2, context, 2))

    wheel.outputs = outputs
    trips = drive([Highway("closed", number, [Style()]) for number in range(2)], wheel, steps)
    assert [len(trip.rewards) for trip in trips] == [len(seen)] * 2 == [steps] * 2
    for row, trip in enumerate(trips):
        left = asked[row] - np.concatenate([[0], np.cumsum(trip.rewards)[:-1]])
        whole = {
            "features": np.stack(trip.features),
            "actions": np.stack(trip.actions),
            "returns": wheel.spec.scale_returns(left, np.arange(steps))[:, None],
        }
        assert np.ptp(whole["returns"]) > 0.01
        for step, batch in enumerate(seen):
            first = max(step + 1 - context, 0)
            known = {
                name: value * (np.arange(steps) < step + (name != "actions"))[:, None] for name, value in whole.items()
            }
            # nothing of what comes, and no action of this step
            for name, value in cut_window(known, first, context).items():
                np.testing.assert_allclose(batch[name][row], value, atol=1e-5, err_msg=f"{name} at step {step}")


def test_no_drive_is_longer_than_what_returns_are_divided_over() -> None:
    data = experiment(DECIDING, horizon=50).data.open()
    ClosedLoop(steps=50).ready(data)
    with pytest.raises(InputError, match=r"review\.steps is 51 and data\.horizon 50; drive no longer than that"):
        ClosedLoop(steps=51).ready(data)


def test_rewards_are_measured_beside_an_expert_s_where_the_highest_return_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = np.zeros((CARS, 4))
    expert, low, high = (Trip(rewards=[each] * 5, speeds=[20.0] * 5, scenes=[scene]) for each in (1.0, 0.25, 0.75))

    def driven(highways: Any, wheel: Any, *rest: Any) -> list[Trip]:
        del rest
        return [expert] * len(highways) if wheel is None else [low, low, high, high][: len(highways)]

    monkeypatch.setattr("train.review.driving.drive", driven)
    one = trained(experiment(DECIDING), Jit(), 64)
    found = ClosedLoop(episodes=2, asked=(3.0, 9.0), steps=5, film=False).review(one).metrics
    assert found["reward_ratio"] == pytest.approx(0.75)
    assert (found["reached_3"], found["reached_9"], found["return_correlation"]) == pytest.approx((1.25, 3.75, 1))
    assert ClosedLoop(episodes=2, steps=5, film=False).review(one).metrics["reward_ratio"] == pytest.approx(0.25)


def test_measures_of_drives_are_counts_and_shares() -> None:
    long, short = Trip(rewards=[1.0] * 10, speeds=[20.0] * 10), Trip(rewards=[0.5] * 4, speeds=[30.0] * 4, crashed=True)
    found = ClosedLoop(steps=10).compute_metrics([long, short])
    assert found == {"collision_rate": 0.5, "off_road_rate": 0, "time_on_road": (10 + 3) / 20, "mean_speed": 25}
    assert correlate(np.array([1, 1, 2, 2]), np.array([3, 4, 7, 8])) == pytest.approx(0.894, abs=1e-3)
    assert correlate(np.array([1, 1]), np.array([3, 4])) == 0


@pytest.mark.slow
def test_a_stopped_review_finds_nothing() -> None:
    one = dataclasses.replace(trained(experiment(), Jit(), 64), stop=lambda: True)
    assert not ClosedLoop(episodes=1).review(one).metrics


def test_without_the_package_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_dataset("highway_drives/tiny", "train")
    highway.load_simulator.cache_clear()
    monkeypatch.setitem(sys.modules, "highway_env.road.road", None)
    assert main(["train", "drive_highway", "data.dataset=highway_drives/tiny", "--run", str(tmp_path / "run")]) == 2
    assert "package highway-env, which is absent; pip install 'morphax[drive]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    highway.load_simulator.cache_clear()
