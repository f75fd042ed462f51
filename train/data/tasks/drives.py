"""Trajectories: observations, actions and rewards of each step."""

import dataclasses
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.contracts import Model, Tree
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches, of_examples
from train.data.needs import Equal, need_positions
from train.data.notes import Note, Notes
from train.data.readers.pixels import list_files
from train.data.sources import divide_by_rank, open_dataset, open_parts, require_source
from train.errors import InputError

COLUMNS = {"features": 2, "actions": 2, "rewards": 1}  # the arrays of a trajectory and their numbers of axes


class Trajectory(NamedTuple):
    """`features` (t, k), `actions` (t, m), `rewards` (t,), and their origin."""

    features: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    origin: str


@dataclasses.dataclass(frozen=True)
class Drives:
    """Windows of `context` steps of trajectories, from a data set by name or a user's own .npz files.

    `path` and `test` are a file or a folder of files, each one trajectory: arrays `features` (t, k) and `actions` (t,
    m), of the order of 1, and `rewards` (t,).  Unless `test` is given, the fraction `holdout` of the trajectories,
    chosen by the md5 of their file names, is held out.  Training windows begin at every step; with a `balance`, windows
    in which an action's last number (the steering) exceeds `turn` are repeated until they are that fraction.  Test
    windows do not overlap, so that every step is measured once.

    A batch has `features` (b, t, k), `actions` and `values` (b, t, m), which are equal; `returns` (b, t, 1), the return
    (the sum of the rewards from a step to the end) less `middle`, over `scale`, clipped to -3 to 3; `positions` (b, t),
    steps since the beginning; `weights`, `index` (b, t), 0 beyond the end.  With a `horizon` the return is first
    divided by the steps left until then, so that it means the same at every step.

    To act on a trajectory, `asked` is the return asked of the whole trajectory: the return at a step is `asked` less
    the rewards before the step.  None asks for the trajectory's own return, so that answers are the actions that would
    reach the same.
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
            raise ValueError(
                f"Drives has context {self.context}, scale {self.scale} and horizon {self.horizon}; give 1 step or"
                " more, a scale above 0, and a horizon of 1 step or more, or none."
            )
        if self.asked is not None and not math.isfinite(self.asked):
            raise ValueError(
                f"Drives.asked is {self.asked}; give the finite return to ask for, or none for that of the"
                " trajectory itself."
            )
        if not 0 <= self.balance < 1:
            raise ValueError(f"Drives.balance is {self.balance}; give a share of 0 or more and below 1.")
        require_source(self, "trajectories")

    def scale_returns(self, returns: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Scales the returns of steps to model inputs."""
        left = 1 if self.horizon is None else np.maximum(self.horizon - steps, 1)
        return np.clip((returns / left - self.middle) / self.scale, -3, 3).astype(np.float32)

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedDrives":
        """Opens both parts (or the one asked for).  Raises InputError for data that cannot be used."""
        opened = self.reader(classes)
        parts = open_parts(
            self,
            only,
            _open_split,
            lambda path, part: read_trajectories(path, opened.notes),
            self._divide,
        )
        for part, some in parts.items():
            opened.take(part, some)
        return opened

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedDrives":
        """The data set without examples, ready for trajectories to act on."""
        del classes
        return OpenedDrives(self)

    def _divide(self, every: list[Trajectory]) -> dict[PART, list[Trajectory]]:
        if len(every) < 2:
            raise InputError(
                f"{self.path} is one trajectory, and none is left to test on; give a folder of several, or data.test."
            )
        return divide_by_rank(every, (Path(trajectory.origin).name for trajectory in every), self.holdout)


def _open_split(name: str, split: str) -> list[Trajectory]:
    """Opens the trajectories of a split of a data set by name."""
    opened = open_dataset(name, split)
    opened.require(**{column: column for column in COLUMNS})
    rows = [opened.examples[index] for index in range(len(opened.examples))]
    return [
        check_trajectory({column: np.asarray(row[column]) for column in COLUMNS}, opened.where(index))
        for index, row in enumerate(rows)
    ]


def read_trajectories(path: str, notes: Notes | None = None) -> list[Trajectory]:
    """Reads the trajectories of a file, or of the .npz files of a folder; `notes` takes its other files.

    Raises InputError for a file that cannot be used.
    """
    return _require_alike([_read(file) for file in _list_files(path, Notes() if notes is None else notes)])


