"""The README's blocks run as they stand, on a text that is given and with the training cut short."""

import json
import re
from pathlib import Path

import pytest

from tests.pages import ROOT, blocks, run
from train.cli import main
from train.data.published import PACKAGES

README = ROOT / "README.md"
SHORTER = {
    "train running_mean.py": (
        "data.path=text.txt",
        "steps=10",
        "evaluation.every=10",
        "model.stack.repeats=1",
        "batch_size=4",
    ),
    "generate runs/running_mean": ("--tokens", "8"),
}


def test_the_first_block_names_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert targets == ["train", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_make_train_fine_tunes_the_real_model_which_then_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (arguments,) = re.findall(
        r"^train:.*\n\t\$\(BIN\)/python -m train (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE
    )
    small = (
        "steps=2",
        "evaluation.every=2",
        "batch_size=4",
        "data.splits=('train', 'test[:16]')",
        "data.buckets=(64,)",
    )
    assert main(["train", *arguments.split(), *small, "data.truncate=true", "data.length=64", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["parameters"] > 22e6
    assert 0 <= summary["evaluation"]["accuracy"]["value"] <= 1
    assert main(["predict", f"runs/{arguments}", "a delightful film", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert set(answer["probabilities"]) == {"positive", "negative"}


def test_a_new_structure_is_one_class_and_one_override(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    lines = (f"{number} times {number} is {number * number}." for number in range(2000))
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    run(blocks(README), tmp_path, monkeypatch, SHORTER)
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("ROMEO:")
    recorded = json.loads((tmp_path / "runs" / "running_mean" / "experiment.json").read_text(encoding="utf-8"))
    mixer = recorded["experiment"]["model"]["stack"]["block"]["mixer"]
    assert mixer == {"class": "RunningMean", "from": "config_running_mean"}


def test_it_is_one_screen_and_a_half() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 80


def test_published_packages_and_their_requirements_agree() -> None:
    text = (ROOT / "requirements-data.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", text, flags=re.MULTILINE))
    assert pinned == {package.name: package.version for package in PACKAGES.values() if not package.source}
