"""The evaluated model as a program for CPU, GPU and TPU that JAX runs without this project."""

from collections.abc import Collection
from pathlib import Path

import jax
import numpy as np
from jax import export

from train.contracts import Arrays
from train.errors import InputError
from train.use.delivery import Delivery, Program, save_arrays
from train.use.formats import Format

PLATFORMS = ("cpu", "cuda", "tpu")
RUN = '''"""Runs the model on the examples beside it, with jax and numpy alone: python run.py"""
from pathlib import Path
import jax.export, numpy
folder = Path(__file__).parent
model = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
weights, example = dict(numpy.load(folder / "weights.npz")), dict(numpy.load(folder / "example.npz"))
inputs = {name[len("inputs/"):]: value for name, value in example.items() if name.startswith("inputs/")}
for name, value in model.call(weights, inputs).items():
    print(name, value.shape, "largest difference", numpy.abs(value - example["outputs/" + name]).max())
'''


def write(delivery: Delivery, folder: Path) -> Collection[str]:
    """Writes model.stablehlo, weights.npz and run.py.

    As many named axes are symbolic as the model traces with: all, else the rows, else none.  Raises InputError if it
    traces with none.
    """
    exported, symbols = trace(delivery)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.stablehlo").write_bytes(exported.serialize())
    save_arrays(folder / "weights.npz", delivery.weights)
    (folder / "run.py").write_text(RUN, encoding="utf-8")
    return symbols


def trace(delivery: Delivery) -> tuple[export.Exported, tuple[str, ...]]:
    """Traces the model with as many symbolic axes as it takes.  Raises InputError if it takes no fixed ones either."""
    reason = ""
    for symbols in delivery.list_symbolic():
        try:
            traced = export.export(jax.jit(delivery.function(symbols)), platforms=PLATFORMS)
            return traced(delivery.weights, delivery.shapes(symbols)), symbols
        except Exception as error:  # what a model does with a symbolic extent raises anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise InputError(f"The model cannot be exported for {', '.join(PLATFORMS)} ({reason}); export it to safetensors.")


def load(delivery: Delivery, folder: Path) -> Program:
    """Reads program and weights back."""
    model = export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    with np.load(folder / "weights.npz", allow_pickle=False) as file:
        weights = dict(file)

    def program(batch: Arrays) -> dict[str, np.ndarray]:
        outputs = jax.jit(model.call)(weights, delivery.select(batch))
        return {name: np.asarray(value) for name, value in outputs.items()}

    return program


STABLEHLO = Format(
    "stablehlo",
    "model.stablehlo is the program (weights by path, inputs by name) -> outputs by name, for jax.export.deserialize",
    write,
    load,
    ("int8",),
)
