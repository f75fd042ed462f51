"""A run's checkpoints are read on any number and any kind of devices, with the losses that the run had."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from models.backend.platform import compile_for
from tests.places import CONFIGS, ROOT
from train.cli import main
from train.sinks.json_lines import read_metrics

CONFIG = str(CONFIGS / "language_model.py")
SHORT = (
    "steps=6",
    "batch_size=8",
    "evaluation.every=3",
    "checkpoints.every=none",
    "model.stack.block.dropout=0.0",
    "log_every=1",
)
SLOW = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _inside(workshop: Path) -> Iterator[None]:
    """The workshop as the working folder and the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop)
        patch.setenv("MORPHAX_CACHE", str(workshop / "cache"))
        yield


def on(devices: int, *arguments: str) -> int:
    """A command line on so many of the emulated devices; its exit code."""
    with compile_for(jax.devices()[:devices]):
        return main(arguments)


def losses(folder: Path) -> dict[str, list[float]]:
    """The losses of a run's log, of training and of evaluation."""
    lines = read_metrics(folder)
    return {
        name: [value for line in lines if (value := line.get(name)) is not None]
        for name in ("train/loss", "evaluation/loss")
    }


@pytest.fixture(scope="module")
def begun(workshop: Path) -> Callable[[str, int], Path]:
    """(parallel, devices) -> a run of six steps on so many devices, made once."""
    made: dict[tuple[str, int], Path] = {}

    def run(parallel: str, devices: int) -> Path:
        key = parallel, devices
        if key not in made:
            made[key] = workshop / f"begun_{len(made)}"
            assert on(devices, "train", CONFIG, "--run", str(made[key]), *SHORT, f"parallel={parallel}") == 0
        return made[key]

    return run


def halfway(run: Path, scratch: Path) -> Path:
    """A copy of a run as a kill would leave it after its third step."""
    folder = scratch / "halfway"
    shutil.copytree(run, folder)
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "6")
    return folder


@pytest.mark.represented_by("Pmap()-8-4")
@pytest.mark.parametrize(
    ("parallel", "before", "after"),
    [
        ("Mesh()", 8, 1),
        ("Pmap()", 8, 4),
        pytest.param("Mesh(fsdp=2)", 8, 4, marks=SLOW),
        pytest.param("Mesh()", 1, 8, marks=SLOW),
        pytest.param("Pmap()", 8, 1, marks=SLOW),
        pytest.param("Pmap()", 1, 8, marks=SLOW),
    ],
)
def test_a_run_is_continued_and_asked_on_another_number_of_devices(
    tmp_path: Path,
    begun: Callable[[str, int], Path],
    capsys: pytest.CaptureFixture[str],
    parallel: str,
    before: int,
    after: int,
) -> None:
    run = begun(parallel, before)
    folder = halfway(run, tmp_path)
    capsys.readouterr()
    assert on(after, "train", CONFIG, "--run", str(folder), *SHORT, f"parallel={parallel}") == 0
    assert "continuing from step 3 of 6" in capsys.readouterr().err
    assert not list((folder / "checkpoints").glob("damaged*"))
    whole, again = losses(run), losses(folder)
    assert [len(whole[name]) for name in whole] == [6, 2]
    for name, expected in whole.items():
        np.testing.assert_allclose(again[name], expected, rtol=1e-5, err_msg=name)
    assert on(after, "eval", str(run), "--config", CONFIG, "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(measured["evaluation"]["loss"]["value"], whole["evaluation/loss"][-1], rtol=1e-5)


def elsewhere(checkpoint: Path, device: str) -> int:
    """Makes a checkpoint say that its arrays lay on a device of another kind; gives how many do."""
    changed = 0
    for file in checkpoint.rglob("_sharding"):
        said: dict[str, Any] = json.loads(file.read_text())
        for name, text in said.items():
            said[name] = re.sub(r'"device_str": "[^"]*"', f'"device_str": "{device}"', text)
            changed += said[name] != text
        file.write_text(json.dumps(said))
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cuda:0", pytest.param("TPU_0(process=0,(0,0,0,0))", marks=SLOW)])
def test_a_run_saved_on_a_device_of_another_kind_is_continued_and_asked(
    tmp_path: Path, begun: Callable[[str, int], Path], capsys: pytest.CaptureFixture[str], device: str
) -> None:
    run = begun("Jit()", 1)
    folder = halfway(run, tmp_path)
    assert elsewhere(folder / "checkpoints" / "3", device) > 10
    capsys.readouterr()
    assert main(["generate", str(folder), "a film", "--config", CONFIG, "--tokens", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["answers"]) == 1
    assert main(["train", CONFIG, "--run", str(folder), *SHORT, "parallel=Jit()"]) == 0
    assert losses(folder) == losses(run)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["Pmap()", "Mesh()"])
def test_a_run_of_eight_devices_is_used_by_processes_that_have_one(
    tmp_path: Path, workshop: Path, parallel: str
) -> None:
    def process(devices: int, *arguments: str) -> str:
        settings = {"JAX_NUM_CPU_DEVICES": str(devices), "XLA_FLAGS": ""}
        settings |= {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "train", *arguments]
        done = subprocess.run(
            command, cwd=workshop, env=os.environ | settings, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    run, trained = tmp_path / "run", ("train", CONFIG, *SHORT, f"parallel={parallel}", "--run")
    assert "on 8 device(s)" in process(8, *trained, str(run))
    for devices in (8, 1):
        result = json.loads(process(devices, "eval", str(run), "--config", CONFIG, "--json").splitlines()[0])
        np.testing.assert_allclose(result["evaluation"]["loss"]["value"], losses(run)["evaluation/loss"][-1], rtol=1e-5)
    assert "a film" in process(1, "generate", str(run), "a film", "--config", CONFIG, "--tokens", "3")
    folder = halfway(run, tmp_path)
    assert "continuing from step 3" in process(1, *trained, str(folder))
    np.testing.assert_allclose(losses(folder)["train/loss"], losses(run)["train/loss"], rtol=1e-5)
