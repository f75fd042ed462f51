"""Folders that tests read: the repository, and configs of the tests' own."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "tests" / "configs"
