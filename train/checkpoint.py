"""Checkpoints by Orbax: asynchronous, atomic, checked when read; the last few and the best are kept."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from models.paths import path_name
from train.spec import InputError
from train.step import TrainState


@jax.jit
def fingerprint(tree: Any) -> jax.Array:
    """One 32-bit sum a leaf over its bits, each weighted by its place: any order of devices gives the same number."""

    def one(leaf: jax.Array) -> jax.Array:
        kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32).reshape(-1)
        return jnp.sum((bits + 1) * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in jax.tree.leaves(tree)])


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run remembers besides its state: the last step that was evaluated, the best metric, evaluations since that.

    `pending` are the sums, each with its weight, of the steps since the last line of the log.
    """

    evaluated: int = 0
    best: float | None = None
    waited: int = 0
    pending: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


class Store:
    """The checkpoints of a run.  Close it, or use it as a context, so that the last save is finished.

    `reading` leaves everything as it is, also what a run at work is writing.
    """

    def __init__(self, folder: Path, keep: int = 2, metric: str = "loss", greater: bool = False, reading: bool = False) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[metric], reverse=not greater, n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            best_fn=lambda metrics: metrics[metric],
            best_mode="max" if greater else "min",
            cleanup_tmp_directories=not reading,
            read_only=reading,
        )
        self.folder = folder
        for metrics in folder.glob("[0-9]*/metrics/metrics"):  # Orbax reads them all when it opens
            self._readable(metrics, metric, reading)
        self.manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.close()

    def save(self, state: TrainState, progress: Progress, metrics: dict[str, float] | None) -> None:
        """Starts writing a checkpoint; training goes on meanwhile.  One of the same step, saved before its evaluation, is replaced."""
        step = int(state.step)
        if step in self.manager.all_steps():
            self.manager.delete(step)
        rest = dataclasses.replace(state, params=None)
        items = {name: ocp.args.StandardSave(_sealed(tree)) for name, tree in (("params", state.params), ("rest", rest))}
        args = ocp.args.Composite(**items, progress=ocp.args.JsonSave(_signed(progress, metrics)))
        self.manager.save(step, args=args, metrics=metrics, force=True)

    def wait(self) -> None:
        """Returns when what was saved is on the disk."""
        self.manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, newest first."""
        return sorted(self.manager.all_steps(), reverse=True)

    def best(self) -> int | None:
        """The step with the best metric."""
        return self.manager.best_step()

    def restore(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """The newest checkpoint that is whole; a damaged one is set aside, with a line that says so.  None where there is none.

        `like` has the shapes and shardings to read into.
        """
        for step in self.steps():
            try:
                written = self.manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))["progress"]
                progress = Progress(**written["values"])
                if written != _signed(progress, self.manager.metrics(step)):
                    raise OSError("its progress and metrics do not have the checksum they were saved with")
                rest = self._read(step, "rest", dataclasses.replace(like, params=None))
                return dataclasses.replace(rest, params=self._read(step, "params", like.params)), progress
            except Exception as error:  # whatever the reader meets in a damaged file
                self._set_aside(step, error)
                self.manager.reload()
        return None

    def params(self, like: Any, step: int) -> Any:
        """The parameters alone of one checkpoint.  Raises InputError where they cannot be read."""
        require_structure(self.folder / str(step), like)
        try:
            return self._read(step, "params", like)
        except Exception as error:  # whatever the reader meets in a damaged file
            said = f"The checkpoint {self.folder / str(step)} cannot be read ({_reason(error)})"
            raise InputError(f"{said}: train on, which takes the checkpoint before it.") from None

    def _readable(self, metrics: Path, metric: str, reading: bool) -> None:
        try:
            float(json.loads(metrics.read_bytes())[metric])
        except (ValueError, LookupError, TypeError) as error:
            if reading:
                raise InputError(f"{metrics} cannot be read ({_reason(error)}): train on, which takes the checkpoint before it.") from None
            self._set_aside(int(metrics.parent.parent.name), error)

    def _set_aside(self, step: int, error: Exception) -> None:
        aside = self.folder / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (self.folder / str(step)).rename(aside)
        said = f"checkpoint {step} is damaged ({_reason(error)}); it is set aside as {aside.name} and the newest whole one is used"
        print(said, file=sys.stderr, flush=True)

    def _read(self, step: int, item: str, like: Any) -> Any:
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)), like)
        target = {"tree": abstract, "fingerprint": jax.ShapeDtypeStruct((len(jax.tree.leaves(like)),), jnp.uint32)}
        with _drained():
            found = self.manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(target)}))[item]
        if not bool((fingerprint(found["tree"]) == found["fingerprint"]).all()):
            raise OSError(f"its {item} do not have the checksum they were saved with")
        return found["tree"]


class _Drained(asyncio.SelectorEventLoop):
    """Lets what a failed read leaves behind come to its end; Orbax closes the loop under it, and stack traces follow the one sentence."""

    def close(self) -> None:
        """Closes when nothing is pending."""
        if not self.is_closed() and (pending := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        super().close()


class _Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _Drained()


@contextlib.contextmanager
def _drained() -> Iterator[None]:
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_Policy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)


def require_structure(checkpoint: Path, shapes: Any) -> None:
    """Raises InputError where a checkpoint that is whole holds parameters of other names or shapes; damage is found when it is read."""
    place, folder = jax.sharding.SingleDeviceSharding(jax.devices()[0]), (checkpoint / "params").absolute()
    wanted = _shapes(shapes)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        with _drained(), ocp.StandardCheckpointer() as reader:
            written: Any = reader.metadata(folder).item_metadata
            target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), written.tree)
            held = _shapes(target["tree"])
            if held == wanted:
                return
            found = reader.restore(folder, target)
        whole = np.array_equal(fingerprint(found["tree"]), found["fingerprint"])
    except Exception:  # whatever the reader meets in a damaged file
        return
    if whole:
        name = min(name for name in held | wanted if held.get(name) != wanted.get(name))
        raise InputError(
            f"The checkpoint {checkpoint} is of another structure: {name} has the shape {held.get(name)} there and {wanted.get(name)} in"
            " this model; give the model that it was trained with."
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _signed(progress: Progress, metrics: dict[str, float] | None) -> dict[str, Any]:
    values = json.loads(json.dumps(dataclasses.asdict(progress)))
    return {"values": values, "checksum": zlib.crc32(json.dumps([values, metrics], sort_keys=True).encode())}


def _sealed(tree: Any) -> dict[str, Any]:
    return {"tree": tree, "fingerprint": fingerprint(tree)}


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
