"""Sizes of files: lines, and columns of a line."""

from pathlib import Path

from tests.house.source import modules

LINES = 400
COLUMNS = 120
ROOT = Path(__file__).parents[2]


def long_files(root: Path) -> dict[str, int]:
    """Files of more than LINES lines, with their number."""
    counts = {module.path: len(module.text.splitlines()) for module in modules(root).values()}
    return {path: count for path, count in counts.items() if count > LINES}


def long_lines(root: Path) -> dict[str, int]:
    """Number of lines of more than COLUMNS columns, by file that has such."""
    texts = {module.path: module.text.splitlines() for module in modules(root).values()}
    counts = {path: sum(len(line) > COLUMNS for line in lines) for path, lines in texts.items()}
    return {path: count for path, count in counts.items() if count}
