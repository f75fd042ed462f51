"""Checkpoints by Orbax: asynchronous, atomic, checked when read; the last few and the best are kept."""

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

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
    """What a run remembers besides its state: the last step that was evaluated, the best metric, evaluations since that."""

    evaluated: int = 0
    best: float | None = None
    waited: int = 0


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
        args = ocp.args.Composite(**items, progress=ocp.args.JsonSave(dataclasses.asdict(progress)))
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
                found = self.manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
                rest = self._read(step, "rest", dataclasses.replace(like, params=None))
                return dataclasses.replace(rest, params=self._read(step, "params", like.params)), Progress(**found["progress"])
            except Exception as error:  # whatever the reader meets in a damaged file
                aside = self.folder / f"damaged-{step}"
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / str(step)).rename(aside)
                self.manager.reload()
                print(
                    f"checkpoint {step} is damaged ({_reason(error)}); it is set aside as {aside.name} and the one before it is used",
                    flush=True,
                )
        return None

    def params(self, like: Any, step: int) -> Any:
        """The parameters alone of one checkpoint.  Raises InputError where they cannot be read."""
        try:
            return self._read(step, "params", like)
        except Exception as error:  # whatever the reader meets in a damaged file
            raise InputError(f"The checkpoint {self.folder / str(step)} cannot be read: {_reason(error)}") from None

    def _read(self, step: int, item: str, like: Any) -> Any:
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)), like)
        target = {"tree": abstract, "fingerprint": jax.ShapeDtypeStruct((len(jax.tree.leaves(like)),), jnp.uint32)}
        found = self.manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(target)}))[item]
        if not bool((fingerprint(found["tree"]) == found["fingerprint"]).all()):
            raise OSError(f"its {item} do not have the checksum they were saved with")
        return found["tree"]


def _sealed(tree: Any) -> dict[str, Any]:
    return {"tree": tree, "fingerprint": fingerprint(tree)}


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
