"""Trajectories: windows and returns against loops, and the user's own files, trained on and acted on."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train.cli import main
from train.data.tasks.drives import Drives, read_trajectories
from train.errors import InputError
from train.review.driving import ClosedLoop


@pytest.fixture(autouse=True)
def prepared(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))


def write(folder: Path, lengths: tuple[int, ...] = (9, 12, 3, 7), k: int = 3, m: int = 2) -> str:
    """Trajectories of chance, a file each."""
    folder.mkdir(exist_ok=True)
    for number, length in enumerate(lengths):
        chance = np.random.default_rng(number)
        seen, done = chance.normal(size=(length, k)), chance.uniform(-1, 1, (length, m))
        np.savez(folder / f"{number}.npz", features=seen, actions=done, rewards=chance.random(length))
    return str(folder)


def test_windows_and_returns_are_those_of_a_loop(tmp_path: Path) -> None:
    path = write(tmp_path / "drives")
    opened = Drives(path=path, test=path, context=5, scale=10.0, balance=0.0).open()
    batches = {part: opened.batches(part, 4, 4, None) for part in ("train", "test")}
    known = read_trajectories(path)
    seen: dict[str, list[int]] = {"train": [], "test": []}
    starts = []
    for part, some in batches.items():
        for step in range(len(some)):
            batch = some[step]
            for row in np.nonzero(batch["weights"].any(1))[0]:
                first = int(batch["index"][row, 0])
                number = next(
                    place for place in range(4) if first < sum(len(one.rewards) for one in known[: place + 1])
                )
                begin = first - sum(len(one.rewards) for one in known[:number])
                starts += [(number, begin)] if part == "train" else []
                one = known[number]
                assert batch["positions"][row].tolist() == list(range(begin, begin + 5))
                for place in range(5):
                    at = begin + place
                    assert batch["weights"][row, place] == float(at < len(one.rewards))
                    if at >= len(one.rewards):
                        assert not any(
                            np.any(batch[name][row, place]) for name in ("features", "actions", "values", "returns")
                        )
                        continue
                    seen[part].append(int(batch["index"][row, place]))
                    np.testing.assert_array_equal(batch["features"][row, place], one.features[at])
                    np.testing.assert_array_equal(batch["actions"][row, place], one.actions[at])
                    np.testing.assert_array_equal(batch["values"][row, place], one.actions[at])
                    ahead = sum(float(value) for value in one.rewards[at:]) / 10
                    assert batch["returns"][row, place, 0] == pytest.approx(ahead, rel=1e-5)
    assert sorted(seen["test"]) == list(range(9 + 12 + 3 + 7))  # every step once
    assert starts == [(0, step) for step in range(5)] + [(1, step) for step in range(8)] + [(2, 0)] + [
        (3, step) for step in range(3)
    ]
    assert opened.show_example("test", 9 + 3).endswith("1.npz, step 4")


def test_returns_over_the_steps_left_mean_the_same_at_every_step(tmp_path: Path) -> None:
    np.savez(tmp_path / "even.npz", features=np.ones((10, 3)), actions=np.ones((10, 2)), rewards=np.full(10, 0.7))
    path = str(tmp_path / "even.npz")
    batch = (
        Drives(path=path, test=path, context=10, horizon=10, middle=0.5, scale=0.1)
        .open()
        .batches("test", 1, 1, None)[0]
    )
    np.testing.assert_allclose(batch["returns"][0, :, 0], 2.0, rtol=1e-5)
    batch = Drives(path=path, test=path, context=10, scale=0.5).open().batches("test", 1, 1, None)[0]
    np.testing.assert_allclose(batch["returns"][0, :, 0], [3, 3, 3, 3, 3, 3, 3, 3, 2.8, 1.4], rtol=1e-5)


@pytest.mark.parametrize("horizon", [None, 20])
def test_a_return_is_asked_for_as_it_is_at_the_wheel(horizon: int | None, tmp_path: Path) -> None:
    """What is left of it falls by each reward; the trajectory's own sum asks for what it reached."""
    path = write(tmp_path / "drives") + "/1.npz"
    one, spec = read_trajectories(path)[0], Drives(context=5, horizon=horizon, scale=10.0)

    def given(asked: float | None) -> np.ndarray:
        opened = dataclasses.replace(spec, asked=asked).reader()
        batch = opened.questions(opened.list_questions([path]), 12, 1)[0]
        return batch["returns"][np.arange(12), batch["last"], 0]

    left, expected = 14.0, []
    for step, got in enumerate([0.0, *one.rewards[:-1].tolist()]):
        left -= got
        expected.append(float(spec.scale_returns(np.array(left), np.array(step))))
    np.testing.assert_allclose(given(14.0), expected, rtol=1e-5)
    np.testing.assert_allclose(given(float(one.rewards.sum())), given(None), rtol=1e-4)
    assert not np.allclose(given(14.0), given(None))


@pytest.mark.slow
def test_windows_with_a_turn_are_drawn_as_often_as_asked() -> None:
    shares = []
    settings: list[dict[str, Any]] = [{}, {"balance": 0.4, "turn": 0.5}]
    for chosen in settings:
        opened = Drives("highway_drives/tiny", context=4, **chosen).open()
        batches = opened.batches("train", 64, 1, 0)
        turning = [np.abs(batches[step]["actions"][..., -1]).max(1) > 0.5 for step in range(len(batches))]
        shares.append(np.concatenate(turning).mean())
    assert 0 < shares[0] < 0.2  # as many as there are
    assert shares[1] == pytest.approx(0.4, abs=0.01)


