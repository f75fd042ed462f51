"""Direction of imports: the part of the house that each module belongs to, and the arrows that point up."""

import re
from pathlib import Path

from tests.house.source import SHIPPED, imports, modules

# A part may import parts of earlier levels, and of its own level as long as these do not import it.
LEVELS = (
    ("models",),
    ("errors", "precision", "sums", "page", "cost"),
    ("contracts",),
    ("objectives", "optimizers", "parallel", "data"),
    ("weights", "experiment", "review", "sinks"),
    ("spec",),
    ("configs",),
    ("config",),
    ("engine",),
    ("report",),
    ("use", "plan"),
    ("study",),
    ("advise",),
    ("commands", "cli", "notebook"),
)

# The part of every module, or of every module below a package that is not listed itself.
PARTS = {
    "models": "models",
    "configs": "configs",
    "train.errors": "errors",
    "train.disk": "errors",
    "train.allocator": "errors",
    "train.precision": "precision",
    "train.sums": "sums",
    "train.baselines": "sums",
    "train.charts": "page",
    "train.page": "page",
    "train.cost": "cost",
    "train.contracts": "contracts",
    "train.events": "contracts",
    "train.findings": "page",
    "train.summary": "contracts",
    "train.objectives": "objectives",
    "train.optimizers": "optimizers",
    "train.parallel": "parallel",
    "train.data": "data",
    "train.weights": "weights",
    "train.experiment": "experiment",
    "train.variants": "experiment",
    "train.review": "review",
    "train.sinks": "sinks",
    "train.spec": "spec",
    "train.config": "config",
    "train.engine": "engine",
    "train.report": "report",
    "train.use": "use",
    "train.plan": "plan",
    "train.study": "study",
    "train.advise": "advise",
    "train.commands": "commands",
    "train.__main__": "cli",
    "train.cli": "cli",
    "train.notebook": "notebook",
}
TEST_FILE = re.compile(r"import.*\btest_|from.*\btest_")
ROOT = "train"  # the package itself, which holds nothing


def part_of(name: str) -> str | None:
    """Part of the house that a module belongs to, by the longest entry of PARTS that leads to it, if any."""
    while name not in PARTS:
        name, dot, _ = name.rpartition(".")
        if not dot:
            return None
    return PARTS[name]


def unknown(root: Path) -> list[str]:
    """Modules that belong to no part."""
    return [name for name in modules(root, SHIPPED) if name != ROOT and part_of(name) is None]


def upward(root: Path) -> set[tuple[str, str]]:
    """Imports that point up: (importer, imported)."""
    level = {part: number for number, parts in enumerate(LEVELS) for part in parts}
    return {(one, other) for one, other in _arrows(root) if level[_part(one)] < level[_part(other)]}


def circles(root: Path) -> set[tuple[str, str]]:
    """Parts of one level that import each other."""
    level = {part: number for number, parts in enumerate(LEVELS) for part in parts}
    arrows = {(_part(one), _part(other)) for one, other in _arrows(root)}
    sideways = {(one, other) for one, other in arrows if level[one] == level[other]}
    return {(one, other) for one, other in sideways if one < other and (other, one) in sideways}


def _part(name: str) -> str:
    return part_of(name) or LEVELS[-1][0]


def _arrows(root: Path) -> set[tuple[str, str]]:
    known = modules(root, SHIPPED)
    arrows = {(name, other) for name, module in known.items() for other in imports(module, known)}
    return {(one, other) for one, other in arrows if ROOT not in (one, other) and _part(one) != _part(other)}


def importers_of_tests(root: Path) -> set[tuple[str, str]]:
    """Modules of models/, train/ and configs/ that import a test or a helper of tests."""
    known = modules(root)
    suspects = [module for module in known.values() if module.package in SHIPPED and "tests" in module.text]
    found = {(module.name, other) for module in suspects for other in imports(module, known)}
    return {(name, other) for name, other in found if known[other].package == "tests"}


def importers_of_test_files(root: Path) -> set[tuple[str, str]]:
    """Modules under tests/ that import from a file of tests."""
    known = modules(root, ("tests",))
    suspects = [module for module in known.values() if TEST_FILE.search(module.text)]
    found = {(module.name, other) for module in suspects for other in imports(module, known)}
    return {(name, other) for name, other in found if other.rpartition(".")[2].startswith("test_")}
