"""Trajectories: what was seen, what was done, and the reward, step by step."""

import dataclasses
import hashlib
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.contracts import Model
from train.contracts import PART, Equal, Objective, Requirement
from train.data.batches import Arrays, Batches, of_examples
from train.data.needs import positions
from train.data.notes import Note, Notes
from train.data.readers.pixels import below
from train.data.source import dataset
from train.errors import InputError

COLUMNS = {"features": 2, "actions": 2, "rewards": 1}  # the arrays of a trajectory, and how many axes they have


class Trajectory(NamedTuple):
    """`features` (t, k), `actions` (t, m), `rewards` (t,), and where they are from."""

    features: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    origin: str


@dataclasses.dataclass(frozen=True)
class Drives:
    """Windows of `context` steps of trajectories, from a data set by name or a user's own .npz files.

    `path` and `test` are a file or a folder of files, each one trajectory: arrays `features` (t, k) and `actions` (t,
    m), of the order of 1, and `rewards` (t,).  Without `test` a part `holdout` of the trajectories, chosen by the md5
    of their files' names, is held out. Training windows begin at every step; with a `balance` those in which an
    action's last number (the steering) goes beyond `turn` are repeated until they are that share.  Test windows follow
    each other, so that every step is measured once.

    A batch has `features` (b, t, k), `actions` and `values` (b, t, m), which are the same; `returns` (b, t, 1), the sum
    of all rewards from a step to the end, with a `horizon` over the steps until then, which means the same at every
    step, less `middle`, over `scale`, from -3 to 3; `positions` (b, t), steps since the beginning; `weights`, `index`
    (b, t), 0 beyond the end.

    To act on a trajectory, `asked` is the sum of rewards that is asked of the whole of it: what its rewards before a
    step leave of it is the return at the step.  None asks for what the trajectory itself reached, so that answers are
    what would be done to reach the same.
    """

    dataset: str = "highway_drives/expert"
    path: str | None = None
    test: str | None = None
    context: int = 10
    balance: float = 0.0
    turn: float = 0.5
    horizon: int | None = None
    middle: float = 0.0
    scale: float = 100.0
    asked: float | None = None
    holdout: float = 0.1
    splits: tuple[str, str] = ("train", "test")

    def __post_init__(self) -> None:
        if self.context < 1 or self.scale <= 0 or (self.horizon is not None and self.horizon < 1):
            given = f"context {self.context}, scale {self.scale} and horizon {self.horizon}"
            raise ValueError(
                f"Drives has {given}; give 1 step or more, a scale above 0, and a horizon of 1 step or more, or none."
            )
        if self.asked is not None and not math.isfinite(self.asked):
            raise ValueError(
                f"Drives.asked is {self.asked}; give the finite return to ask for, or none for that of the"
                " trajectory itself."
            )
        if not 0 <= self.balance < 1 or not 0 < self.holdout < 1:
            given = f"balance {self.balance} and holdout {self.holdout}"
            raise ValueError(f"Drives has {given}; give shares below 1, and above 0 to hold out.")
        if self.test and not self.path:
            raise ValueError("Drives.test is given without path; give the trajectories to train on too.")

    def scaled(self, returns: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Returns from steps on, as models read them."""
        left = 1 if self.horizon is None else np.maximum(self.horizon - steps, 1)
        return np.clip((returns / left - self.middle) / self.scale, -3, 3).astype(np.float32)

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedDrives":
        """Both parts (or the one asked for), read and checked.  Raises InputError for what cannot be used."""
        opened = self.reader(classes)
        parts: list[PART] = ["train", "test"] if only is None else [only]
        for part, some in self._parts(parts, opened.notes).items():
            opened.take(part, some)
        return opened

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedDrives":
        """Ready for trajectories to act on, without the data."""
        del classes
        return OpenedDrives(self)

    def _parts(self, parts: list[PART], notes: Notes) -> dict[PART, list[Trajectory]]:
        if self.path is None:
            return {part: self._prepared(self.splits[part == "test"]) for part in parts}
        if self.test is not None:
            return {part: trajectories(self.test if part == "test" else self.path, notes) for part in parts}
        found = sorted(
            trajectories(self.path, notes), key=lambda one: hashlib.md5(Path(one.origin).name.encode()).hexdigest()
        )
        if len(found) < 2:
            raise InputError(
                f"{self.path} is one trajectory, and none is left to test on; give a folder of several, or data.test."
            )
        cut = min(max(1, round(self.holdout * len(found))), len(found) - 1)
        return {part: found[:cut] if part == "test" else found[cut:] for part in parts}

    def _prepared(self, split: str) -> list[Trajectory]:
        found = dataset(self.dataset, split)
        found.require(**{name: name for name in COLUMNS})
        rows = [found.examples[index] for index in range(len(found.examples))]
        return [
            checked({name: np.asarray(row[name]) for name in COLUMNS}, found.where(index))
            for index, row in enumerate(rows)
        ]


def trajectories(path: str, notes: Notes | None = None) -> list[Trajectory]:
    """The trajectories of a file, or of the .npz files of a folder; `notes` takes its others.

    Raises InputError for what cannot be used.
    """
    return _alike([_read(file) for file in _files(path, Notes() if notes is None else notes)])


def _alike(found: list[Trajectory]) -> list[Trajectory]:
    """The same trajectories.  Raises InputError where one has other numbers at a step than the first."""
    for one in found[1:]:
        for name, width in (("features", found[0].features.shape[1]), ("actions", found[0].actions.shape[1])):
            if (own := getattr(one, name).shape[1]) != width:
                raise InputError(
                    f"{one.origin} has {own} {name} at a step and {found[0].origin} has {width}; give all files the"
                    " same."
                )
    return found


def _files(path: str, notes: Notes) -> list[Path]:
    """A file, or the .npz files of a folder in the order of their names; `notes` takes its others."""
    place = Path(path).expanduser()
    if not place.is_dir():
        return [place]
    files = sorted(place.glob("*.npz"))
    if not files:
        raise InputError(f"The folder {path} has no .npz files; give one that has a file for each trajectory.")
    every = below(place)
    if others := tuple(str(file) for file in every if file not in files):
        notes.take([Note(path, "are no .npz files in the folder itself and are left out", "files", others, len(every))])
    return files


def _read(file: Path) -> Trajectory:
    try:
        opened = np.load(file, allow_pickle=False)
        if not hasattr(opened, "files"):
            raise ValueError("a single array")
        with opened as arrays:
            return checked({name: arrays[name] for name in COLUMNS if name in arrays.files}, str(file))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {os.strerror(error.errno or 0) if error.errno else error}.") from None
    except InputError:
        raise
    except (
        ValueError,
        KeyError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ):  # the fourth of a compression, or a password
        raise InputError(
            f"{file} is no .npz file of arrays of numbers; write one with numpy.savez(file, features=..., ...)."
        ) from None


def checked(arrays: Arrays, origin: str) -> Trajectory:
    """A trajectory.  Raises InputError where an array is missing or of another shape, or a number is none."""
    for name, axes in COLUMNS.items():
        if name not in arrays:
            raise InputError(
                f"{origin} has no array {name!r}; a trajectory has features (t, k), actions (t, m) and rewards (t,)."
            )
        array = arrays[name]
        if array.dtype.kind not in "fiub" or array.ndim != axes or 0 in array.shape:
            wanted = {"features": "(t, k)", "actions": "(t, m)", "rewards": "(t,)"}[name]
            raise InputError(
                f"{origin} has {name} of shape {array.shape} and type {array.dtype}; give numbers of shape {wanted}."
            )
        with np.errstate(over="ignore"):
            arrays = arrays | {name: (array := array.astype(np.float32))}
        if not np.isfinite(array).all():
            step = int(np.nonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))[0][0])
            raise InputError(
                f"{origin}, step {step + 1}, has {name} that no float32 holds; fill them in, or cut the trajectory"
                " there."
            )
    lengths = {name: len(arrays[name]) for name in COLUMNS}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise InputError(f"{origin} has {listed}; give one of each for every step.")
    features, actions, rewards = (arrays[name] for name in COLUMNS)
    return Trajectory(features, actions, rewards, origin)


def returns(rewards: np.ndarray) -> np.ndarray:
    """The sum of the rewards from each step to the end, (t,)."""
    return np.cumsum(rewards[::-1].astype(np.float64))[::-1].astype(np.float32)


def window(trajectory: Arrays, start: int, context: int) -> Arrays:
    """`context` steps of a trajectory's arrays from one on, zeros beyond its end, with their `positions`; arrays keep
    their other axes.
    """
    cut = {name: value[start : start + context] for name, value in trajectory.items()}
    missing = context - len(next(iter(cut.values())))
    if missing:
        cut = {name: np.pad(value, ((0, missing),) + ((0, 0),) * (value.ndim - 1)) for name, value in cut.items()}
    return cut | {"positions": np.arange(start, start + context, dtype=np.int32)}


class OpenedDrives:
    """See `train.contracts.Dataset`; `features` and `actions` are how many numbers a step has, `longest` the most
    steps.
    """

    vocab = 0
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __init__(self, spec: Drives) -> None:
        self.spec = spec
        self.features = self.actions = self.longest = 0
        self.parts: dict[PART, list[Trajectory]] = {}
        self.arrays: dict[PART, list[Arrays]] = {}
        self.windows: dict[PART, np.ndarray] = {}  # (n, 2): a trajectory and a step
        self.notes = Notes()

    def take(self, part: PART, found: list[Trajectory]) -> None:
        """Takes in the trajectories of a part; raises InputError where they have other numbers than those of the other
        part.
        """
        widths = found[0].features.shape[1], found[0].actions.shape[1]
        if self.features and widths != (self.features, self.actions):
            known = f"{self.features} features and {self.actions} actions"
            raise InputError(
                f"{found[0].origin} has {widths[0]} features and {widths[1]} actions at a step, and training had"
                f" {known}."
            )
        self.features, self.actions = widths
        self.longest = max(self.longest, *(len(one.rewards) for one in found))
        self.parts[part] = found
        first = np.concatenate([[0], np.cumsum([len(one.rewards) for one in found])]).astype(np.int32)
        self.arrays[part] = [self._arrays(one, int(start)) for one, start in zip(found, first, strict=False)]
        self.windows[part] = self._turning(found) if part == "train" else self._following(found)

    def _arrays(self, one: Trajectory, first: int, asked: float | None = None) -> Arrays:
        length, horizon = len(one.rewards), self.spec.horizon
        if horizon is not None and length > horizon:
            raise InputError(
                f"{one.origin} has {length} steps and data.horizon is {horizon}; set data.horizon={length}, or cut it."
            )
        left = returns(one.rewards)
        if asked is not None:
            left = left + (asked - left[0])
        ahead = self.spec.scaled(left, np.arange(length))[:, None]
        placed = {"weights": np.ones(length, np.float32), "index": np.arange(first, first + length, dtype=np.int32)}
        return {"features": one.features, "actions": one.actions, "values": one.actions, "returns": ahead} | placed

    def _following(self, found: list[Trajectory]) -> np.ndarray:
        """Windows one after the other, which hold every step once."""
        context = self.spec.context
        return np.array(
            [(number, step) for number, one in enumerate(found) for step in range(0, len(one.rewards), context)]
        )

    def _turning(self, found: list[Trajectory]) -> np.ndarray:
        """The windows that begin at any step and stay inside, those with a turn as often as `balance` asks."""
        context, share = self.spec.context, self.spec.balance
        windows, turning = [], []
        for number, one in enumerate(found):
            length = len(one.rewards)
            steps = np.arange(max(length - context, 0) + 1)
            turns = np.concatenate([[0], np.cumsum(np.abs(one.actions[:, -1]) > self.spec.turn)])
            windows.append(np.stack([np.full(len(steps), number), steps], -1))
            turning.append(turns[np.minimum(steps + context, length)] > turns[steps])
        every, some = np.concatenate(windows), np.concatenate(turning)
        wanted = round(share / (1 - share) * (~some).sum())
        if not some.any() or wanted <= some.sum():
            return every
        return np.concatenate([every[~some], np.resize(every[some], (wanted, 2))])

    def count(self, part: PART) -> int:
        """How many windows a part has."""
        return len(self.windows[part])

    def shown(self, part: PART, index: int) -> str:
        """Which step of which trajectory it is."""
        for one in self.parts[part]:
            if index < len(one.rewards):
                return f"{one.origin}, step {index + 1}"
            index -= len(one.rewards)
        raise IndexError(index)

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """An output for each number of an action, and positions for the longest trajectory, once they are read."""
        del model, objective
        if not self.actions:
            return {}
        held = positions(self.longest, f"the data has trajectories of {self.longest} steps")
        return held | {"model.head.values": Equal(self.actions, f"the data has {self.actions} actions a step")}

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of windows, as `Drives` says."""
        windows, arrays = self.windows[part], self.arrays[part]

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            number, start = windows[index]
            return window(arrays[number], int(start), self.spec.context)

        return of_examples(len(windows), one, batch_size, multiple, seed)

    def asked(self, given: Sequence[str]) -> list[str]:
        """A question for each step of each file, and of each file of a folder."""
        files = [file for name in given for file in _files(name, self.notes)]
        return [f"{file}:{step}" for file in files for step in range(1, len(_read(file).rewards) + 1)]

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Steps of trajectories to act on, each the last of its window."""
        context, names = self.spec.context, list(dict.fromkeys(question.rpartition(":")[0] for question in asked))
        known: dict[str, Arrays] = {}
        for name, given in zip(names, _alike([_read(Path(name)) for name in names]), strict=True):
            arrays = self._arrays(given, 0, self.spec.asked)
            known[name] = {key: arrays[key] for key in ("features", "actions", "returns")}

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            name, _, step = asked[index].rpartition(":")
            start = max(int(step) - context, 0)
            return window(known[name], start, context) | {"last": np.array(int(step) - 1 - start, np.int32)}

        return of_examples(len(asked), one, batch_size, multiple)

    def restored(self, output: np.ndarray, example: Arrays) -> np.ndarray:
        """The action of the step that was asked for, of those that a model gives for a window (t, m)."""
        return output[example["last"]]
