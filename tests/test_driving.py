"""Driving: what is logged and seen, windows and returns against loops, the Decision Transformer by its gradient, and the closed loop."""

import dataclasses
import json
import sys
from collections.abc import Callable
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
from tests.test_review import law_metrics_do_not_depend_on_batches_or_devices, trained
from train import driving
from train.cli import main
from train.data.builders.highway_drives import TINY, style
from train.data.drives import Drives, trajectories, window
from train.data.source import dataset
from train.driving import CARS, FEATURES, LANES, WIDTH, Highway, Style, Trip, drive, features, reward
from train.experiment import Evaluation, Experiment
from train.objective import MeanSquaredError
from train.optimizer import AdamW
from train.parallel import Jit
from train.review.driving import ClosedLoop, Wheel, correlation
from train.spec import InputError

pytestmark = pytest.mark.usefixtures("compile_quickly")
BLOCK = Block(Attention(2, causal=True, position=RoPE()))
DECIDING = Transformer(TrajectoryEmbed(8, LearnedPosition(60)), Stack(BLOCK, repeats=2), ValueHead(2, EveryToken(3, 1)))
CLONING = Transformer(FeatureEmbed(8), Stack(BLOCK), ValueHead(2, EveryToken()))


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


def write(folder: Path, lengths: tuple[int, ...] = (9, 12, 3, 7), k: int = 3, m: int = 2) -> str:
    """Trajectories of chance, a file each."""
    folder.mkdir(exist_ok=True)
    for number, length in enumerate(lengths):
        chance = np.random.default_rng(number)
        seen, done = chance.normal(size=(length, k)), chance.uniform(-1, 1, (length, m))
        np.savez(folder / f"{number}.npz", features=seen, actions=done, rewards=chance.random(length))
    return str(folder)


def test_logs_are_the_drives_of_their_seeds_and_no_seed_is_in_both_parts() -> None:
    rows = {part: dataset("highway_drives/tiny", part).examples for part in ("train", "test")}
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
    again = drive([Highway("test", 0, [style(TINY, chance) for _ in range(8)])], steps=50)
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
    found = [(speed - 25) / 5, 5 * heading, (across - WIDTH * lane) / 2, lane / 3, (3 - lane) / 3, float(lane > 0), float(lane < 3)]
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
            [chance.uniform(0, 300, CARS), chance.uniform(-2, 14, CARS), chance.normal(0, 0.1, CARS), chance.uniform(0, 40, CARS)], -1
        )
        own = sorted(chance.choice(CARS, 3, replace=False).tolist())
        np.testing.assert_allclose(features(scene, own), [described(scene, place) for place in own], rtol=1e-5, atol=1e-5)


def test_the_reward_is_that_of_the_environment() -> None:
    driving.simulator()  # which imports the package without its greeting
    from highway_env.envs.highway_env import HighwayEnv
    from highway_env.vehicle.kinematics import Vehicle

    env: Any = HighwayEnv(config={"action": {"type": "ContinuousAction"}, "vehicles_count": 1})
    chance = np.random.default_rng(0)
    for _ in range(100):
        along, across, heading, speed = chance.uniform(0, 100), chance.uniform(-3, 15), chance.normal(0, 0.2), chance.uniform(10, 35)
        env.vehicle = Vehicle(env.road, [along, across], heading, speed)
        env.vehicle.crashed = bool(chance.random() < 0.3)
        expected = env._reward(np.zeros(2))
        assert reward(np.array([along, across, heading, speed]), env.vehicle.crashed) == pytest.approx(expected, abs=1e-6)


def test_noise_moves_the_vehicle_and_not_what_is_logged() -> None:
    plain, pushed = (Highway("train", 5, [Style(noise=noise)]) for noise in ((0.0, 0.0), (0.9, 0.9)))
    pushed.drivers[0].chance = np.random.default_rng(2)  # whose first draw is a push
    for highway in (plain, pushed):
        highway.look()
        highway.step(None)
    np.testing.assert_array_equal(plain.trips[0].actions[0], pushed.trips[0].actions[0])
    carried = [
        np.array([one.drivers[0].action["acceleration"], one.drivers[0].action["steering"]]) / driving.RANGES for one in (plain, pushed)
    ]
    np.testing.assert_allclose(carried[0], plain.trips[0].actions[0], atol=1e-6)
    np.testing.assert_allclose(carried[1], np.clip(pushed.trips[0].actions[0] + pushed.drivers[0].push, -1, 1), atol=1e-6)
    assert np.abs(pushed.drivers[0].push).max() > 0
    assert not np.allclose(plain.look(), pushed.look())


