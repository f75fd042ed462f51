"""Checkpoints by Orbax: asynchronous, atomic, checked when read; the last few and the best are kept."""

import contextlib
import dataclasses
import itertools
import json
import logging
import shutil
import sys
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from models.paths import path_name
from train.disk import REPORTED_WRITES, explain_failed_writes
from train.engine.draining import drain
from train.engine.step import TrainState
from train.errors import InputError

REPLACED = "replaced-"  # before the step of a checkpoint that a new one of the same step takes the place of


@jax.jit
def fingerprint(tree: Any) -> jax.Array:
    """One 32-bit sum a leaf over its bits, each weighted by its place: any order of devices gives the same number.

    Element by element, so that a leaf that is split over devices stays where it is.
    """

    def one(leaf: jax.Array) -> jax.Array:
        kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
        bits, place, stride = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32), jnp.uint32(0), 1
        for axis in reversed(range(leaf.ndim)):
            place = place + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride % 2**32)
            stride *= leaf.shape[axis]
        return jnp.sum((bits + 1) * (2 * place + 1), dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in jax.tree.leaves(tree)])


class DamagedError(Exception):
    """What a checkpoint holds is not what was written: its checksum says so, or its text is no JSON."""


# that the bytes are bad: all that Orbax decodes here is its own JSON
PROVEN = (DamagedError, json.JSONDecodeError, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run remembers besides its state: the last step that was evaluated, the best metric, evaluations since
    that.

    `pending` are the sums, each with its weight, of the steps since the last line of the log.
    """

    evaluated: int = 0
    best: float | None = None
    waited: int = 0
    pending: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


class Store:
    """The checkpoints of a run.  Close it, or use it as a context, so that the last save is finished.

    `reading` leaves everything as it is, also what a run at work is writing.  Raises InputError where metrics cannot be
    read.
    """

    def __init__(
        self, folder: Path, keep: int = 2, metric: str = "loss", greater: bool = False, reading: bool = False
    ) -> None:
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs with stack traces what it also raises
        logging.getLogger("asyncio").addFilter(REPORTED_WRITES)
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[metric],
            reverse=not greater,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            best_fn=lambda metrics: metrics[metric],
            best_mode="max" if greater else "min",
            cleanup_tmp_directories=not reading,
            read_only=reading,
        )
        self.folder, self.reading, self.loops = folder, reading, contextlib.ExitStack()
        with self._written():
            self._recover()
            for step in list_steps(folder):  # Orbax reads the metrics of all when it opens
                self._readable(step, metric)
            self.manager = ocp.CheckpointManager(folder.absolute(), options=options)
        if not reading:
            self.loops.enter_context(drain())  # of threads that save

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self.loops, contextlib.suppress(*(() if kind is None else (Exception,))), self._written():
            try:
                self.manager.close()
            finally:
                self._recover()

    def save(self, state: TrainState, progress: Progress, metrics: dict[str, float] | None) -> None:
        """Starts writing a checkpoint; training goes on meanwhile.

        One of the same step, saved before its evaluation, is replaced, and kept until the new one is whole.
        """
        step = int(state.step)
        self.wait()
        with self._written():
            self._save(step, state, progress, metrics)

    def _save(self, step: int, state: TrainState, progress: Progress, metrics: dict[str, float] | None) -> None:
        if step in self.manager.all_steps():
            (self.folder / str(step)).rename(self.folder / f"{REPLACED}{step}")
            self.manager.reload()
        rest = dataclasses.replace(state, params=None)
        items = {name: ocp.args.StandardSave(_seal(tree)) for name, tree in (("params", state.params), ("rest", rest))}
        args = ocp.args.Composite(**items, progress=ocp.args.JsonSave(_sign(progress, metrics)))
        self.manager.save(step, args=args, metrics=metrics, force=True)

    def wait(self) -> None:
        """Returns when what was saved is on the disk."""
        with self._written():
            self.manager.wait_until_finished()
            self._recover()

    def _written(self) -> AbstractContextManager[None]:
        """Says in one sentence which checkpoint there is where another one cannot be written."""
        replaced = [int(place.name.removeprefix(REPLACED)) for place in self.folder.glob(f"{REPLACED}[0-9]*")]
        kept = max((*list_steps(self.folder), *replaced), default=None)
        return explain_failed_writes(
            self.folder.parent,
            "No checkpoint is saved yet." if kept is None else f"The checkpoint of step {kept} is kept.",
        )

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, newest first."""
        return sorted(self.manager.all_steps(), reverse=True)

    def best(self) -> int | None:
        """The step with the best metric."""
        return self.manager.best_step()

    def restore(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """The newest checkpoint that is whole; None where there is none.  `like` has the shapes and shardings to read
        into.

        A newer one is set aside, with a line that says so, only if its bytes are proven bad: they contradict their
        checksum or are no JSON, or they cannot be read by any means here while an older checkpoint can.  Raises
        InputError for everything else that stops a checkpoint from being read, and where none can be; the folder is
        left as it was.
        """
        bad: dict[int, Exception] = {}
        for step in self.steps():
            try:
                found = self._whole(step, like)
            except Exception as error:  # whatever the reader meets in a damaged file
                if not isinstance(error, PROVEN):
                    self._require_damage(step, error)
                bad[step] = error
                continue
            self._set_aside(bad)
            return found
        unproven = {step: error for step, error in bad.items() if not isinstance(error, PROVEN)}
        for step, error in unproven.items():
            raise InputError(
                f"The checkpoint {self.folder / str(step)} cannot be read ({_shorten(error)}), and no other one is"
                f" whole; it is left as it is: start anew in another folder with --run, or move {self.folder} away to"
                " start from step 1."
            )
        self._set_aside(bad)
        return None

    def params(self, like: Any, step: int) -> Any:
        """The parameters alone of one checkpoint.  Raises InputError where they cannot be read."""
        require_structure(self.folder / str(step), like)
        try:
            return self._read(step, "params", like)
        except Exception as error:  # whatever the reader meets in a damaged file
            if not isinstance(error, PROVEN):
                self._require_damage(step, error)
            said = f"The checkpoint {self.folder / str(step)} cannot be read ({_shorten(error)})"
            raise InputError(f"{said}: train on, which takes the checkpoint before it.") from None

    def _whole(self, step: int, like: TrainState) -> tuple[TrainState, Progress]:
        values = _read_progress(self.folder / str(step), self.manager.metrics(step))
        progress = Progress(**values)
        rest = self._read(step, "rest", dataclasses.replace(like, params=None))
        return dataclasses.replace(rest, params=self._read(step, "params", like.params)), progress

    def _require_damage(self, step: int, error: Exception) -> None:
        """Raises InputError where a checkpoint that could not be read is whole, or where it is not its bytes that
        stopped the reader.
        """
        checkpoint = self.folder / str(step)
        stopped = f"The checkpoint {checkpoint} cannot be read here ({_shorten(error)}); it is left as it is"
        try:
            for file in (path for path in checkpoint.rglob("*") if path.is_file()):
                with file.open("rb") as opened:
                    while opened.read(2**24):
                        pass
        except OSError as unreadable:
            again = f"make {unreadable.filename or checkpoint} readable and run the same command again."
            raise InputError(
                f"The checkpoint {checkpoint} cannot be read ({unreadable.strerror}); it is left as it is: {again}"
            ) from None
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
            raise InputError(f"{stopped}: free memory, or use more devices, and run the same command again.") from None
        if _is_sound(checkpoint):
            raise InputError(
                f"{stopped}: its bytes are whole, so give the settings and the versions that it was written with."
            ) from None

    def _readable(self, step: int, metric: str) -> None:
        """Raises InputError where the metrics of a checkpoint cannot be read; sets it aside where they are no JSON."""
        file = self.folder / str(step) / "metrics" / "metrics"
        if not file.is_file():
            return
        try:
            written = json.loads(file.read_bytes())
            if not isinstance(written, dict):
                raise DamagedError(f"its metrics are a {type(written).__name__}")
            if isinstance(written.get(metric), int | float):
                return
            _read_progress(self.folder / str(step), written)
        except OSError as error:
            raise InputError(
                f"{file} cannot be read: {error.strerror}; make it readable and run the same command again."
            ) from None
        except (ValueError, DamagedError) as error:
            if self.reading:
                raise InputError(
                    f"{file} cannot be read ({_shorten(error)}): train on, which takes the checkpoint before it."
                ) from None
            self._set_aside({step: error})
            return
        known = ", ".join(name for name, value in written.items() if isinstance(value, int | float))
        raise InputError(f"{file} has no metric {metric!r}; it has {known}: set evaluation.metric to one of these.")

    def _set_aside(self, bad: Mapping[int, Exception]) -> None:
        for step, error in bad.items():
            names = itertools.chain((f"damaged-{step}",), (f"damaged-{step}-{number}" for number in itertools.count(2)))
            aside = next(place for place in (self.folder / name for name in names) if not place.exists())
            (self.folder / str(step)).rename(aside)
            said = f"checkpoint {step} is damaged ({_shorten(error)}); it is set aside as {aside.name} and the newest"
            said += " whole one is used"
            print(said, file=sys.stderr, flush=True)
        if bad and hasattr(self, "manager"):
            self.manager.reload()

    def _recover(self) -> None:
        """Removes what a whole checkpoint has replaced, and takes back what one that was never finished should have."""
        if self.reading:
            return
        for old in self.folder.glob(f"{REPLACED}[0-9]*"):
            step = self.folder / old.name.removeprefix(REPLACED)
            if step.is_dir():
                shutil.rmtree(old)
            else:
                old.rename(step)

    def _read(self, step: int, item: str, like: Any) -> Any:
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)), like
        )
        # Orbax gives every leaf that names no place the devices of the file; a numpy array needs none.
        target = {"tree": abstract, "fingerprint": np.zeros(len(jax.tree.leaves(like)), np.uint32)}
        with drain():
            found = self.manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(target)}))[
                item
            ]
        if not np.array_equal(fingerprint(found["tree"]), found["fingerprint"]):
            raise DamagedError(f"its {item} do not have the checksum they were saved with")
        return found["tree"]


