"""Fixtures of the tests of train/."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def inside(sound: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of everything that is in order as the working folder."""
    folder = tmp_path / "folder"
    shutil.copytree(sound, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    return folder
