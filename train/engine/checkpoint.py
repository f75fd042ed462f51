"""Checkpoints by Orbax: asynchronous, atomic, verified when read; the last few and the best are kept."""

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

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from models.contracts import Tree
from models.paths import path_name
from train.contracts import Params
from train.disk import REPORTED_WRITES, explain_failed_writes
from train.engine.event_loop import drain
from train.engine.step import TrainState
from train.errors import InputError, Json

REPLACED = "replaced-"  # prefix of a checkpoint that a new one of the same step replaces, until that is written


@jax.jit
def fingerprint(tree: Tree) -> jax.Array:
    """Sums the bits of each leaf in 32 bits, every element weighted by its position: (leaves,), in any sharding.

    Computed element by element, so that sharded leaves stay on their devices.
    """

    def sum_bits(leaf: jax.Array) -> jax.Array:
        kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
        position, stride = jnp.uint32(0), 1
        for axis in reversed(range(leaf.ndim)):
            position = position + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride % 2**32)
            stride *= leaf.shape[axis]
        return jnp.sum((bits + 1) * (2 * position + 1), dtype=jnp.uint32)

    return jnp.stack([sum_bits(leaf) for leaf in jax.tree.leaves(tree)])


class DamagedError(Exception):
    """Contents of a checkpoint that contradict their checksum, or are no JSON."""