def list_steps(folder: Path) -> list[int]:
    """Steps that have a finished checkpoint in a folder of checkpoints, newest first."""
    return sorted((int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal()), reverse=True)


def require_structure(checkpoint: Path, shapes: Any) -> None:
    """Raises InputError where a checkpoint that is whole holds parameters of other names or shapes; damage is found
    when it is read.
    """
    wanted = _collect_shapes(shapes)
    try:
        held = _collect_shapes(_read_metadata(checkpoint, "params")["tree"])
    except Exception:  # whatever the reader meets in a damaged file
        return
    if held != wanted and _is_intact(checkpoint, "params"):
        name = min(name for name in held | wanted if held.get(name) != wanted.get(name))
        raise InputError(
            f"The checkpoint {checkpoint} is of another structure: {name} has the shape {held.get(name)} there and"
            f" {wanted.get(name)} in this model; give the model that it was trained with."
        )


def _read_metadata(checkpoint: Path, item: str) -> Any:
    """The tree of an item as its own file describes it, its leaves with shape and dtype."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with drain(), ocp.StandardCheckpointer() as reader:
        described: Any = reader.metadata((checkpoint / item).absolute()).item_metadata
    return described.tree


def _is_intact(checkpoint: Path, item: str) -> bool:
    """Whether an item has its checksums when it is read into the host's memory as its own file describes it, for any
    model and devices.
    """
    try:
        target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), _read_metadata(checkpoint, item))
        with drain(), ocp.StandardCheckpointer() as reader:
            found = reader.restore((checkpoint / item).absolute(), target)
        # The file does not say in which order the leaves were when they were counted.
        return np.array_equal(np.sort(fingerprint(found["tree"])), np.sort(found["fingerprint"]))
    except Exception:  # whatever the reader meets in a damaged file
        return False


def _read_progress(checkpoint: Path, metrics: Any) -> dict[str, Any]:
    """What a checkpoint says of its run's progress.  Raises DamagedError where that, or the metrics, are not what was
    written.
    """
    try:
        written = json.loads((checkpoint / "progress" / "metadata").read_bytes())
        whole = written["checksum"] == _checksum(written["values"], metrics)
    except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
        raise DamagedError(f"its progress cannot be read: {_shorten(error)}") from None
    if not whole:
        raise DamagedError("its progress and metrics do not have the checksum they were saved with")
    return written["values"]


def _is_sound(checkpoint: Path) -> bool:
    """Whether the bytes of a checkpoint are those that were written."""
    try:
        metrics = checkpoint / "metrics" / "metrics"
        _read_progress(checkpoint, json.loads(metrics.read_bytes()) if metrics.is_file() else None)
    except (DamagedError, OSError, ValueError):
        return False
    return all(_is_intact(checkpoint, item) for item in ("params", "rest"))


def _collect_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _sign(progress: Progress, metrics: dict[str, float] | None) -> dict[str, Any]:
    values = json.loads(json.dumps(dataclasses.asdict(progress)))
    return {"values": values, "checksum": _checksum(values, metrics)}


def _checksum(values: Any, metrics: Any) -> int:
    return zlib.crc32(json.dumps([values, metrics], sort_keys=True).encode())


def _seal(tree: Any) -> dict[str, Any]:
    return {"tree": tree, "fingerprint": np.asarray(fingerprint(tree))}


def _shorten(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
