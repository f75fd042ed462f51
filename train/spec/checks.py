"""Checks of values against the annotations of their fields."""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from models.contracts import conforms
from models.words import shorten
from train.errors import InputError
from train.spec.parts import is_contract

LARGEST = 2**63  # bound of whole numbers


def list_alternatives(annotation: object) -> tuple[object, ...]:
    """Lists the types of a union; the annotation itself if it is none."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def check_value(value: object, annotation: object, path: str) -> object:
    """Checks a value against its field's type, and returns it as that: whole floats as int, int as float if exact.

    Raises InputError if it does not fit, and for numbers that are not finite or larger than an array's index.
    """
    if problem := _describe_unbounded(value):
        raise InputError(f"{path} takes {_describe(annotation)}; {problem}.")
    for choice in list_alternatives(annotation):
        fits, new = _fit(value, choice)
        if fits and (problem := _describe_unbounded(new)):
            raise InputError(f"{path} takes {_describe(annotation)}; {problem}.")
        if fits:
            return new
    shown = value if isinstance(value, str | int | float | bool | tuple | None) else type(value).__name__
    raise InputError(f"{path} takes {_describe(annotation)}; {shorten(shown)} was given.")


def _describe_unbounded(value: object) -> str:
    """Describes a number that is not finite or too large to be computed with, alone or in a tuple; otherwise empty."""
    if isinstance(value, tuple):
        return next((problem for item in value if (problem := _describe_unbounded(item))), "")
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} was given, which is not finite"
    if isinstance(value, int) and abs(value) >= LARGEST:
        return f"a whole number of {_count_digits(value)} digits was given, and the largest have 19"
    return ""


def _count_digits(value: int) -> int:
    return int(abs(value).bit_length() * math.log10(2)) + 1


def _fit(value: object, choice: object) -> tuple[bool, object]:
    origin = typing.get_origin(choice)
    if choice is Any:
        return True, value
    if choice is None or choice is type(None):
        return value is None, None
    if choice is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return True, float(value)
        return False, value
    if choice is int:
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
            return True, int(value)
        return False, value
    if origin is typing.Literal:
        return value in typing.get_args(choice), value
    if origin is tuple:
        kinds = typing.get_args(choice)
        if not isinstance(value, tuple) or (kinds[-1] is not Ellipsis and len(value) != len(kinds)):
            return False, value
        inner = [kinds[0]] * len(value) if kinds[-1] is Ellipsis else kinds
        fitted = [
            next(
                (new for fits, new in (_fit(item, choice) for choice in list_alternatives(kind)) if fits),
                dataclasses.MISSING,
            )
            for item, kind in zip(value, inner, strict=True)
        ]
        return dataclasses.MISSING not in fitted, tuple(fitted)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping), value
    if origin is Callable:
        return inspect.isfunction(value), value
    if is_contract(choice):
        return dataclasses.is_dataclass(value) and conforms(value, choice), value
    return isinstance(choice, type) and isinstance(value, choice), value


def _describe(annotation: object) -> str:
    words: dict[object, str] = {
        int: "a whole number",
        float: "a number",
        str: "a string",
        bool: "true or false",
        type(None): "none",
    }
    names: list[str] = []
    for choice in list_alternatives(annotation):
        if typing.get_origin(choice) is typing.Literal:
            names.extend(map(repr, typing.get_args(choice)))
        elif typing.get_origin(choice) is not None:
            names.append("a function" if "Callable" in str(choice) else str(choice).replace("typing.", ""))
        else:
            names.append(words.get(choice, f"a {getattr(choice, '__name__', choice)}"))
    return " or ".join(names)
