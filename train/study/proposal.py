"""Proposals: a file of components and the overrides that use them, read as text and screened before it is imported.

A proposal may change the model and nothing else.  The screen refuses what a component never needs: other imports, names
that reach the interpreter or the disk, attributes of modules that are set, statements that run when it is imported.  It
keeps honest proposals from moving the measure; it is no sandbox for hostile code.
"""

import ast
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

from train.errors import InputError

OVERRIDES = "OVERRIDES"
MOST_BYTES = 200_000
MODULES = (  # that a proposal may import; those below `models` too
    "__future__",
    "collections.abc",
    "dataclasses",
    "flax",
    "flax.linen",
    "functools",
    "itertools",
    "jax",
    "jax.lax",
    "jax.nn",
    "jax.numpy",
    "jax.random",
    "jax.typing",
    "math",
    "models",
    "numpy",
    "operator",
    "typing",
)
FILES = ("models.families", "models.laws", "models.surgery", "models.inspect")  # what reads files, or is no component
NAMES = frozenset(
    {"__builtins__", "__import__", "breakpoint", "compile", "delattr", "dir", "eval", "exec", "getattr", "globals"}
    | {"input", "locals", "open", "setattr", "vars"}
)
ATTRIBUTES = frozenset(
    {"config", "ctypeslib", "debug", "debug_callback", "distributed", "experimental", "fromfile", "genfromtxt"}
    | {"host_callback", "io_callback", "lib", "load", "loadtxt", "memmap", "monitoring", "os", "profiler"}
    | {"pure_callback", "save", "savetxt", "savez", "savez_compressed", "subprocess", "sys", "tofile"}
)
Refusal = tuple[int, str]  # the line, and what is wrong there


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A proposal: the text of its file, the overrides, all of them below `model.`, and the file's first sentence."""

    name: str
    text: str
    overrides: tuple[str, ...]
    idea: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_proposal(path: Path) -> Proposal:
    """Reads a proposal without running it.  Raises InputError, with the line, if the screen refuses it."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"The proposal {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InputError(f"The proposal {path} is not UTF-8 text; give a Python file.") from None
    if len(text) > MOST_BYTES:
        raise InputError(f"The proposal {path} has {len(text)} characters; at most {MOST_BYTES} are read.")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise InputError(f"The proposal {path}{line}: {reason}.") from None
    if refusals := sorted(find_refusals(tree)):
        line, reason = refusals[0]
        raise InputError(
            f"The proposal {path}, line {line}: {reason}; a proposal has imports, components and {OVERRIDES}."
        )
    return Proposal(path.stem, text, _read_overrides(tree, path), _first_sentence(tree))


def find_refusals(tree: ast.Module) -> Iterator[Refusal]:
    """Finds what a proposal may not have, with its line."""
    for index, statement in enumerate(tree.body):
        docstring = index == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        kinds = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign)
        if not docstring and not isinstance(statement, kinds):
            yield statement.lineno, "a statement that runs when the file is imported"
    for node in ast.walk(tree):
        yield from _find_imports(node)
        if isinstance(node, ast.Name) and node.id in NAMES:
            yield node.lineno, f"the name {node.id}"
        elif isinstance(node, ast.Attribute):
            yield from _find_attributes(node)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            yield node.lineno, "a variable of an outer function or of the module that is set"
        elif isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.With | ast.AsyncWith | ast.Try):
            yield node.lineno, f"a statement of the kind {type(node).__name__}"


def _find_imports(node: ast.AST) -> Iterator[Refusal]:
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if node.level:
            yield node.lineno, "an import from beside the file"
            return
        if any(alias.name == "*" for alias in node.names):
            yield node.lineno, "an import of everything"
        inner = [f"{module}.{alias.name}" for alias in node.names]
        modules = [module, *(name for name in inner if name.startswith(FILES))]
        if refused := [alias.name for alias in node.names if alias.name in ATTRIBUTES or alias.name.startswith("_")]:
            yield node.lineno, f"the import of {refused[0]}"
    else:
        return
    for name in modules:
        known = name in MODULES or name.startswith("models.")
        if not known or name.startswith(FILES):
            yield node.lineno, f"the import of {name}"


def _find_attributes(node: ast.Attribute) -> Iterator[Refusal]:
    is_self = isinstance(node.value, ast.Name) and node.value.id == "self"
    is_super = (
        isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name) and node.value.func.id == "super"
    )
    if not isinstance(node.ctx, ast.Load) and not is_self:
        yield node.lineno, f"the attribute {node.attr} of something else is set"
    is_dunder = node.attr.startswith("__")
    hidden = is_dunder and not (is_super and node.attr in ("__post_init__", "__call__"))
    if hidden or (not is_self and not is_dunder and (node.attr in ATTRIBUTES or node.attr.startswith("_"))):
        yield node.lineno, f"the attribute {node.attr}"


def _read_overrides(tree: ast.Module, path: Path) -> tuple[str, ...]:
    example = f'give {OVERRIDES} = ("model.stack.block.mixer=MyMixer()",)'
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == OVERRIDES for target in node.targets)
    ]
    if len(values) != 1:
        raise InputError(f"The proposal {path} has {len(values)} assignments of {OVERRIDES}; {example}.")
    try:
        value = ast.literal_eval(values[0])
    except ValueError:
        raise InputError(f"{OVERRIDES} of the proposal {path} is no tuple of strings; {example}.") from None
    overrides = (value,) if isinstance(value, str) else value
    if not isinstance(overrides, tuple | list) or not overrides or not all(isinstance(text, str) for text in overrides):
        raise InputError(f"{OVERRIDES} of the proposal {path} is no tuple of strings; {example}.")
    for text in overrides:
        if not text.startswith("model.") or "=" not in text:
            raise InputError(
                f"{OVERRIDES} of the proposal {path} has {text!r}; a proposal may change what is below `model.`, as"
                " path=value, and data, objective, optimizer and steps are the referee's."
            )
    return tuple(overrides)


def _first_sentence(tree: ast.Module) -> str:
    return (ast.get_docstring(tree) or "").strip().split("\n")[0]
