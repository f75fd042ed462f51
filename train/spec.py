"""Experiments as text: JSON in both directions, overrides from the command line, components parsed from calls, nothing evaluated."""

import ast
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from models.contracts import conforms
from models.structure import absence, differences, fields, nearest
from models.words import shorten
from train.errors import InputError
from train.experiment import Experiment
from train.parts import Names, annotations, find, find_recorded, is_contract, is_ours, with_kinds

LARGEST = 2**63  # of whole numbers
MARKS = ("class", "from")  # words that no field is called by, since they are Python's
WORDS = {"true": True, "false": False, "none": None, "null": None}  # as a person writes them


class RefusedError(InputError):
    """A component that cannot be made of its settings; `path` leads to it."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


def encode(value: Any) -> Any:
    """A structure as JSON values: components as {"class": name, field: value}, functions as {"function": name}.

    A component of a user's file or notebook has its module as "from".
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        owner = type(value)
        name = {"class": owner.__name__} if is_ours(owner) else {"class": owner.__name__, "from": owner.__module__}
        return {**name, **{field.name: encode(getattr(value, field.name)) for field in fields(value)}}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if inspect.isfunction(value):
        if value.__name__ == "<lambda>":
            raise InputError("A lambda has no name to be recorded by; use a function of models.activation.")
        return {"function": value.__name__}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"A {type(value).__name__} cannot be written in an experiment; use components, numbers, strings, tuples.")


def decode(data: Any, names: Names, path: str = "") -> Any:
    """The structure that `encode` wrote, with or without modules.

    Raises InputError for a class or a field that is not known, and for a component that is recorded with a module of the user's if the
    one of its name is the project's.
    """
    if isinstance(data, list):
        return tuple(decode(item, names, _below(path, str(index))) for index, item in enumerate(data))
    if not isinstance(data, dict):
        return data
    if "function" in data:
        return find_recorded(data["function"], None, names)
    inner = {name: decode(item, names, _below(path, name)) for name, item in data.items() if name not in MARKS or "class" not in data}
    if "class" not in data:
        return inner
    owner = find_recorded(data["class"], data.get("from"), names)
    try:
        return build(owner, inner)
    except InputError as error:
        raise RefusedError(str(error), path) from None


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def build(owner: Any, arguments: Mapping[str, Any]) -> Any:
    """An instance of a component, its arguments checked against the types of its fields."""
    allowed = annotations(owner)
    for name in arguments:
        if name not in allowed:
            raise InputError(f"{owner.__name__} has no field {name!r}; {nearest(name, list(allowed))}")
    for field in fields(owner):
        if field.name not in arguments and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{owner.__name__} needs a {field.name}; write {owner.__name__}({field.name}=...).")
    values = {name: checked(value, allowed[name], f"{owner.__name__}.{name}") for name, value in arguments.items()}
    try:
        return owner(**values)
    except (TypeError, ValueError) as error:
        raise InputError(str(error).splitlines()[0]) from None


def override(value: Any, assignments: Sequence[str], names: Names) -> Any:
    """The structure with every `dotted.path=value` applied, in any order: of two paths the shorter comes first.

    A value is a literal, the name of a function, a bare string, or a call of known components with literal arguments, as in
    `model.stack.block.mixer="Attention(heads=4)"`.  A field whose metadata says that it stands `instead_of` another sets that to its
    default, unless it is set itself.  Raises InputError, with the nearest valid name.
    """
    if not assignments:
        return value
    known = with_kinds(names, value)
    tree = encode(value)
    pairs = [_parted(text) for text in assignments]
    for path, text in sorted(pairs, key=lambda pair: pair[0].count(".")):
        _assign(tree, path, text, known, {other for other, _ in pairs})
    try:
        made = decode(tree, known)
    except RefusedError as error:
        inner = [f"{path}={text}" for path, text in pairs if error.path in (path, path.rpartition(".")[0])]
        raise InputError(f"{' '.join(inner or assignments)}: {error}") from None
    given = (*value.given, *(path for path, _ in pairs)) if isinstance(value, Experiment) else ()
    return dataclasses.replace(made, given=given) if isinstance(made, Experiment) else made