def test_windows_and_returns_are_those_of_a_loop(tmp_path: Path) -> None:
    path = write(tmp_path / "drives")
    opened = Drives(path=path, test=path, context=5, scale=10.0, balance=0.0).open()
    batches = {part: opened.batches(part, 4, 4, None) for part in ("train", "test")}
    known = trajectories(path)
    seen: dict[str, list[int]] = {"train": [], "test": []}
    starts = []
    for part, some in batches.items():
        for step in range(len(some)):
            batch = some[step]
            for row in np.nonzero(batch["weights"].any(1))[0]:
                first = int(batch["index"][row, 0])
                number = next(place for place in range(4) if first < sum(len(one.rewards) for one in known[: place + 1]))
                begin = first - sum(len(one.rewards) for one in known[:number])
                starts += [(number, begin)] if part == "train" else []
                one = known[number]
                assert batch["positions"][row].tolist() == list(range(begin, begin + 5))
                for place in range(5):
                    at = begin + place
                    assert batch["weights"][row, place] == float(at < len(one.rewards))
                    if at >= len(one.rewards):
                        assert not any(np.any(batch[name][row, place]) for name in ("features", "actions", "values", "returns"))
                        continue
                    seen[part].append(int(batch["index"][row, place]))
                    np.testing.assert_array_equal(batch["features"][row, place], one.features[at])
                    np.testing.assert_array_equal(batch["actions"][row, place], one.actions[at])
                    np.testing.assert_array_equal(batch["values"][row, place], one.actions[at])
                    ahead = sum(float(value) for value in one.rewards[at:]) / 10
                    assert batch["returns"][row, place, 0] == pytest.approx(ahead, rel=1e-5)
    assert sorted(seen["test"]) == list(range(9 + 12 + 3 + 7))  # every step once
    assert starts == [(0, step) for step in range(5)] + [(1, step) for step in range(8)] + [(2, 0)] + [(3, step) for step in range(3)]
    assert opened.shown("test", 9 + 3).endswith("1.npz, step 4")


def test_returns_over_the_steps_left_mean_the_same_at_every_step(tmp_path: Path) -> None:
    np.savez(tmp_path / "even.npz", features=np.ones((10, 3)), actions=np.ones((10, 2)), rewards=np.full(10, 0.7))
    path = str(tmp_path / "even.npz")
    batch = Drives(path=path, test=path, context=10, horizon=10, middle=0.5, scale=0.1).open().batches("test", 1, 1, None)[0]
    np.testing.assert_allclose(batch["returns"][0, :, 0], 2.0, rtol=1e-5)
    batch = Drives(path=path, test=path, context=10, scale=0.5).open().batches("test", 1, 1, None)[0]
    np.testing.assert_allclose(batch["returns"][0, :, 0], [3, 3, 3, 3, 3, 3, 3, 3, 2.8, 1.4], rtol=1e-5)


def test_windows_with_a_turn_are_drawn_as_often_as_asked() -> None:
    shares = []
    for balance in (0.0, 0.4):
        opened = Drives("highway_drives/tiny", context=4, balance=balance, turn=0.5).open()
        batches = opened.batches("train", 64, 1, 0)
        turning = [np.abs(batches[step]["actions"][..., -1]).max(1) > 0.5 for step in range(len(batches))]
        shares.append(np.concatenate(turning).mean())
    assert 0 < shares[0] < 0.3
    assert shares[1] == pytest.approx(0.4, abs=0.01)


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


def test_predictions_depend_on_the_step_and_a_token_is_taken_from_three() -> None:
    hidden = jnp.arange(12.0).reshape(1, 6, 2)
    assert np.asarray(EveryToken(3, 1).apply({}, hidden, Context())).tolist() == [[[2, 3], [8, 9]]]
    batch = {"returns": jnp.ones((1, 2, 1)), "features": jnp.ones((1, 2, 3)), "actions": jnp.ones((1, 2, 2))}
    params = jax.jit(DECIDING.init)(jax.random.key(0), batch)["params"]
    first, later = (
        np.asarray(DECIDING.apply({"params": params}, batch | {"positions": jnp.array([places])})) for places in ([0, 1], [30, 31])
    )
    assert not np.allclose(first, later)


@pytest.mark.parametrize(("model", "ways"), [(CLONING, ("jit", "alone", "pmap")), (DECIDING, ("jit", "ragged", "pmap", "mesh"))])
def test_drives_do_not_depend_on_batches_or_devices(model: Any, ways: tuple[str, ...]) -> None:
    review = ClosedLoop(episodes=2, asked=(10.0, 20.0) if model is DECIDING else (), steps=12, film=False)
    law_metrics_do_not_depend_on_batches_or_devices(experiment(model), review, 0, ways)