def _require_alike(trajectories: list[Trajectory]) -> list[Trajectory]:
    """Returns the trajectories unchanged.  Raises InputError unless all have as many features and actions."""
    for other in trajectories[1:]:
        first = trajectories[0]
        for name, array, expected in (
            ("features", other.features, first.features),
            ("actions", other.actions, first.actions),
        ):
            if array.shape[1] != expected.shape[1]:
                raise InputError(
                    f"{other.origin} has {array.shape[1]} {name} at a step and {first.origin} has {expected.shape[1]};"
                    " give all files the same."
                )
    return trajectories


def _list_files(path: str, notes: Notes) -> list[Path]:
    """Lists a file, or the .npz files of a folder in the order of their names; `notes` takes its other files."""
    source = Path(path).expanduser()
    if not source.is_dir():
        return [source]
    files = sorted(source.glob("*.npz"))
    if not files:
        raise InputError(f"The folder {path} has no .npz files; give one that has a file for each trajectory.")
    every = list_files(source)
    if others := tuple(str(file) for file in every if file not in files):
        notes.take([Note(path, "are no .npz files in the folder itself and are left out", "files", others, len(every))])
    return files


def _read(file: Path) -> Trajectory:
    try:
        opened = np.load(file, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with opened as arrays:
            return check_trajectory({name: arrays[name] for name in COLUMNS if name in arrays.files}, str(file))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {os.strerror(error.errno or 0) if error.errno else error}.") from None
    except InputError:
        raise
    # RuntimeError for an unknown compression, or a password
    except (ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        raise InputError(
            f"{file} is no .npz file of arrays of numbers; write one with numpy.savez(file, features=..., ...)."
        ) from None


def check_trajectory(arrays: Arrays, origin: str) -> Trajectory:
    """Makes a trajectory.  Raises InputError if an array is missing or of another shape, or has infinities or NaN."""
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


def sum_returns(rewards: np.ndarray) -> np.ndarray:
    """Sums the rewards from each step to the end, (t,)."""
    return np.cumsum(rewards[::-1].astype(np.float64))[::-1].astype(np.float32)


def cut_window(trajectory: Arrays, start: int, context: int) -> Arrays:
    """Cuts `context` steps from the arrays of a trajectory, zeros beyond its end, and adds their `positions`."""
    cut = {name: value[start : start + context] for name, value in trajectory.items()}
    missing = context - len(next(iter(cut.values())))
    if missing:
        cut = {name: np.pad(value, ((0, missing),) + ((0, 0),) * (value.ndim - 1)) for name, value in cut.items()}
    return cut | {"positions": np.arange(start, start + context, dtype=np.int32)}


class OpenedDrives:
    """The opened data set of `Drives`, a `train.contracts.Dataset`.

    A step has `features` features and `actions` actions; `longest` is the length of the longest trajectory.
    """

    vocab = 0
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __init__(self, spec: Drives) -> None:
        self.spec = spec
        self.features = self.actions = self.longest = 0
        self.parts: dict[PART, list[Trajectory]] = {}
        self.arrays: dict[PART, list[Arrays]] = {}
        self.windows: dict[PART, np.ndarray] = {}  # (n, 2): trajectory and first step
        self.notes = Notes()

    def take(self, part: PART, trajectories: list[Trajectory]) -> None:
        """Takes the trajectories of a part.  Raises InputError unless both parts have as many features and actions."""
        widths = trajectories[0].features.shape[1], trajectories[0].actions.shape[1]
        if self.features and widths != (self.features, self.actions):
            known = f"{self.features} features and {self.actions} actions"
            raise InputError(
                f"{trajectories[0].origin} has {widths[0]} features and {widths[1]} actions at a step, and training had"
                f" {known}."
            )
        self.features, self.actions = widths
        lengths = [len(trajectory.rewards) for trajectory in trajectories]
        self.longest = max(self.longest, *lengths)
        self.parts[part] = trajectories
        starts = np.cumsum([0, *lengths[:-1]]).astype(np.int32)
        self.arrays[part] = [
            self._make_arrays(trajectory, int(start)) for trajectory, start in zip(trajectories, starts, strict=True)
        ]
        self.windows[part] = self._choose_turning(trajectories) if part == "train" else self._tile(lengths)

    def _make_arrays(self, trajectory: Trajectory, first: int, asked: float | None = None) -> Arrays:
        features, actions, rewards, origin = trajectory
        length, horizon = len(rewards), self.spec.horizon
        if horizon is not None and length > horizon:
            raise InputError(
                f"{origin} has {length} steps and data.horizon is {horizon}; set data.horizon={length}, or cut it."
            )
        left = sum_returns(rewards)
        if asked is not None:
            left = left + (asked - left[0])
        ahead = self.spec.scale_returns(left, np.arange(length))[:, None]
        placed = {"weights": np.ones(length, np.float32), "index": np.arange(first, first + length, dtype=np.int32)}
        return {"features": features, "actions": actions, "values": actions, "returns": ahead} | placed

    def _tile(self, lengths: Sequence[int]) -> np.ndarray:
        """Tiles trajectories with windows, so that each step is in one."""
        context = self.spec.context
        return np.array([(number, step) for number, length in enumerate(lengths) for step in range(0, length, context)])

    def _choose_turning(self, trajectories: list[Trajectory]) -> np.ndarray:
        """Chooses windows at every step that stay inside, and repeats those with a turn as `balance` says."""
        context, share = self.spec.context, self.spec.balance
        windows, turning = [], []
        for number, trajectory in enumerate(trajectories):
            length = len(trajectory.rewards)
            steps = np.arange(max(length - context, 0) + 1)
            turns = np.concatenate([[0], np.cumsum(np.abs(trajectory.actions[:, -1]) > self.spec.turn)])
            windows.append(np.stack([np.full(len(steps), number), steps], -1))
            turning.append(turns[np.minimum(steps + context, length)] > turns[steps])
        every, some = np.concatenate(windows), np.concatenate(turning)
        wanted = round(share / (1 - share) * (~some).sum())
        if not some.any() or wanted <= some.sum():
            return every
        return np.concatenate([every[~some], np.resize(every[some], (wanted, 2))])

    def count(self, part: PART) -> int:
        """The number of windows of a part."""
        return len(self.windows[part])

    def show_example(self, part: PART, index: int) -> str:
        """The origin and the step of the example."""
        for trajectory in self.parts[part]:
            if index < len(trajectory.rewards):
                return f"{trajectory.origin}, step {index + 1}"
            index -= len(trajectory.rewards)
        raise IndexError(index)

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Requires an output for each action, and positions for the longest trajectory, once the data is read."""
        del model, objective
        if not self.actions:
            return {}
        needs = need_positions(self.longest, f"the data has trajectories of {self.longest} steps")
        return needs | {"model.head.values": Equal(self.actions, f"the data has {self.actions} actions a step")}

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of windows: the arrays of `Drives`."""
        windows, arrays = self.windows[part], self.arrays[part]

        def make_example(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            number, start = windows[index]
            return cut_window(arrays[number], int(start), self.spec.context)

        return of_examples(len(windows), make_example, batch_size, multiple, seed)

    def list_questions(self, inputs: Sequence[str]) -> list[str]:
        """A question for each step of each file, and of each file of a folder."""
        files = [file for name in inputs for file in _list_files(name, self.notes)]
        return [f"{file}:{step}" for file in files for step in range(1, len(_read(file).rewards) + 1)]

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Batches of steps of trajectories to act on, each the last of its window."""
        context = self.spec.context
        names = list(dict.fromkeys(question.rpartition(":")[0] for question in asked))
        known: dict[str, Arrays] = {}
        for name, trajectory in zip(names, _require_alike([_read(Path(name)) for name in names]), strict=True):
            arrays = self._make_arrays(trajectory, 0, self.spec.asked)
            known[name] = {key: arrays[key] for key in ("features", "actions", "returns")}

        def make_example(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            name, _, step = asked[index].rpartition(":")
            start = max(int(step) - context, 0)
            return cut_window(known[name], start, context) | {"last": np.array(int(step) - 1 - start, np.int32)}

        return of_examples(len(asked), make_example, batch_size, multiple)

    def restored(self, output: Tree, example: Arrays) -> Tree:
        """Picks the action of the step that was asked for from the outputs of a window (t, m)."""
        return output[example["last"]]
