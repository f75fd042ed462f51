"""Parity of a run with its SavedModel, computed by TensorFlow in a process without jax."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from train.cli import main

ALONE = """
import json, sys

sys.modules |= dict.fromkeys(("jax", "jaxlib", "flax", "models", "train"))  # none of them can be imported
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(".").signatures["serving_default"]
with np.load("example.npz") as file:
    example = dict(file)
names = model.structured_input_signature[1]


def compare(times, tokens=None):
    inputs = {name: np.concatenate([example[f"inputs/{name}"]] * times)[:, :tokens] for name in names}
    (found,) = model(**{name: tf.constant(value) for name, value in inputs.items()}).values()
    return float(np.abs(found.numpy() - np.concatenate([example["outputs/outputs"]] * times)).max())


apart = {"as it is": compare(1), "many rows": compare(3), "fewer tokens": compare(1, -2)}
print(json.dumps(apart))
"""


@pytest.mark.parametrize("method", [None, "int8"])
def test_tensorflow_gives_the_outputs_of_the_run_without_jax(
    learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str | None
) -> None:
    out = tmp_path / "out"
    words = [] if method is None else ["--quantize", method]
    capsys.readouterr()
    assert main(["export", str(learned), str(out), "--to", "savedmodel", "--json", *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["symbolic"]) == {"b", "t"}
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    apart = json.loads(done.stdout)
    assert set(apart) == {"as it is", "many rows", "fewer tokens"}
    room = said["checked"]["tolerance"] if method is None else 1.5 * said["checked"]["difference"]
    assert max(apart.values()) <= room
    size = sum(file.stat().st_size for file in (out / "variables").iterdir())
    assert (size < 20_000) == (method is not None)  # of 33,300