# errors that prove bad bytes: the only text that Orbax decodes here is its own JSON
PROVEN = (DamagedError, json.JSONDecodeError, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a run beside its state: the last evaluated step, the best metric, evaluations since the best one.

    `pending` holds the sums, each with its weight, of the steps since the last line of the log.  `spent` holds the
    private steps so far, by mechanism: see `train.optimizers.accounting.Spent`.
    """

    evaluated: int = 0
    best: float | None = None
    waited: int = 0
    pending: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    spent: tuple[tuple[float, float, int], ...] = ()


class Store:
    """The checkpoints of a run.  Use it as a context: the last save is finished when it closes.

    With `reading` it changes no file, not even the unfinished ones of a run that is training.  Raises InputError if
    metrics cannot be read.
    """

    def __init__(
        self, folder: Path, keep: int = 2, metric: str = "loss", greater: bool = False, reading: bool = False
    ) -> None:
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs what it also raises, with stack traces
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
        self.folder, self.reading = folder, reading
        self.loops = contextlib.ExitStack()
        with self._explain_failed_writes():
            self._recover()
            for step in list_steps(folder):  # Orbax reads the metrics of all checkpoints when it opens
                self._require_metrics(step, metric)
            self.manager = ocp.CheckpointManager(folder.absolute(), options=options)
        if not reading:
            self.loops.enter_context(drain())  # for the threads that save

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self.loops, contextlib.suppress(*(() if kind is None else (Exception,))), self._explain_failed_writes():
            try:
                self.manager.close()
            finally:
                self._recover()

    def save(self, state: TrainState, progress: Progress, metrics: dict[str, float] | None) -> None:
        """Starts writing a checkpoint in the background.

        A checkpoint of the same step, saved before its evaluation, is replaced, but kept until the new one is written.
        """
        step = int(state.step)
        self.wait()
        with self._explain_failed_writes():
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
        """Waits until the last save is on the disk."""
        with self._explain_failed_writes():
            self.manager.wait_until_finished()
            self._recover()

    def _explain_failed_writes(self) -> AbstractContextManager[None]:
        """Turns a failed write into an InputError that names the newest checkpoint that is kept."""
        replaced = [int(path.name.removeprefix(REPLACED)) for path in self.folder.glob(f"{REPLACED}[0-9]*")]
        kept = max((*list_steps(self.folder), *replaced), default=None)
        return explain_failed_writes(
            self.folder.parent,
            "No checkpoint is saved yet." if kept is None else f"The checkpoint of step {kept} is kept.",
        )

    def list_steps(self) -> list[int]:
        """Lists the steps that have a checkpoint, newest first."""
        return sorted(self.manager.all_steps(), reverse=True)

    def find_best(self) -> int | None:
        """Finds the step with the best metric; None without a measured checkpoint."""
        return self.manager.best_step()

    def restore(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """Restores the newest intact checkpoint, or None if there is none.  `like` has its shapes and shardings.

        A newer one is set aside, with a printed line, only if its bytes are proven bad: they contradict their checksum
        or are no JSON, or they cannot be read by any means here while an older checkpoint can.  Raises InputError for
        everything else that stops a checkpoint from being read, and if none can be read; the folder is left as it was.
        """
        bad: dict[int, Exception] = {}
        for step in self.list_steps():
            try:
                restored = self._restore_step(step, like)
            except Exception as error:  # damaged files make the reader raise anything
                if not isinstance(error, PROVEN):
                    self._require_damage(step, error)
                bad[step] = error
                continue
            self._set_aside(bad)
            return restored
        unproven = {step: error for step, error in bad.items() if not isinstance(error, PROVEN)}
        for step, error in unproven.items():
            raise InputError(
                f"The checkpoint {self.folder / str(step)} cannot be read ({_first_line(error)}), and no other one is"
                f" whole; it is left as it is: start anew in another folder with --run, or move {self.folder} away to"
                " start from step 1."
            )
        self._set_aside(bad)
        return None

    def restore_params(self, like: Params, step: int) -> Params:
        """Restores only the parameters of a checkpoint.  Raises InputError if they cannot be read."""
        require_structure(self.folder / str(step), like)
        try:
            return self._read(step, "params", like)
        except Exception as error:  # damaged files make the reader raise anything
            if not isinstance(error, PROVEN):
                self._require_damage(step, error)
            said = f"The checkpoint {self.folder / str(step)} cannot be read ({_first_line(error)})"
            raise InputError(f"{said}: train on, which takes the checkpoint before it.") from None

    def _restore_step(self, step: int, like: TrainState) -> tuple[TrainState, Progress]:
        progress = _read_progress(self.folder / str(step), self.manager.metrics(step))
        rest = self._read(step, "rest", dataclasses.replace(like, params=None))
        return dataclasses.replace(rest, params=self._read(step, "params", like.params)), progress

    def _require_damage(self, step: int, error: Exception) -> None:
        """Raises InputError if a checkpoint is intact but unreadable, or if not its bytes stopped the read."""
        checkpoint = self.folder / str(step)
        stopped = f"The checkpoint {checkpoint} cannot be read here ({_first_line(error)}); it is left as it is"
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

    def _require_metrics(self, step: int, metric: str) -> None:
        """Raises InputError if the metrics of a checkpoint cannot be read; sets it aside if they are no JSON."""
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
                    f"{file} cannot be read ({_first_line(error)}): train on, which takes the checkpoint before it."
                ) from None
            self._set_aside({step: error})
            return
        known = ", ".join(name for name, value in written.items() if isinstance(value, int | float))
        raise InputError(f"{file} has no metric {metric!r}; it has {known}: set evaluation.metric to one of these.")

    def _set_aside(self, bad: Mapping[int, Exception]) -> None:
        for step, error in bad.items():
            names = itertools.chain((f"damaged-{step}",), (f"damaged-{step}-{number}" for number in itertools.count(2)))
            aside = next(path for path in (self.folder / name for name in names) if not path.exists())
            (self.folder / str(step)).rename(aside)
            said = (
                f"checkpoint {step} is damaged ({_first_line(error)}); it is set aside as {aside.name} and the newest"
            )
            said += " whole one is used"
            print(said, file=sys.stderr, flush=True)
        if bad and hasattr(self, "manager"):
            self.manager.reload()

    def _recover(self) -> None:
        """Deletes checkpoints that a finished one replaced; restores those whose replacement was never finished."""
        if self.reading:
            return
        for old in self.folder.glob(f"{REPLACED}[0-9]*"):
            step = self.folder / old.name.removeprefix(REPLACED)
            if step.is_dir():
                shutil.rmtree(old)
            else:
                old.rename(step)

    def _read(self, step: int, item: str, like: Tree) -> Tree:
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)), like
        )
        # Orbax puts leaves without a sharding on the devices recorded in the file; a numpy array needs no device.
        target = {"tree": abstract, "fingerprint": np.zeros(len(jax.tree.leaves(like)), np.uint32)}
        with drain():
            args = ocp.args.Composite(**{item: ocp.args.StandardRestore(target)})
            sealed = self.manager.restore(step, args=args)[item]
        if not np.array_equal(fingerprint(sealed["tree"]), sealed["fingerprint"]):
            raise DamagedError(f"its {item} do not have the checksum they were saved with")
        return sealed["tree"]


def list_steps(folder: Path) -> list[int]:
    """Lists the steps of the finished checkpoints in a folder, newest first."""
    return sorted((int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal()), reverse=True)


def require_structure(checkpoint: Path, shapes: Params) -> None:
    """Raises InputError if an intact checkpoint holds parameters of other names or shapes.

    A damaged one passes: its damage is found when it is read.
    """
    wanted = _collect_shapes(shapes)
    try:
        held = _collect_shapes(_read_metadata(checkpoint, "params")["tree"])
    except Exception:  # damaged files make the reader raise anything
        return
    if held != wanted and _is_intact(checkpoint, "params"):
        name = min(name for name in held | wanted if held.get(name) != wanted.get(name))
        raise InputError(
            f"The checkpoint {checkpoint} is of another structure: {name} has the shape {held.get(name)} there and"
            f" {wanted.get(name)} in this model; give the model that it was trained with."
        )


def _read_metadata(checkpoint: Path, item: str) -> Tree:
    """Reads shapes and dtypes of an item's leaves from its own metadata."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with drain(), ocp.StandardCheckpointer() as reader:
        metadata = reader.metadata((checkpoint / item).absolute()).item_metadata
    return metadata.tree


def _is_intact(checkpoint: Path, item: str) -> bool:
    """Tells if an item has its checksums when it is read into host memory by its own metadata, for any model."""
    try:
        target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), _read_metadata(checkpoint, item))
        with drain(), ocp.StandardCheckpointer() as reader:
            sealed = reader.restore((checkpoint / item).absolute(), target)
        # The file does not record the order in which the leaves were summed.
        return np.array_equal(np.sort(fingerprint(sealed["tree"])), np.sort(sealed["fingerprint"]))
    except Exception:  # damaged files make the reader raise anything
        return False