def _parted(assignment: str) -> tuple[str, str]:
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise InputError(f"{assignment!r} is no override; write path=value, such as batch_size=64.")
    return path, text


def _assign(tree: Any, path: str, text: str, names: Names, assigned: Collection[str]) -> None:
    """Sets what a path leads to in an encoded structure, checked against the type of its field."""
    *parents, leaf = path.split(".")
    for index, name in enumerate(parents):
        tree = tree[_key(tree, name, ".".join(parents[: index + 1]), names)]
    key, owner = _key(tree, leaf, path, names), _owner(tree, names)
    annotation = Any if owner is None else annotations(owner)[leaf]
    tree[key] = encode(checked(_read(text, annotation, names, path), annotation, path))
    own = fields(owner) if owner is not None else []
    others = [field.metadata.get("instead_of") for field in own if field.name == leaf]
    for other in others if tree[key] is not None else ():
        if ".".join([*parents, str(other)]) not in assigned:
            tree.pop(other, None)


def _owner(node: Any, names: Names) -> Any:
    return find_recorded(node["class"], node.get("from"), names) if isinstance(node, dict) and "class" in node else None


def _key(node: Any, name: str, path: str, names: Names) -> Any:
    """Key or index of a part in an encoded structure."""
    owner = _owner(node, names)
    known = [field.name for field in fields(owner)] if owner is not None else node
    if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
        return int(name)
    if isinstance(node, dict) and name in known and "function" not in node:
        return name
    value = decode(node, names) if owner is None else None
    raise InputError(absence(path, name, value, owner))


def _read(text: str, annotation: Any, names: Names, path: str) -> Any:
    choices = _choices(annotation)
    lowered = text.strip().lower()
    if lowered in ("none", "null") and type(None) in choices:
        return None
    if lowered in ("true", "false") and bool in choices:
        return lowered == "true"
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # the last two where brackets nest without end
        node = None
    listed = [value for choice in choices if typing.get_origin(choice) is typing.Literal for value in typing.get_args(choice)]
    words = str in choices or any(isinstance(value, str) for value in listed)
    if words and not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return text
    if isinstance(node, ast.Name) and set(choices) <= {int, float, bool, type(None)}:
        return text  # a word where a number belongs
    try:
        if node is not None:
            return parse(node, names)
    except RecursionError:
        pass
    raise InputError(f"{path}={text[:80]}: the value cannot be read; write a number, a quoted string, a tuple or a call of a component.")


def parse(node: ast.AST, names: Names) -> Any:
    """A value from a syntax tree of literals and calls of known components; anything else is refused, and nothing is run."""
    match node:
        case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | str):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.BinOp(op=ast.Div(), left=ast.Constant(value=int() | float() as a), right=ast.Constant(value=int() | float() as b)) if b:
            return _ratio(a, b)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(parse(item, names) for item in items)
        case ast.Dict(keys=keys, values=values):
            if not all(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in keys):
                raise InputError(f"{ast.unparse(node)!r} has a key that is no string; write {{'name': value}}.")
            return {parse(key, names): parse(item, names) for key, item in zip(keys, values, strict=True) if key is not None}
        case ast.Name(id=name) if name.lower() in WORDS and name not in names:
            return WORDS[name.lower()]
        case ast.Name(id=name):
            found = find(name, names)
            return build(found, {}) if isinstance(found, type) else found
        case ast.Call(func=ast.Name(id=name), args=positional, keywords=keywords):
            owner = find(name, names)
            if not isinstance(owner, type):
                raise InputError(f"{name} is a function and is given by its name alone.")
            order = [field.name for field in fields(owner)]
            if len(positional) > len(order):
                raise InputError(f"{name} takes at most {len(order)} arguments; {len(positional)} were given.")
            given = {key: parse(item, names) for key, item in zip(order, positional, strict=False)}
            if twice := [keyword.arg for keyword in keywords if keyword.arg in given]:
                raise InputError(f"{name} is given {twice[0]!r} twice, by place and by name; give it once.")
            return build(owner, given | {str(keyword.arg): parse(keyword.value, names) for keyword in keywords})
        case _:
            raise InputError(
                f"{ast.unparse(node)!r} is not allowed in a value; use literals and calls of components, such as Attention(heads=4)."
            )


