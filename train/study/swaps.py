"""Swaps of parts: the calls of all parts that may stand in the place of one, with the settings that they share."""

import dataclasses
from collections.abc import Iterator, Mapping

from models.structure import fields
from train.errors import InputError
from train.spec.checks import check_value
from train.spec.encoding import build
from train.spec.overrides import find_default, write_value
from train.spec.parts import Names, fits, read_annotations

PROGRAMS = ("implementation", "dispatch")  # fields that choose among programs of one function


class Swaps:
    """Parts by name, and the calls of those that fit in the place of another."""

    def __init__(self, names: Names) -> None:
        self.parts = [part for part in names.values() if isinstance(part, type)]
        self.fitting: dict[type, list[type]] = {}
        self.written: dict[tuple[type, str, str], str] = {}

    def list_calls(self, kind: type, old: object, model: object) -> Iterator[str]:
        """Lists calls of the parts of a kind that may replace `old`, which is a part of `model` or None."""
        if kind not in self.fitting:
            self.fitting[kind] = [part for part in self.parts if fits(part, kind)]
        settings = _find_shared(model, kind) | _list_given(old)
        names = {name: write_value(value) for name, value in settings.items()}
        text = "" if old is None else write_value(old)
        for part in self.fitting[kind]:
            if part is not type(old):
                key = (part, text, str(names))
                if key not in self.written:
                    self.written[key] = _write_part(part, old, settings)
                yield self.written[key]


def _write_part(part: type, old: object, settings: Mapping[str, object]) -> str:
    """The call that makes a part in the place of an old one, with the settings of `given` that it takes.

    The old part itself becomes what a required field asks for, and the first of a tuple of parts.
    """
    annotations = read_annotations(part)
    carried: dict[str, object] = {}
    for field in fields(part):
        default = find_default(field)
        if field.name in settings:
            value = settings[field.name]
        elif default is dataclasses.MISSING:
            value = old
        elif isinstance(default, tuple) and default and old is not None:
            value = (old, *default[1:])
        else:
            continue
        try:
            carried[field.name] = check_value(value, annotations[field.name], field.name)
        except InputError:
            continue
    try:
        return write_value(build(part, carried))
    except InputError:  # of settings that do not go together in the new part
        return f"{part.__name__}()"


def _find_shared(model: object, kind: type) -> dict[str, object]:
    """Numbers, choices and truth values that parts of a kind were given in a model, if these do not differ."""
    shared: dict[str, object] = {}
    differ: set[str] = set()
    for value in _walk(model):
        if fits(type(value), kind):
            settings = {
                name: setting for name, setting in _list_given(value).items() if isinstance(setting, str | int | float)
            }
            differ |= {name for name in settings if name in shared and shared[name] != settings[name]}
            shared |= settings
    return {name: value for name, value in shared.items() if name not in differ}


def _walk(value: object) -> Iterator[object]:
    if isinstance(value, tuple):
        for item in value:
            yield from _walk(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield value
        for field in fields(value):
            yield from _walk(getattr(value, field.name))


def _list_given(value: object) -> dict[str, object]:
    """Settings of a part that are not its defaults; empty for what is no part."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return {}
    return {
        field.name: setting
        for field in fields(value)
        if (setting := getattr(value, field.name)) != find_default(field) and field.name not in PROGRAMS
    }
