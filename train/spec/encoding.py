"""Experiments to JSON and back; nothing is evaluated."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, TypeAlias

from models.structure import fields, nearest
from train.errors import InputError
from train.spec.checks import check_value
from train.spec.parts import Names, find_recorded, is_ours, read_annotations

Encoded: TypeAlias = "str | float | bool | None | list[Encoded] | dict[str, Encoded]"  # JSON values to be changed
MARKS = ("class", "from")  # Python keywords, so no field has these names


class RefusedError(InputError):
    """A component, at `path`, that cannot be built from its settings."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


def encode(value: object) -> Encoded:
    """Encodes a structure as JSON values: components as {"class": name, field: value}, functions as {"function": name}.

    A component of a user's file or notebook also has its module as "from".
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        owner = type(value)
        encoded: dict[str, Encoded] = {"class": owner.__name__}
        if not is_ours(owner):
            encoded["from"] = owner.__module__
        return encoded | {field.name: encode(getattr(value, field.name)) for field in fields(value)}
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
    raise InputError(
        f"A {type(value).__name__} cannot be written in an experiment; use components, numbers, strings, tuples."
    )


def decode(data: object, names: Names, path: str = "") -> Any:
    """Decodes a structure that `encode` wrote, with or without modules.

    Raises InputError for a class or a field that is not known, and for a component that is recorded with a module of
    the user's if the one of its name is the project's.
    """
    if isinstance(data, list):
        return tuple(decode(item, names, _join_path(path, str(index))) for index, item in enumerate(data))
    if not isinstance(data, dict):
        return data
    if "function" in data:
        return find_recorded(data["function"], None, names)
    inner = {
        name: decode(item, names, _join_path(path, name))
        for name, item in data.items()
        if name not in MARKS or "class" not in data
    }
    if "class" not in data:
        return inner
    owner = find_recorded(data["class"], data.get("from"), names)
    if not isinstance(owner, type):
        raise RefusedError(f"{owner.__name__} is a function and no component.", path)
    try:
        return build(owner, inner)
    except InputError as error:
        raise RefusedError(str(error), path) from None


def _join_path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def build(owner: type, arguments: Mapping[str, object]) -> Any:
    """Builds an instance of a component, its arguments checked against the types of its fields."""
    allowed = read_annotations(owner)
    for name in arguments:
        if name not in allowed:
            raise InputError(f"{owner.__name__} has no field {name!r}; {nearest(name, list(allowed))}")
    for field in fields(owner):
        if (
            field.name not in arguments
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise InputError(f"{owner.__name__} needs a {field.name}; write {owner.__name__}({field.name}=...).")
    values = {name: check_value(value, allowed[name], f"{owner.__name__}.{name}") for name, value in arguments.items()}
    try:
        return owner(**values)
    except (TypeError, ValueError) as error:
        raise InputError(str(error).splitlines()[0]) from None