def test_drives_are_the_same_twice_and_are_shown() -> None:
    review = ClosedLoop(episodes=2, asked=(8.0, 16.0), steps=20)
    one = trained(experiment(DECIDING), Jit(), 64)
    first, second = review.review(one), review.review(one)
    assert first == second
    measured = {"collision_rate", "off_road_rate", "time_on_road", "mean_speed", "reward_ratio", "return_correlation"}
    assert set(first.metrics) == measured | {"reached_8", "reached_16"}
    (film,) = (piece for caption, piece in first.pictures.items() if "above" in caption)
    assert "data:image/gif;base64," in film
    assert len(film) < 1_000_000
    assert "2 drives from seeds that no log has" in first.pictures


def test_at_the_wheel_a_model_sees_the_windows_of_its_own_drive_with_what_is_left_of_the_return_asked() -> None:
    steps, asked, context = 9, np.array([4.0, 7.0]), 4
    data = {"horizon": 50, "middle": 0.3, "scale": 0.5}
    wheel: Any = Wheel(trained(experiment(DECIDING, **data), Jit(), 64), asked, steps)
    chance, seen = np.random.default_rng(0), list[dict[str, np.ndarray]]()

    def outputs(params: Any, batch: Any) -> np.ndarray:
        del params
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
            "returns": wheel.spec.scaled(left, np.arange(steps))[:, None],
        }
        assert np.ptp(whole["returns"]) > 0.01
        for step, batch in enumerate(seen):
            first = max(step + 1 - context, 0)
            known = {name: value * (np.arange(steps) < step + (name != "actions"))[:, None] for name, value in whole.items()}
            for name, value in window(known, first, context).items():  # nothing of what comes, and no action of this step
                np.testing.assert_allclose(batch[name][row], value, atol=1e-5, err_msg=f"{name} at step {step}")


def test_no_drive_is_longer_than_what_returns_are_divided_over() -> None:
    data = experiment(DECIDING, horizon=50).data.open()
    ClosedLoop(steps=50).ready(data)
    with pytest.raises(InputError, match=r"review\.steps is 51 and data\.horizon 50; drive no longer than that"):
        ClosedLoop(steps=51).ready(data)


def test_rewards_are_measured_beside_an_expert_s_where_the_highest_return_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
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
    found = ClosedLoop(steps=10).measured([long, short])
    assert found == {"collision_rate": 0.5, "off_road_rate": 0, "time_on_road": (10 + 3) / 20, "mean_speed": 25}
    assert correlation(np.array([1, 1, 2, 2]), np.array([3, 4, 7, 8])) == pytest.approx(0.894, abs=1e-3)
    assert correlation(np.array([1, 1]), np.array([3, 4])) == 0


def test_a_stopped_review_finds_nothing() -> None:
    one = dataclasses.replace(trained(experiment(), Jit(), 64), stop=lambda: True)
    assert not ClosedLoop(episodes=1).review(one).metrics


def test_without_the_package_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset("highway_drives/tiny", "train")
    driving.simulator.cache_clear()
    monkeypatch.setitem(sys.modules, "highway_env.road.road", None)
    assert main(["train", "drive_highway", "data.dataset=highway_drives/tiny", "--run", str(tmp_path / "run")]) == 2
    assert "package highway-env, which is absent; pip install 'morphax[drive]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    driving.simulator.cache_clear()


def spoiled(**changes: Any) -> Callable[[Path], Any]:
    """A file whose arrays are changed; None removes one."""

    def spoil(folder: Path) -> None:
        arrays = dict(np.load(folder / "1.npz"))
        arrays |= {name: change(arrays[name]) for name, change in changes.items()}
        np.savez(folder / "1.npz", **{name: value for name, value in arrays.items() if value is not None})

    return spoil


def flagged(place: int, value: int) -> Callable[[Path], Any]:
    """A file whose members are said to be compressed or encrypted, in a field of their entries of the archive's table."""

    def spoil(folder: Path) -> None:
        data = bytearray((folder / "1.npz").read_bytes())
        for mark, start in ((b"PK\x01\x02", place + 2), (b"PK\x03\x04", place)):
            at = -1
            while (at := data.find(mark, at + 1)) >= 0:
                data[at + start] = value
        (folder / "1.npz").write_bytes(data)

    return spoil


