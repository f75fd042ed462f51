"""Overrides from the command line, and components parsed from calls."""

import ast
import dataclasses
import inspect
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from models.structure import absence, differences, fields
from train.errors import InputError
from train.experiment import Experiment
from train.spec.checks import check_value, list_alternatives
from train.spec.encoding import Encoded, RefusedError, build, decode, encode
from train.spec.parts import Names, add_kinds, find, find_recorded, read_annotations

Value = TypeVar("Value")
WORDS = {"true": True, "false": False, "none": None, "null": None}  # as a person writes them


def override(value: Value, assignments: Sequence[str], names: Names) -> Value:
    """Applies every `dotted.path=value` to a structure, the shortest paths first whatever their order.

    A value is a literal, the name of a function, a bare string, or a call of known components with literal arguments,
    as in `model.stack.block.mixer="Attention(heads=4)"`.  Setting a field whose metadata has `instead_of` resets the
    field named there to its default, unless that is set too.  Raises InputError, with the nearest valid name.
    """
    if not assignments:
        return value
    known = add_kinds(names, value)
    tree = encode(value)
    pairs = [_split_assignment(text) for text in assignments]
    for path, text in sorted(pairs, key=lambda pair: pair[0].count(".")):
        _assign(tree, path, text, known, {other for other, _ in pairs})
    try:
        new = decode(tree, known)
    except RefusedError as error:
        inner = [f"{path}={text}" for path, text in pairs if error.path in (path, path.rpartition(".")[0])]
        raise InputError(f"{' '.join(inner or assignments)}: {error}") from None
    if isinstance(value, Experiment):
        return dataclasses.replace(new, given=(*value.given, *(path for path, _ in pairs)))
    return new


def _split_assignment(assignment: str) -> tuple[str, str]:
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise InputError(f"{assignment!r} is no override; write path=value, such as batch_size=64.")
    return path, text


def _assign(tree: Encoded, path: str, text: str, names: Names, assigned: Collection[str]) -> None:
    """Assigns to a path of an encoded structure, checked against the type of its field."""
    *parents, leaf = path.split(".")
    for index, name in enumerate(parents):
        tree = _find_child(tree, name, ".".join(parents[: index + 1]), names)
    _find_child(tree, leaf, path, names)
    owner = _find_owner(tree, names)
    annotation = Any if owner is None else read_annotations(owner)[leaf]
    new = encode(check_value(_read(text, annotation, names, path), annotation, path))
    if isinstance(tree, list):
        tree[int(leaf)] = new
    elif isinstance(tree, dict):
        tree[leaf] = new
        others = [field.metadata.get("instead_of") for field in fields(owner) if field.name == leaf] if owner else []
        for other in others if new is not None else ():
            if ".".join([*parents, str(other)]) not in assigned:
                tree.pop(str(other), None)


def _find_owner(node: Encoded, names: Names) -> type | None:
    if not isinstance(node, dict) or "class" not in node:
        return None
    owner = find_recorded(node["class"], node.get("from"), names)
    return owner if isinstance(owner, type) else None


def _find_child(node: Encoded, name: str, path: str, names: Names) -> Encoded:
    """Finds a part in an encoded structure; None for a field that is not recorded."""
    owner = _find_owner(node, names)
    if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
        return node[int(name)]
    if isinstance(node, dict) and "function" not in node:
        known = node if owner is None else [field.name for field in fields(owner)]
        if name in known:
            return node.get(name)
    value = decode(node, names) if owner is None else None
    raise InputError(absence(path, name, value, owner))


def _read(text: str, annotation: object, names: Names, path: str) -> object:
    choices = list_alternatives(annotation)
    lowered = text.strip().lower()
    if lowered in ("none", "null") and type(None) in choices:
        return None
    if lowered in ("true", "false") and bool in choices:
        return lowered == "true"
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # the last two if brackets nest too deeply
        node = None
    listed = [
        value for choice in choices if typing.get_origin(choice) is typing.Literal for value in typing.get_args(choice)
    ]
    words = str in choices or any(isinstance(value, str) for value in listed)
    if words and not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return text
    if isinstance(node, ast.Name) and set(choices) <= {int, float, bool, type(None)}:
        return text  # a word in place of a number, which `check_value` refuses
    try:
        if node is not None:
            return parse(node, names)
    except RecursionError:
        pass
    raise InputError(
        f"{path}={text[:80]}: the value cannot be read; write a number, a quoted string, a tuple or a call of a"
        " component."
    )


def parse(node: ast.AST, names: Names) -> object:
    """Parses a syntax tree of literals and calls of known components; refuses anything else, and runs nothing."""
    match node:
        case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | str):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.BinOp(
            op=ast.Div(), left=ast.Constant(value=int() | float() as a), right=ast.Constant(value=int() | float() as b)
        ) if b:
            return _divide(a, b)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(parse(item, names) for item in items)
        case ast.Dict(keys=keys, values=values):
            if not all(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in keys):
                raise InputError(f"{ast.unparse(node)!r} has a key that is no string; write {{'name': value}}.")
            return {
                parse(key, names): parse(item, names) for key, item in zip(keys, values, strict=True) if key is not None
            }
        case ast.Name(id=name) if name.lower() in WORDS and name not in names:
            return WORDS[name.lower()]
        case ast.Name(id=name):
            part = find(name, names)
            return build(part, {}) if isinstance(part, type) else part
        case ast.Call(func=ast.Name(id=name), args=positional, keywords=keywords):
            owner = find(name, names)
            if not isinstance(owner, type):
                raise InputError(f"{name} is a function and is given by its name alone.")
            order = [field.name for field in fields(owner)]
            if len(positional) > len(order):
                raise InputError(f"{name} takes at most {len(order)} arguments; {len(positional)} were given.")
            arguments = {key: parse(item, names) for key, item in zip(order, positional, strict=False)}
            if twice := [keyword.arg for keyword in keywords if keyword.arg in arguments]:
                raise InputError(f"{name} is given {twice[0]!r} twice, by place and by name; give it once.")
            return build(owner, arguments | {str(keyword.arg): parse(keyword.value, names) for keyword in keywords})
        case _:
            raise InputError(
                f"{ast.unparse(node)!r} is not allowed in a value; use literals and calls of components, such as"
                " Attention(heads=4)."
            )


def write_value(value: object) -> str:
    """Writes a value as the text of an override, which `parse` reads: the call of a component, without its defaults.

    Raises InputError for what no override can name, such as an array.
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return repr(value)
    if inspect.isfunction(value):
        return value.__name__
    if isinstance(value, tuple | list):
        return f"({', '.join(map(write_value, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name!r}: {write_value(item)}' for name, item in value.items())}}}"
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise InputError(f"A {type(value).__name__} cannot be written as an override; use components and literals.")
    settings = [
        f"{field.name}={write_value(inner)}"
        for field in fields(value)
        if (inner := getattr(value, field.name)) != find_default(field)
    ]
    return f"{type(value).__name__}({', '.join(settings)})"


def find_default(field: dataclasses.Field[object]) -> object:
    """Finds the default of a field; `dataclasses.MISSING` if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _divide(above: float, below: float) -> float:
    try:
        return above / below
    except OverflowError:
        raise InputError("A fraction has a whole number too large for a float; write a smaller one.") from None


def list_changes(old: object, new: object) -> list[str]:
    """Lists the differences between two experiments: `path: old -> new`."""
    return [f"{path}: {_shorten(left)} -> {_shorten(right)}" for path, left, right in differences(old, new)]


def _shorten(value: object) -> str:
    return f"{type(value).__name__}(...)" if dataclasses.is_dataclass(value) else repr(value)
