"""Prose: docstrings that open with a subordinate clause, and so name nothing."""

import ast
import re
from pathlib import Path

from tests.house.source import modules

HEADLESS = re.compile(r"(What|Which|Those|Whether|How|Where|As|Who|Whose)\b")


def headless(root: Path, packages: tuple[str, ...]) -> list[str]:
    """Docstrings that open headless, as `path:line first line`."""
    wrong: list[str] = []
    for module in modules(root, packages).values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if HEADLESS.match(text):
                    wrong.append(f"{module.path}:{getattr(node, 'lineno', 1)} {text.splitlines()[0]}")
    return wrong