def spoiled(**changes: Any) -> Callable[[Path], Any]:
    """A file whose arrays are changed; None removes one."""

    def spoil(folder: Path) -> None:
        arrays = dict(np.load(folder / "1.npz"))
        arrays |= {name: change(arrays[name]) for name, change in changes.items()}
        np.savez(folder / "1.npz", **{name: value for name, value in arrays.items() if value is not None})

    return spoil


def flagged(place: int, value: int) -> Callable[[Path], Any]:
    """A file whose members are said to be compressed or encrypted, in a field of their entries of the archive's
    table.
    """

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
    "cut short": (
        lambda folder: (folder / "1.npz").write_bytes((folder / "2.npz").read_bytes()[:300]),
        {},
        "1.npz is no .npz file",
    ),
    "an unknown compression": (flagged(8, 77), {}, "1.npz is no .npz file of arrays"),
    "encrypted": (flagged(6, 1), {}, "1.npz is no .npz file of arrays"),
    "a single array": (
        lambda folder: np.save((folder / "1.npz").open("wb"), np.ones(3)),
        {},
        "1.npz is no .npz file of arrays",
    ),
    "objects": (spoiled(rewards=lambda array: array.astype(object)), {}, "1.npz is no .npz file of arrays of numbers"),
    "a missing array": (
        spoiled(rewards=lambda array: None),
        {},
        "1.npz has no array 'rewards'; a trajectory has features",
    ),
    "words": (
        spoiled(rewards=lambda array: array.astype(str)),
        {},
        "has rewards of shape .12,. and type <U32; give numbers of shape .t,.",
    ),
    "one axis": (
        spoiled(features=lambda array: array[:, 0]),
        {},
        "has features of shape .12,. .* give numbers of shape .t, k.",
    ),
    "no steps": (spoiled(actions=lambda array: array[:0]), {}, "has actions of shape .0, 2."),
    "another length": (
        spoiled(rewards=lambda array: array[:-2]),
        {},
        "has 12 features, 12 actions, 10 rewards; give one of each",
    ),
    "not a number": (
        spoiled(rewards=lambda some: np.where(some == some[4], np.nan, some)),
        {},
        "step 5, has rewards that no float32 holds",
    ),
    "beyond all numbers": (
        spoiled(features=lambda array: array * 1e300),
        {},
        "step 1, has features that no float32 holds",
    ),
    "other features": (
        spoiled(features=lambda array: array[:, :2]),
        {},
        "1.npz has 2 features at a step and .*0.npz has 3",
    ),
    "beyond the horizon": (
        lambda folder: None,
        {"horizon": 11},
        "1.npz has 12 steps and data.horizon is 11; set data.horizon=12",
    ),
    "another test part": (
        lambda folder: write(folder.parent / "other", k=5),
        {"test": "other"},
        "has 5 features and 2 actions at a step",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_trajectories_that_cannot_be_used_are_refused_in_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        lambda: Drives(asked=math.nan),
        lambda: Drives(holdout=0.0),
        lambda: Drives(test="drives"),
        lambda: ClosedLoop(episodes=0),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="give"):
        wrong()


@pytest.mark.slow
def test_a_users_trajectories_are_trained_on_and_acted_on_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = write(tmp_path / "drives"), str(tmp_path / "run")
    small = [
        "model.embed.width=16",
        "model.stack.repeats=1",
        "model.stack.block.mixer.heads=2",
        "steps=3",
        "data.context=4",
    ]
    wrong = write(tmp_path / "others", m=3)
    assert main(["train", "drive_highway", *small, f"data.path={wrong}", "model.head.values=2", "--run", run]) == 2
    assert "has 3 actions a step and model.head.values is 2; set model.head.values=3" in capsys.readouterr().err
    assert not Path(run).exists()
    plain = ["data.horizon=none", "data.middle=0", "data.scale=10", "review=none"]
    deciding = ["train", "drive_decision", *small, *plain, f"data.path={path}", "--run", f"{run}-deciding"]
    assert main(deciding) == 0
    answers = []
    for more in ([], ["--set", "data.asked=6"], ["--set", "data.asked=7"]):
        capsys.readouterr()
        assert main(["predict", f"{run}-deciding", f"{path}/1.npz", *more, "--json"]) == 0
        answers.append([answer["value"] for answer in json.loads(capsys.readouterr().out)["answers"]])
    assert not any(np.allclose(one, other) for one, other in zip(answers, answers[1:], strict=False))
    assert main(["train", "drive_decision", f"data.path={path}", "model.embed.position.length=10", "--run", run]) == 2
    said = capsys.readouterr().err
    assert "trajectories of 12 steps and model.embed.position.length is 10; set model.embed.position.length=12." in said
    assert main(["train", "drive_highway", *small, f"data.path={path}", "--run", run, "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["review"]
    assert (
        "The data has 3 features and 2 actions, and the simulation has 31 and 2"
        in (tmp_path / "run" / "report.html").read_text()
    )

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
    assert (
        f"narrow.npz has 2 features at a step and {path}/1.npz has 3; give all files the same"
        in capsys.readouterr().err
    )
    assert main(["predict", run, str(tmp_path / "narrow.npz")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
