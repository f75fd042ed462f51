"""A trained run as a function of arrays by name, for formats that deliver it."""

import contextlib
import dataclasses
import functools
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from models.backend.platform import compile_for
from models.contracts import Tree
from models.paths import map_paths, path_name
from models.structure import part, replace
from train.contracts import Arrays, Continues, Params, Restores, Searches
from train.engine.folder import Recorded
from train.engine.prepared import Inference, prepare_evaluation
from train.engine.step import make_outputs
from train.experiment import Experiment
from train.use.evaluate import restore_params

Named = Mapping[str, jax.Array]
Function = Callable[[Named, Named], dict[str, jax.Array]]
Program = Callable[[Arrays], Mapping[str, np.ndarray]]
Axes = tuple[int, ...]
ROWS = 16  # held-out examples that an artefact is checked on
SHOWN = 4  # of these, those that it holds
CODES = 127  # the largest of int8, of which -128 is not used
BLOCK = 128  # values of an axis that share a scale, where it has more
SCALE = ".scale"  # after the path of an array in int8: the path of its scales
MEANINGS = {"b": "examples", "t": "tokens of a row"}


@dataclasses.dataclass(frozen=True, eq=False)
class Delivery:
    """A trained run to deliver: its parameters after `step` steps, and a batch of held-out examples, one a row.

    `axes` names the axes of each array of the batch: "b" its rows, "t" the tokens of a row, to which a source is padded
    too; other axes have their fixed extent.  `inputs` are the arrays that the outputs depend on.

    `method` names how weights are quantised, if they are.  Those in `shared` are delivered in int8 with scales beside
    them, each shared over these axes; formats quantise the rest of what a method asks.
    """

    run: Recorded
    inference: Inference
    step: int
    params: Params
    batch: Arrays
    axes: Mapping[str, tuple[str | int, ...]]
    inputs: tuple[str, ...]
    method: str = ""
    shared: Mapping[str, Axes] = dataclasses.field(default_factory=dict)

    @property
    def experiment(self) -> Experiment:
        """The experiment of the run."""
        return self.run.experiment

    @functools.cached_property
    def weights(self) -> Arrays:
        """The parameters by their paths, as they are delivered: with scales beside those in int8."""
        weights: Arrays = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            name, values = path_name(path), np.asarray(leaf)
            if name in self.shared:
                values, weights[name + SCALE] = round_to_int8(values, self.shared[name])
            weights[name] = values
        return weights

    @property
    def symbols(self) -> tuple[str, ...]:
        """The axes of the inputs that have names."""
        return tuple(symbol for symbol in MEANINGS if any(symbol in self.axes[name] for name in self.inputs))

    @property
    def sizes(self) -> dict[str, int]:
        """The extents of the named axes of the batch."""
        return {
            axis: size
            for name, axes in self.axes.items()
            for axis, size in zip(axes, self.batch[name].shape, strict=True)
            if isinstance(axis, str)
        }

    @property
    def shown(self) -> Arrays:
        """The first examples of the batch, which an artefact holds."""
        return self.cut(self.batch, {"b": SHOWN})

    def build(self, weights: Mapping[str, Tree]) -> Params:
        """The tree of parameters from delivered weights by their paths: those in int8 times their scales."""

        def restore(path: str) -> Tree:
            return restore_int8(weights[path], weights[path + SCALE]) if path in self.shared else weights[path]

        return map_paths(lambda path, _: restore(path), self.inference.shapes)

    def function(self, symbols: Collection[str]) -> Function:
        """(weights, inputs) -> outputs of the evaluated model by name, in float32; no platform's kernel is in it.

        With symbolic axes it is traced for no platform, so that nothing is chosen by their extents.  A new function
        each time, since jit keeps a trace by its function.
        """
        return make_function(self, self.inputs, "any" if symbols else "cpu")

    def compute(self, batch: Arrays, params: Params | None = None) -> dict[str, np.ndarray]:
        """Computes the run's own outputs for a batch, by its parameters or others."""
        inference = self.inference
        outputs = inference.outputs(
            inference.parallel.spread(self.params if params is None else params), inference.parallel.put(batch)
        )
        return {name: np.asarray(value, np.float32) for name, value in name_outputs(outputs).items()}

    def list_symbolic(self) -> list[tuple[str, ...]]:
        """Lists which axes may be symbolic, the most first: all that have names, the rows, none."""
        return list(dict.fromkeys((self.symbols, ("b",), ())))

    def shapes(self, symbols: Collection[str]) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the inputs with these axes symbolic, at most as many tokens as in the batch; others as shown."""
        sizes = self.sizes | {"b": len(self.shown[self.inputs[0]])}
        most = [f"t <= {sizes['t']}"] if "t" in symbols else []
        named = export.symbolic_shape(", ".join(symbols), constraints=most) if symbols else ()
        known = sizes | dict(zip(symbols, named, strict=True))
        return {
            name: jax.ShapeDtypeStruct(
                [known[axis] if isinstance(axis, str) else axis for axis in self.axes[name]], self.batch[name].dtype
            )
            for name in self.inputs
        }

    def cut(self, batch: Arrays, sizes: Mapping[str, int]) -> Arrays:
        """Cuts the arrays of a batch along their named axes."""
        return {
            name: value[tuple(slice(sizes.get(axis)) if isinstance(axis, str) else slice(None) for axis in axes)]
            for name, axes in self.axes.items()
            for value in (batch[name],)
        }

    def select(self, batch: Arrays) -> Arrays:
        """Selects the arrays that the model reads."""
        return {name: batch[name] for name in self.inputs}

    def list_checks(self, symbols: Collection[str]) -> list[Arrays]:
        """Lists batches to check an artefact on: the shown examples and, of each symbolic axis, other extents."""
        others = [self.batch, self.cut(self.batch, {"b": 1})] if "b" in symbols else []
        shorter = [self.cut(self.shown, {"t": -(-self.sizes["t"] // 2)})] if "t" in symbols else []
        return [self.shown, *others, *shorter]

    def list_remarks(self) -> list[str]:
        """Lists sentences on what the outputs are not."""
        objective, remarks = self.experiment.objective, []
        if isinstance(objective, Searches) or (isinstance(objective, Continues) and objective.continues):
            asked = "a search" if isinstance(objective, Searches) else "one token after the other"
            remarks.append(
                f"The texts of this run are found by {asked}, which is not exported: the outputs are logits of one"
                " forward pass."
            )
        if isinstance(self.inference.data, Restores):
            remarks.append(
                "The outputs are as the model gives them; `morphax predict` converts them into answers in the units of"
                " the data, which is not exported."
            )
        return remarks


def open_delivery(folder: Path, run: Recorded, best: bool = False) -> Delivery:
    """Opens a run's last checkpoint (or its best) and held-out examples, in rows of the most tokens that it reads.

    Raises InputError if there is no checkpoint, or if model and data do not fit each other.
    """
    experiment = _unpack(run.experiment)
    opened = experiment.data.open(run.classes, "test")
    inference = prepare_evaluation(experiment, opened)
    step, params = restore_params(folder, inference, best)
    rows = min(ROWS, experiment.evaluation.batch_size)
    batch = opened.batches("test", rows, 1, None)[0]
    if (weights := batch.get("weights")) is not None:  # rows of weight zero hold no example
        real = (weights > 0).reshape(len(weights), -1).any(1)
        batch = {name: value[real] for name, value in batch.items()}
    axes = {name: _name_axes(value, batch) for name, value in batch.items()}
    delivery = Delivery(
        dataclasses.replace(run, experiment=experiment), inference, step, jax.device_get(params), batch, axes, ()
    )
    return dataclasses.replace(delivery, inputs=_find_inputs(delivery))


def make_function(delivery: Delivery, inputs: Collection[str], target: str) -> Function:
    """Makes (weights, inputs) -> outputs by name, traced for a platform; arrays that are no input are zeros."""
    outputs = make_outputs(delivery.experiment.model, delivery.experiment.precision)

    def function(weights: Named, arrays: Named) -> dict[str, jax.Array]:
        sizes = {
            axis: size for name in inputs for axis, size in zip(delivery.axes[name], arrays[name].shape, strict=True)
        }
        unread = {
            name: jnp.zeros([sizes.get(axis, size) for axis, size in zip(axes, value.shape, strict=True)], value.dtype)
            for name, axes in delivery.axes.items()
            for value in (delivery.batch[name],)
            if name not in inputs
        }
        with compile_for(target):
            result = outputs(delivery.build(weights), unread | dict(arrays))
        return {
            name: value.astype(jnp.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value
            for name, value in name_outputs(result).items()
        }

    return function


def round_to_int8(values: np.ndarray, axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Rounds values to int8 q with float32 scales s: |w - q s| <= s / 2, s = max |w| / 127 over these axes.

    The last of the axes is cut into blocks of BLOCK with scales of their own, if it is some multiple of it, so that an
    outlier is felt in its block alone; `restore_int8` multiplies them back.
    """
    last, extents = max(axis % values.ndim for axis in axes), values.shape
    size = BLOCK if extents[last] % BLOCK == 0 else extents[last]
    blocks = values.reshape(*extents[:last], extents[last] // size, size, *extents[last + 1 :])
    over = tuple(axis % values.ndim for axis in axes if axis % values.ndim != last)  # before the block
    scales = np.abs(blocks).max(axis=(*over, last + 1), keepdims=True).astype(np.float32) / CODES
    scales = np.where(scales > 0, scales, np.float32(1))
    codes = np.clip(np.rint(blocks / scales), -CODES, CODES).astype(np.int8)
    return codes.reshape(extents), scales.squeeze(last + 1)


def restore_int8(codes: Tree, scales: Tree) -> jax.Array:
    """Multiplies codes by their scales, each over its block of an axis."""
    for axis, (size, count) in enumerate(zip(codes.shape, scales.shape, strict=True)):
        if 1 < count < size:
            shape = (*scales.shape[: axis + 1], size // count, *scales.shape[axis + 1 :])
            wide = (*scales.shape[:axis], size, *scales.shape[axis + 1 :])
            scales = jnp.broadcast_to(jnp.expand_dims(scales, axis + 1), shape).reshape(wide)
    return codes * scales


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Saves arrays by name in a file of numpy's."""
    with zipfile.ZipFile(path, "w") as file:  # numpy's savez takes names of its own arguments for arrays
        for name, value in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, value, allow_pickle=False)


def name_outputs(outputs: Tree) -> dict[str, jax.Array]:
    """Names the arrays of an output by their paths; a single one is called `outputs`."""
    return {path_name(path) or "outputs": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(outputs)}


def _unpack(experiment: Experiment) -> Experiment:
    """Sets the data to give one example a row, all in rows of the largest length."""
    try:
        length = part(experiment, "data.length")
    except LookupError:
        return experiment
    for path, value in (("data.pack", False), ("data.buckets", (length,))):
        with contextlib.suppress(LookupError):  # pairs are never packed
            _ = part(experiment, path)
            experiment = replace(experiment, path, value)
    return experiment


def _name_axes(value: np.ndarray, batch: Arrays) -> tuple[str | int, ...]:
    tokens = "tokens" in batch and value.shape[1:] == batch["tokens"].shape[1:]
    return ("b", "t") if tokens else ("b", *value.shape[1:])


def _find_inputs(delivery: Delivery) -> tuple[str, ...]:
    """Finds the arrays of the batch that outputs depend on, by what is left of the traced function."""
    batch = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in sorted(delivery.batch.items())}
    count = len(delivery.weights)
    trace = export.export(jax.jit(make_function(delivery, batch, "cpu")), platforms=("cpu",))
    kept = trace(delivery.weights, batch).module_kept_var_idx
    return tuple(name for number, name in enumerate(batch) if count + number in kept)