def _ratio(above: float, below: float) -> float:
    try:
        return above / below
    except OverflowError:
        raise InputError("A fraction has a whole number too large for a float; write a smaller one.") from None


def _choices(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def checked(value: Any, annotation: Any, path: str) -> Any:
    """The value as its field's type, with whole floats as int and int as float where that is exact.

    Raises InputError otherwise, and for numbers that are not finite or larger than an array's index.
    """
    if problem := _unbounded(value):
        raise InputError(f"{path} takes {_describe(annotation)}; {problem}.")
    for choice in _choices(annotation):
        fits, new = _fit(value, choice)
        if fits and (problem := _unbounded(new)):
            raise InputError(f"{path} takes {_describe(annotation)}; {problem}.")
        if fits:
            return new
    shown = value if isinstance(value, str | int | float | bool | tuple | None) else type(value).__name__
    raise InputError(f"{path} takes {_describe(annotation)}; {shorten(shown)} was given.")


def _unbounded(value: Any) -> str:
    """What is wrong with a number that is not finite or too large to be computed with, alone or in a tuple."""
    if isinstance(value, tuple):
        return next((problem for item in value if (problem := _unbounded(item))), "")
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} was given, which is not finite"
    if isinstance(value, int) and abs(value) >= LARGEST:
        return f"a whole number of {_digits(value)} digits was given, and the largest have 19"
    return ""


def _digits(value: int) -> int:
    return int(abs(value).bit_length() * math.log10(2)) + 1


def _fit(value: Any, choice: Any) -> tuple[bool, Any]:
    origin = typing.get_origin(choice)
    if choice is Any:
        return True, value
    if choice is None or choice is type(None):
        return value is None, None
    if choice is float:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        return real, float(value) if real else value
    if choice is int:
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value and value in (value // 1,)
        return whole, int(value) if whole else value
    if origin is typing.Literal:
        return value in typing.get_args(choice), value
    if origin is tuple:
        kinds = typing.get_args(choice)
        if not isinstance(value, tuple) or (kinds[-1] is not Ellipsis and len(value) != len(kinds)):
            return False, value
        inner = [kinds[0]] * len(value) if kinds[-1] is Ellipsis else kinds
        fitted = [
            next((new for fits, new in (_fit(item, one) for one in _choices(kind)) if fits), dataclasses.MISSING)
            for item, kind in zip(value, inner, strict=True)
        ]
        return dataclasses.MISSING not in fitted, tuple(fitted)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping), value
    if origin is not None and origin is typing.get_origin(Callable[[Any], Any]):
        return inspect.isfunction(value), value
    if is_contract(choice):
        return dataclasses.is_dataclass(value) and conforms(value, choice), value
    return isinstance(choice, type) and isinstance(value, choice), value


def _describe(annotation: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", type(None): "none"}
    names: list[str] = []
    for choice in _choices(annotation):
        if typing.get_origin(choice) is typing.Literal:
            names.extend(map(repr, typing.get_args(choice)))
        elif typing.get_origin(choice) is not None:
            names.append("a function" if "Callable" in str(choice) else str(choice).replace("typing.", ""))
        else:
            names.append(words.get(choice, f"a {getattr(choice, '__name__', choice)}"))
    return " or ".join(names)


def changes(old: Any, new: Any) -> list[str]:
    """One line for each difference between two experiments: `path: old -> new`."""
    return [f"{path}: {_short(left)} -> {_short(right)}" for path, left, right in differences(old, new)]


def _short(value: Any) -> str:
    return f"{type(value).__name__}(...)" if dataclasses.is_dataclass(value) else repr(value)
