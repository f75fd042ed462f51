"""Runs what `morphax export` wrote into the working folder, and prints how far its outputs are from the run's.

    cd OUT && python alone.py stablehlo | onnx | savedmodel

Needs numpy and the library of the format.  The program computes the example as it is, and with three times its rows and
with two tokens fewer if it takes any number.  Each is [largest difference, root mean square of the differences over
that of the outputs].
"""

import importlib
import importlib.util
import json
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = ("flax", "jax", "models", "onnxruntime", "tensorflow", "torch", "train")
Program = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]


def open_stablehlo() -> Program:
    """Opens it as the `run.py` beside it does."""
    known = runpy.run_path("run.py")
    return lambda inputs: known["model"].call(known["weights"], inputs)


def open_onnx() -> Program:
    """Opens a session of onnxruntime."""
    session = importlib.import_module("onnxruntime").InferenceSession("model.onnx")
    names = [given.name for given in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def open_savedmodel() -> Program:
    """Opens the signature of a SavedModel."""
    tensorflow = importlib.import_module("tensorflow")
    model = tensorflow.saved_model.load(".")
    call = model.signatures["serving_default"]
    held = [model]  # its variables go with it

    def run(inputs: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        assert held
        return call(**{name: tensorflow.constant(value) for name, value in inputs.items()})

    return run


def read_arrays(part: str) -> dict[str, np.ndarray]:
    """Reads the inputs or the outputs of the example."""
    with np.load("example.npz") as file:
        return {name.removeprefix(part): file[name] for name in file.files if name.startswith(part)}


def compare(program: Program, change: Callable[[str, np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Compares the outputs for the changed example with the run's, changed alike."""
    inputs = {name: change(name, value) for name, value in read_arrays("inputs/").items()}
    expected = {name: change(name, value) for name, value in read_arrays("outputs/").items()}
    outputs = program(inputs)
    assert set(outputs) == set(expected), (set(outputs), set(expected))
    apart = {name: np.asarray(outputs[name]) - value for name, value in expected.items()}
    squares = [sum(float(np.square(value).mean()) for value in some.values()) for some in (apart, expected)]
    return max(float(np.abs(value).max()) for value in apart.values()), (squares[0] / squares[1]) ** 0.5


def main() -> None:
    """Compares and prints JSON."""
    program = {"stablehlo": open_stablehlo, "onnx": open_onnx, "savedmodel": open_savedmodel}[sys.argv[1]]()
    said = json.loads(Path("export.json").read_text(encoding="utf-8"))
    shapes = {name: array["shape"] for name, array in (said["inputs"] | said["outputs"]).items()}
    changes: dict[str, Callable[[str, np.ndarray], np.ndarray]] = {"as it is": lambda _, value: value}
    if "b" in said["symbolic"]:
        changes["many rows"] = lambda _, value: np.concatenate([value] * 3)
    if "t" in said["symbolic"]:  # the last two are padding, or seen by no other
        changes["fewer tokens"] = lambda name, value: value[:, :-2] if "t" in shapes[name] else value
    found = {name: compare(program, change) for name, change in changes.items()}
    installed = [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
    print(json.dumps({"found": found, "installed": installed}))


if __name__ == "__main__":
    main()