CASES: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "absent": (lambda folder: None, {"path": "nowhere.npz"}, "nowhere.npz cannot be read: No such file"),
    "empty folder": (lambda folder: [file.unlink() for file in folder.iterdir()], {}, "drives has no .npz files"),
    "one trajectory": (lambda folder: None, {"path": "drives/1.npz"}, "is one trajectory, and none is left to test on"),
    "no archive": (lambda folder: (folder / "1.npz").write_bytes(b"features"), {}, "1.npz is no .npz file of arrays"),
    "cut short": (lambda folder: (folder / "1.npz").write_bytes((folder / "2.npz").read_bytes()[:300]), {}, "1.npz is no .npz file"),
    "an unknown compression": (flagged(8, 77), {}, "1.npz is no .npz file of arrays"),
    "encrypted": (flagged(6, 1), {}, "1.npz is no .npz file of arrays"),
    "a single array": (lambda folder: np.save((folder / "1.npz").open("wb"), np.ones(3)), {}, "1.npz is no .npz file of arrays"),
    "objects": (spoiled(rewards=lambda array: array.astype(object)), {}, "1.npz is no .npz file of arrays of numbers"),
    "a missing array": (spoiled(rewards=lambda array: None), {}, "1.npz has no array 'rewards'; a trajectory has features"),
    "words": (spoiled(rewards=lambda array: array.astype(str)), {}, "has rewards of shape .12,. and type <U32; give numbers of shape .t,."),
    "one axis": (spoiled(features=lambda array: array[:, 0]), {}, "has features of shape .12,. .* give numbers of shape .t, k."),
    "no steps": (spoiled(actions=lambda array: array[:0]), {}, "has actions of shape .0, 2."),
    "another length": (spoiled(rewards=lambda array: array[:-2]), {}, "has 12 features, 12 actions, 10 rewards; give one of each"),
    "not a number": (
        spoiled(rewards=lambda some: np.where(some == some[4], np.nan, some)),
        {},
        "step 5, has rewards that no float32 holds",
    ),
    "beyond all numbers": (spoiled(features=lambda array: array * 1e300), {}, "step 1, has features that no float32 holds"),
    "other features": (spoiled(features=lambda array: array[:, :2]), {}, "1.npz has 2 features at a step and .*0.npz has 3"),
    "beyond the horizon": (lambda folder: None, {"horizon": 11}, "1.npz has 12 steps and data.horizon is 11; set data.horizon=12"),
    "another test part": (lambda folder: write(folder.parent / "other", k=5), {"test": "other"}, "has 5 features and 2 actions at a step"),
}


@pytest.mark.parametrize("name", CASES)
def test_trajectories_that_cannot_be_used_are_refused_in_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "drives")
    spoil, settings, sentence = CASES[name]
    spoil(tmp_path / "drives")
    given: dict[str, Any] = {"path": "drives"} | settings
    with pytest.raises(InputError, match=sentence):
        Drives(**given).open()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Drives(context=0),
        lambda: Drives(balance=1.0),
        lambda: Drives(horizon=0),
        lambda: Drives(holdout=0.0),
        lambda: Drives(test="drives"),
        lambda: ClosedLoop(episodes=0),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="give"):
        wrong()


def test_a_users_trajectories_are_trained_on_and_acted_on_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = write(tmp_path / "drives"), str(tmp_path / "run")
    small = ["model.embed.width=16", "model.stack.repeats=1", "model.stack.block.mixer.heads=2", "steps=3", "data.context=4"]
    wrong = write(tmp_path / "others", m=3)
    assert main(["train", "drive_highway", *small, f"data.path={wrong}", "--run", run]) == 2
    assert "has 3 actions a step and model.head.values is 2; set model.head.values=3" in capsys.readouterr().err
    assert not Path(run).exists()
    assert main(["train", "drive_decision", f"data.path={path}", "model.embed.position.length=10", "--run", run]) == 2
    assert "trajectories of 12 steps and model.embed.position.length holds 10 places" in capsys.readouterr().err
    assert main(["train", "drive_highway", *small, f"data.path={path}", "--run", run, "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["review"]
    assert "The data has 3 features and 2 actions, and the simulation has 31 and 2" in (tmp_path / "run" / "report.html").read_text()

    assert main(["predict", run, f"{path}/1.npz", f"{path}/2.npz", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [answer["input"] for answer in answers] == [
        f"{path}/{name}.npz:{step + 1}" for name, t in ((1, 12), (2, 3)) for step in range(t)
    ]
    assert all(len(answer["value"]) == 2 for answer in answers)
    # The same first steps give the same actions, whatever comes after; another past gives others.
    arrays = dict(np.load(f"{path}/1.npz"))
    np.savez(tmp_path / "short.npz", **{name: value[:6] for name, value in arrays.items()})
    assert main(["predict", run, str(tmp_path / "short.npz"), "--json"]) == 0
    short = json.loads(capsys.readouterr().out)["answers"]
    np.testing.assert_allclose([one["value"] for one in short], [one["value"] for one in answers[:6]], atol=1e-5)
    assert not np.allclose(answers[10]["value"], answers[11]["value"])

    np.savez(tmp_path / "narrow.npz", **arrays | {"features": arrays["features"][:, :2]})
    assert main(["predict", run, f"{path}/1.npz", str(tmp_path / "narrow.npz")]) == 2
    assert f"narrow.npz has 2 features at a step and {path}/1.npz has 3; give all files the same" in capsys.readouterr().err
    assert main(["predict", run, str(tmp_path / "narrow.npz")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
