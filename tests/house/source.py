"""Python files of a folder, read and never run: their modules, and what each imports."""

import ast
import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path

OURS = ("models", "train", "configs", "tests")
SHIPPED = ("models", "train", "configs")
BY_NAME = re.compile(r"import_module\(\"([\w.]+)\"")


@dataclasses.dataclass(frozen=True)
class Module:
    """A Python file: its dotted name, its path below the folder and its text."""

    name: str
    path: str
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    @property
    def is_package(self) -> bool:
        """If it is an `__init__.py`."""
        return self.path.endswith("__init__.py")

    @property
    def package(self) -> str:
        """First part of its name."""
        return self.name.partition(".")[0]


def modules(root: Path, packages: tuple[str, ...] = OURS) -> dict[str, Module]:
    """Modules of these packages below a folder, by dotted name; a package is called as its folder."""
    return {name: module for package in packages for name, module in _read(root, package).items()}


@functools.cache
def _read(root: Path, package: str) -> dict[str, Module]:
    read: dict[str, Module] = {}
    for path in sorted((root / package).rglob("*.py")):
        below = path.relative_to(root)
        name = ".".join(below.with_suffix("").parts).removesuffix(".__init__")
        read[name] = Module(name, below.as_posix(), path.read_text(encoding="utf-8"))
    return read


def imports(module: Module, known: dict[str, Module]) -> set[str]:
    """Names of known modules that a module imports, inside of functions and by `import_module("...")` too."""
    return {*_imported(module, known), *BY_NAME.findall(module.text)} & known.keys()


def _imported(module: Module, known: dict[str, Module]) -> Iterator[str]:
    for node in _statements(module.tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=base, names=names, level=level):
                whole = _absolute(module, base or "", level)
                inner = {f"{whole}.{alias.name}" for alias in names}
                yield from inner & known.keys() or {whole}


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, block, ())
        if isinstance(inner, list):  # that of a lambda is an expression
            for child in inner:
                yield from _statements(child)


def _absolute(module: Module, base: str, level: int) -> str:
    if not level:
        return base
    parts = module.name.split(".")
    parts = parts[: len(parts) - level + module.is_package]
    return ".".join([*parts, base] if base else parts)
