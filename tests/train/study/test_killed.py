"""A study that is killed at random instants gives the numbers of one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.places import CONFIGS, ROOT

KILLS = 10
CLOCK = ("seconds", "sentence", "speed_up")  # what a clock has a part in
WORDS = ["compare", str(CONFIGS / "language_model.py"), "steps=6", "evaluation.every=6", "--match", "none"]
WORDS += ["--vary", "none=model.stack.block.mixer.position=none", "--seeds", "4", "--workers", "2"]


def start(folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "train", *WORDS, "--to", str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "MORPHAX_CACHE": str(folder.parent / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Results without what a clock gave."""
    results = json.loads((folder / "summary.json").read_text())
    return [{name: value for name, value in one.items() if name not in CLOCK} for one in results]


@pytest.mark.slow
def test_a_study_that_is_killed_at_ten_random_instants_gives_the_same_report(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    began = time.monotonic()
    alone = start(tmp_path / "alone")
    _, errors = alone.communicate()
    assert alone.returncode == 0, errors.decode()
    spent = time.monotonic() - began
    generator, kills, number = random.Random(0), 0, 0
    while kills < KILLS or not (tmp_path / f"killed{number}" / "summary.json").is_file():
        process = start(tmp_path / f"killed{number}")
        try:
            process.communicate(timeout=generator.uniform(0.1, 0.9) * spent if kills < KILLS else None)
            number += kills < KILLS  # done between two kills: another study takes the rest of them
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
    for killed in (tmp_path / f"killed{index}" for index in range(number + 1)):
        assert read_results(killed) == read_results(tmp_path / "alone")
        lines = [json.loads(line) for line in (killed / "ledger.jsonl").read_text().splitlines()]
        made = [(line["variant"], line["seed"]) for line in lines if line["kind"] == "trial"]
        assert len(made) == len(set(made)) == 8, "a finished trial is not made again"
