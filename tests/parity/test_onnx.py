"""Parity of a run with its ONNX graph, computed by onnxruntime."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.parametrize("method", ["int8", "dynamic"])
def test_onnxruntime_computes_with_matrices_in_int8(learned: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "out"
    assert main(["export", str(learned), str(out), "--to", "onnx", "--quantize", method]) == 0
    graph = importlib.import_module("onnx").load(out / "model.onnx").graph
    products = {node.op_type for node in graph.node} & {"MatMul", "MatMulInteger", "Gemm", "Einsum"}
    assert ("MatMulInteger" in products) == (method == "dynamic")
    codes = [array for array in graph.initializer if array.data_type == 3 and len(array.dims) > 1]  # int8
    assert len(codes) >= 5
    said = json.loads((out / "export.json").read_text(encoding="utf-8"))["quantized"]
    session = importlib.import_module("onnxruntime").InferenceSession(out / "model.onnx")
    with np.load(out / "example.npz") as file:
        inputs = {given.name: file[f"inputs/{given.name}"] for given in session.get_inputs()}
        (found,) = session.run(["outputs"], inputs)
        logits = found - found.max(1, keepdims=True)
        labels = [1, 0]  # a fine film, a dull film: the whole test split
        loss = -(logits[[0, 1], labels] - np.log(np.exp(logits).sum(1))).mean()
    near = 1e-4 if method == "int8" else 1e-2  # dynamic scales are those of all rows of a call together
    np.testing.assert_allclose(said["metrics"]["loss"]["delivered"]["value"], loss, rtol=near)
