"""Tiers: which cases of a test stay in `make test`, and which `make slow` has."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT

FILE = """
import pytest


@pytest.mark.represented_by({named})
@pytest.mark.parametrize("letter", ["a", "b", "c"])
def test_letters(letter):
    pass


@pytest.mark.slow
def test_slow():
    pass


def test_quick():
    pass
"""


def collected(folder: Path, named: str, tier: str) -> subprocess.CompletedProcess[str]:
    """Collects the file's tests of a tier in a process of its own."""
    hooks = "pytest_addoption, pytest_collection_modifyitems"
    (folder / "conftest.py").write_text(f"from tests.tiers import {hooks}\n", encoding="utf-8")
    (folder / "test_file.py").write_text(FILE.format(named=named), encoding="utf-8")
    options = ("-p", "no:cacheprovider", "-c", "/dev/null", "--collect-only", "-q", "--tier", tier)
    command = [sys.executable, "-m", "pytest", *options]
    path = {"PYTHONPATH": str(ROOT), "PATH": ""}
    return subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, env=path, cwd=folder)


@pytest.mark.slow
def test_named_cases_stay_and_the_others_are_slow(tmp_path: Path) -> None:
    names = {tier: collected(tmp_path, '"a", "c"', tier).stdout for tier in ("test", "slow")}
    assert ["test_letters[a]" in names[tier] for tier in ("test", "slow")] == [True, False]
    assert ["test_letters[b]" in names[tier] for tier in ("test", "slow")] == [False, True]
    assert ["test_letters[c]" in names[tier] for tier in ("test", "slow")] == [True, False]
    assert ["test_slow" in names[tier] for tier in ("test", "slow")] == [False, True]
    assert ["test_quick" in names[tier] for tier in ("test", "slow")] == [True, False]


@pytest.mark.slow
def test_a_named_case_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = collected(tmp_path, '"a", "d"', "test")
    assert done.returncode != 0
    assert "represented_by names cases that do not exist: test_letters[d]" in done.stderr + done.stdout
