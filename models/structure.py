"""The model as a value: look a part up, replace a part, name a copy of a part."""

import dataclasses
import difflib
from typing import Any, TypeVar, cast

import flax.linen as nn

from models.words import join

Value = TypeVar("Value")
APART = "apart"  # metadata key of a field outside the structure: it is neither recorded nor compared


def copy_as(template: Value, name: str) -> Value:
    """Copies a module under a new parameter name, so that a template can be used several times."""
    return cast(Value, cast(nn.Module, template).copy(name=name))


def unshare(value: Value) -> Value:
    """The same structure with every module an object of its own.

    Linen gives one object in two places one set of parameters.
    """
    if isinstance(value, tuple):
        return cast(Value, tuple(unshare(item) for item in value))
    if isinstance(value, nn.Module) and value.parent is None:
        return cast(
            Value,
            dataclasses.replace(value, **{field.name: unshare(getattr(value, field.name)) for field in fields(value)}),
        )
    return value


def separate(model: nn.Module) -> None:
    """Makes the parts of a model under construction separate objects, so that equal models have equal parameters."""
    for field in fields(model):
        object.__setattr__(model, field.name, unshare(getattr(model, field.name)))


def part(value: object, path: str) -> Any:
    """The part of a tree of dataclasses and tuples at a dotted path, `stack.block.mixer` or `stack.block.0`.

    Raises LookupError, naming the nearest field, if the path leads nowhere.
    """
    for index, name in enumerate(steps := path.split(".")):
        value = _child(value, name, ".".join(steps[: index + 1]))
    return value


def replace(value: Value, path: str, new: object) -> Value:
    """The same tree with the part at a dotted path replaced; the tree given stays as it was.

    `replace(model, "stack.block.mixer", Attention(heads=4))`.  Raises LookupError as `part` does.
    """
    return _replace(value, path.split("."), new, path)


def _replace(value: object, path: list[str], new: object, whole: str) -> Any:
    if not path:
        return new
    child = _replace(_child(value, path[0], whole), path[1:], new, whole)
    if isinstance(value, tuple):
        index = int(path[0])
        return (*value[:index], child, *value[index + 1 :])
    if isinstance(value, dict):
        return {**value, path[0]: child}
    assert dataclasses.is_dataclass(value)  # as it has a child
    assert not isinstance(value, type)
    return dataclasses.replace(value, **{path[0]: child})


def _child(value: object, name: str, whole: str) -> object:
    if isinstance(value, tuple):
        if name.isdecimal() and int(name) < len(value):
            return value[int(name)]
    elif isinstance(value, dict):
        if name in value:
            return value[name]
    elif dataclasses.is_dataclass(value) and name in [field.name for field in fields(value)]:
        return getattr(value, name)
    raise LookupError(absence(whole, name, value, type(value) if dataclasses.is_dataclass(value) else None))


def absence(path: str, name: str, value: object, owner: type | None = None) -> str:
    """A sentence for a path that leads nowhere: `value` has no part `name`.

    `owner` is the dataclass of which `value` is an instance, if it is one.
    """
    if owner is not None and (names := [field.name for field in fields(owner)]):
        return f"{path!r}: {owner.__name__} has no field {name!r}; {nearest(name, names)}"
    if owner is not None or not isinstance(value, tuple | dict | None):
        return f"{path!r}: a value of type {(owner or type(value)).__name__} has no field {name!r}."
    if isinstance(value, tuple):
        return f"{path!r}: {name!r} is no place in a tuple of {len(value)}; places count from 0."
    if isinstance(value, dict):
        return f"{path!r}: {name!r} is none of {join(value) or 'an empty dictionary'}."
    return f"{path!r}: {path.removesuffix(name).rstrip('.')} is none and has no {name}; give it a component first."


def fields(value: object) -> list[dataclasses.Field[object]]:
    """The dataclass fields that make up a structure: without those marked `APART` and linen's `parent` and `name`."""
    if not dataclasses.is_dataclass(value):
        raise TypeError(f"{value!r} is no dataclass and has no fields")
    linen = isinstance(value, nn.Module) or (isinstance(value, type) and issubclass(value, nn.Module))
    selected = [field for field in dataclasses.fields(value) if field.init and APART not in field.metadata]
    return [field for field in selected if not (linen and field.name in ("parent", "name"))]


def nearest(name: str, names: list[str]) -> str:
    """A sentence that offers the valid name nearest to a wrong one, or all of them."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"valid names are {join(sorted(names), room=300)}." if names else "there is none."


def require_positive(value: object, *names: str) -> None:
    """Raises ValueError for the first of these fields that is not above zero."""
    for name in names:
        if not getattr(value, name) > 0:
            raise ValueError(f"{type(value).__name__}.{name} is {getattr(value, name)}; it must be above 0.")


def require_not_negative(value: object, *names: str) -> None:
    """Raises ValueError for the first of these fields that is below zero."""
    for name in names:
        if not getattr(value, name) >= 0:
            raise ValueError(f"{type(value).__name__}.{name} is {getattr(value, name)}; it must be 0 or above.")


def differences(left: object, right: object, path: str = "") -> list[tuple[str, object, object]]:
    """Differences of two structures: (dotted path, value on the left, value on the right), outermost first."""
    if left == right:
        return []
    same = type(left) is type(right)
    pairs: list[tuple[str, object, object]]
    if same and dataclasses.is_dataclass(left):
        names = [field.name for field in fields(left)]
        pairs = [(name, getattr(left, name), getattr(right, name)) for name in names]
    elif same and isinstance(left, tuple) and isinstance(right, tuple) and len(left) == len(right):
        pairs = [(str(index), *both) for index, both in enumerate(zip(left, right, strict=True))]
    else:
        return [(path, left, right)]
    return [difference for name, a, b in pairs for difference in differences(a, b, f"{path}.{name}" if path else name)]
