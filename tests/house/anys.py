"""Uses of `Any`, which stands where no type exists, and how many there may be."""

import re
from pathlib import Path

from tests.house.source import SHIPPED, modules

MOST = 47  # lines; lower it when one goes
WORD = re.compile(r"\bAny\b")


def untyped_lines(root: Path) -> list[str]:
    """Lines with the word `Any` outside of imports, as `file:line text`."""
    lines = (
        (module.path, number, line)
        for module in modules(root, SHIPPED).values()
        for number, line in enumerate(module.text.splitlines(), 1)
    )
    return [
        f"{path}:{number} {line.strip()}" for path, number, line in lines if WORD.search(line) and "import" not in line
    ]
