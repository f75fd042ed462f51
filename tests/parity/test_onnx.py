"""Parity of a run with its ONNX graph, computed by onnxruntime."""

import importlib
from pathlib import Path

import numpy as np

from train.cli import main


def test_onnxruntime_gives_the_outputs_of_the_run_for_any_number_of_rows(sound: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export", str(sound / "run"), str(out), "--to", "onnx"]) == 0
    session = importlib.import_module("onnxruntime").InferenceSession(out / "model.onnx")
    with np.load(out / "example.npz") as file:
        example = dict(file)
    for times in (1, 3):
        inputs = {
            given.name: np.concatenate([example[f"inputs/{given.name}"]] * times) for given in session.get_inputs()
        }
        (found,) = session.run(["outputs"], inputs)
        np.testing.assert_allclose(found, np.concatenate([example["outputs/outputs"]] * times), atol=1e-6)
