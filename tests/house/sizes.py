"""Sizes of files: lines, and columns of a line."""

from pathlib import Path

from tests.house.source import modules

LINES = 400
COLUMNS = 120
ROOT = Path(__file__).parents[2]
ALLOWED = Path(__file__).with_name("long_lines.txt")  # of today; `python -m tests.house` lowers it to what is needed


def long_files(root: Path) -> dict[str, int]:
    """Files of more than LINES lines, with their number."""
    counts = {module.path: len(module.text.splitlines()) for module in modules(root).values()}
    return {path: count for path, count in counts.items() if count > LINES}


def long_lines(root: Path) -> dict[str, int]:
    """Number of lines of more than COLUMNS columns, by file that has such."""
    texts = {module.path: module.text.splitlines() for module in modules(root).values()}
    counts = {path: sum(len(line) > COLUMNS for line in lines) for path, lines in texts.items()}
    return {path: count for path, count in counts.items() if count}


def unallowed(counts: dict[str, int], allowed: dict[str, int]) -> list[str]:
    """What breaks an allowance by file: more than it grants, or an entry of a file that needs it no more."""
    over = {path: count for path, count in counts.items() if count > allowed.get(path, 0)}
    words = [f"{path} has {count} and may have {allowed.get(path, 0)}" for path, count in over.items()]
    return words + [f"{path} needs its allowance no more" for path in allowed if path not in counts]


def read_allowance(path: Path) -> dict[str, int]:
    """An allowance by file: one `count path` a line."""
    rows = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())
    return {name: int(count) for count, name in rows}


def write_allowance(path: Path, counts: dict[str, int]) -> None:
    """Writes an allowance, lowered to what is needed: never above what it grants already."""
    old = read_allowance(path)
    kept = {name: min(count, old[name]) for name, count in counts.items() if name in old}
    path.write_text("".join(f"{count} {name}\n" for name, count in sorted(kept.items())), encoding="utf-8")
