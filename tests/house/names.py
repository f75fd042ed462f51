"""Names: of parts, of attributes that nobody declares, of commands; and what a package says of itself."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.house.source import SHIPPED, Module, modules

HOLDERS = ("models", "train")  # packages below which parts of an experiment are defined
ATTRIBUTES = re.compile(r"\b(get|has)attr\(")
COMMANDS = "train/commands"
NEEDED = {"HELP", "EXAMPLES", "add", "run"}
VAGUE = ("one", "found", "own", "place", "given")  # names that say nothing of what they name


def shared_names(root: Path) -> dict[str, list[str]]:
    """Names that several parts of an experiment have, with the modules that define them.

    A part is a flax module or a dataclass that has the methods of a contract, with the same names of arguments.
    """
    known = modules(root, HOLDERS)
    classes = {node.name: node for module in known.values() for node in _classes(module)}
    contracts = [_methods(node, {}) for node in classes.values() if "Protocol" in _bases(node)]
    homes: defaultdict[str, list[str]] = defaultdict(list)
    for name, module in known.items():
        for node in _classes(module):
            if node.name[0] != "_" and _is_component(node, classes) and _conforms(node, contracts, classes):
                homes[node.name].append(name)
    return {name: places for name, places in homes.items() if len(places) > 1}


def count_vague(root: Path) -> dict[str, int]:
    """Counts the variables, arguments and functions that have each vague name."""
    counts: dict[str, int] = dict.fromkeys(VAGUE, 0)
    for module in modules(root, SHIPPED).values():
        for node in ast.walk(module.tree):
            name = ""
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            elif isinstance(node, ast.arg):
                name = node.arg
            elif isinstance(node, ast.FunctionDef):
                name = node.name
            if name in counts:
                counts[name] += 1
    return counts


def _classes(module: Module) -> list[ast.ClassDef]:
    return [node for node in module.tree.body if isinstance(node, ast.ClassDef)]


def _bases(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).rpartition(".")[2] for base in node.bases]


def _parents(node: ast.ClassDef, known: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    return [known[base] for base in _bases(node) if base in known and known[base] is not node]


def _is_component(node: ast.ClassDef, known: dict[str, ast.ClassDef]) -> bool:
    marked = "Module" in _bases(node) or any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    return marked or any(_is_component(base, known) for base in _parents(node, known))


def _methods(node: ast.ClassDef, known: dict[str, ast.ClassDef]) -> dict[str, list[str]]:
    own = {item.name: [one.arg for one in item.args.args] for item in node.body if isinstance(item, ast.FunctionDef)}
    inherited = [_methods(base, known) for base in reversed(_parents(node, known))]
    return {name: names for methods in (*inherited, own) for name, names in methods.items()}


def _conforms(node: ast.ClassDef, contracts: list[dict[str, list[str]]], known: dict[str, ast.ClassDef]) -> bool:
    methods = _methods(node, known)
    return any(contract and contract.items() <= methods.items() for contract in contracts)


def undeclared(root: Path) -> set[tuple[str, str]]:
    """Attributes asked for by a literal name in train/: (file, `getattr(...)` or `hasattr(...)` as it is written)."""
    return {(module.path, written) for module in modules(root, ("train",)).values() for written in _asked(module)}


def _asked(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree) if ATTRIBUTES.search(module.text) else ():
        match node:
            case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[_, ast.Constant(value=str()), *_]):
                yield ast.unparse(node)


def misnamed_commands(root: Path) -> list[str]:
    """Faults of the files of commands: HELP, EXAMPLES, `add` or `run` is missing, or another command called."""
    wrong = []
    for module in modules(root, SHIPPED).values():
        if not module.path.startswith(f"{COMMANDS}/") or module.is_package:
            continue
        command = module.path.removeprefix(f"{COMMANDS}/").removesuffix(".py").replace("/", " ")
        if missing := NEEDED - set(_defined(module)):
            wrong.append(f"{module.path} defines no {', '.join(sorted(missing))}")
        assigned = [node for node in module.tree.body if isinstance(node, ast.Assign)]
        examples = "".join(_text(node.value) for node in assigned if _names(node) == ["EXAMPLES"])
        called = set(re.findall(rf"^\s*morphax ([a-z]+{' [a-z]+' * command.count(' ')})", examples, re.M))
        if called != {command}:
            wrong.append(f"{module.path} has examples of {', '.join(sorted(called)) or 'no command'}")
    return wrong


def _defined(module: Module) -> Iterator[str]:
    for node in module.tree.body:
        if isinstance(node, ast.Assign):
            yield from _names(node)
        elif isinstance(node, ast.FunctionDef):
            yield node.name


def _names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def silent_packages(root: Path) -> list[str]:
    """Packages without a docstring of a few words, and shipped folders of Python files without `__init__.py`."""
    known = modules(root)
    packages = {name: module for name, module in known.items() if module.is_package}
    silent = [name for name, module in packages.items() if len((ast.get_docstring(module.tree) or "").split()) < 4]
    folders = {module.name.rpartition(".")[0] for module in known.values() if module.package in SHIPPED} - {""}
    return sorted(silent) + sorted(folders - packages.keys())