def _read_progress(checkpoint: Path, metrics: Json) -> Progress:
    """Reads a checkpoint's Progress.  Raises DamagedError if these or the metrics are not as written."""
    try:
        written = json.loads((checkpoint / "progress" / "metadata").read_bytes())
        whole = written["checksum"] == _checksum(written["values"], metrics)
    except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
        raise DamagedError(f"its progress cannot be read: {_first_line(error)}") from None
    if not whole:
        raise DamagedError("its progress and metrics do not have the checksum they were saved with")
    return Progress(**written["values"])


def _is_sound(checkpoint: Path) -> bool:
    """Tells if the bytes of a checkpoint are those that were written."""
    try:
        metrics = checkpoint / "metrics" / "metrics"
        _read_progress(checkpoint, json.loads(metrics.read_bytes()) if metrics.is_file() else None)
    except (DamagedError, OSError, ValueError):
        return False
    return all(_is_intact(checkpoint, item) for item in ("params", "rest"))


def _collect_shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    return {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _sign(progress: Progress, metrics: dict[str, float] | None) -> dict[str, Json]:
    values = json.loads(json.dumps(dataclasses.asdict(progress)))
    return {"values": values, "checksum": _checksum(values, metrics)}


def _checksum(values: Json, metrics: Json) -> int:
    return zlib.crc32(json.dumps([values, metrics], sort_keys=True).encode())


def _seal(tree: Tree) -> dict[str, Tree]:
    return {"tree": tree, "fingerprint": np.asarray(fingerprint(tree))}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
