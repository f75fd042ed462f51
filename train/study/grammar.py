"""Grammars of structures: every edit of a config's model that the types of its fields allow, each an override.

A field whose type is a contract takes every part that conforms to it, the user's own too; a number is halved or
doubled; a choice, a truth value and what may be none take their other values.  Numbers that the match of budgets sets
are left to it.
"""

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from models.contracts import Model
from models.depth.stack import Stack
from models.structure import fields, part
from train.config import load_config
from train.errors import InputError
from train.experiment import Experiment
from train.spec.checks import list_alternatives
from train.spec.encoding import encode
from train.spec.overrides import override, write_value
from train.spec.parts import is_contract, read_annotations
from train.study.match import find_fields
from train.study.swaps import PROGRAMS, Swaps
from train.variants import Budget

LEAST = 1e-3  # smaller numbers keep a divisor from zero and are no sizes


@dataclasses.dataclass(frozen=True)
class Edit:
    """An edit: the override `path=value`."""

    path: str
    value: str
    swaps: bool = dataclasses.field(default=False, compare=False)  # puts a part in the place of another

    def __str__(self) -> str:
        return f"{self.path}={self.value}"


Edits = tuple[Edit, ...]


def read_edits(texts: Sequence[str]) -> Edits:
    """Reads edits from overrides."""
    return tuple(Edit(path, value) for path, _, value in (text.partition("=") for text in texts))


def write_edits(edits: Edits) -> tuple[str, ...]:
    """Writes edits as overrides."""
    return tuple(map(str, edits))


class Grammar:
    """The edits of a config's model at the paths `at` and below, by default those of every block of its stacks.

    Raises InputError for a path that is not below `model`, and for one that leads nowhere.
    """

    def __init__(
        self,
        config: str,
        overrides: Sequence[str] = (),
        at: Sequence[str] = (),
        files: Sequence[str] = (),
        budget: Budget = "flops",
        free: Sequence[str] = (),
    ) -> None:
        self.base, names = load_config(config, [], files)
        self.overrides, self.budget, self.free = tuple(overrides), budget, tuple(free)
        self.names = {name: value for name, value in names.items() if name.isidentifier()}
        self.swaps = Swaps(self.names)
        experiment = self.apply(())
        self.at = tuple(at) or tuple(_find_blocks(experiment))
        if not self.at:
            raise InputError(f"{type(experiment.model).__name__} has no stack of blocks to edit; give --at PATH.")
        for path in self.at:
            if path.split(".")[0] != "model":
                raise InputError(f"--at is {path!r}; a search edits the model, such as --at model.stack.block.mixer.")
            try:
                part(experiment, path)
            except LookupError as error:
                raise InputError(f"--at {error.args[0]}") from None

    def apply(self, edits: Edits) -> Experiment:
        """Applies edits to the baseline.  Raises InputError if they do not fit each other or the classes."""
        return override(self.base, [*self.overrides, *write_edits(edits)], self.names)

    def identify(self, edits: Edits) -> str:
        """The edited model as JSON: equal for equal structures.  Raises InputError as `apply` does."""
        return json.dumps(encode(self.apply(edits).model))

    def list_edits(self, edits: Edits = ()) -> list[Edit]:
        """Lists the edits of a structure that edits gave, each once."""
        experiment = self.apply(edits)
        matched = set() if self.budget == "none" else set(self.free or find_fields(experiment.model))
        listed: dict[Edit, None] = {}
        for root in self.at:
            try:
                value = part(experiment, root)
            except LookupError:  # an edit took it away
                continue
            edited = self._walk(value, _find_annotation(experiment, root), root, experiment.model)
            listed |= dict.fromkeys(edit for edit in edited if edit.path not in matched)
        return list(listed)

    def _walk(self, value: object, annotation: object, path: str, model: Model) -> Iterator[Edit]:
        if path.rpartition(".")[2] in PROGRAMS:
            return
        for choice in list_alternatives(annotation):
            yield from (Edit(path, text, swaps) for text, swaps in self._list_values(value, choice, model))
        if isinstance(value, tuple):
            for index, item in enumerate(value):
                yield from self._walk(item, _find_item(annotation, index), f"{path}.{index}", model)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            annotations = read_annotations(type(value))
            for field in fields(value):
                inner, name = getattr(value, field.name), f"{path}.{field.name}"
                for edit in self._walk(inner, annotations[field.name], name, model):
                    if edit.path != name or edit.swaps or _accepts(value, field.name, edit.value):
                        yield edit

    def _list_values(self, value: object, choice: object, model: Model) -> Iterator[tuple[str, bool]]:
        """Lists the other values of one type of a field, as texts, and if they are parts."""
        if choice is type(None) and value is not None:
            yield "none", False
        elif choice is bool and isinstance(value, bool):
            yield write_value(not value), False
        elif choice in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
            yield from ((text, False) for text in _scale(value))
        elif typing.get_origin(choice) is typing.Literal:
            yield from ((write_value(other), False) for other in typing.get_args(choice) if other != value)
        elif typing.get_origin(choice) is Callable:
            functions = (name for name, other in self.names.items() if inspect.isfunction(other) and other != value)
            yield from ((name, True) for name in functions)
        elif is_contract(choice) or (isinstance(choice, type) and dataclasses.is_dataclass(choice)):
            yield from ((text, True) for text in self.swaps.list_calls(choice, value, model))

    def mutate(self, edits: Edits, generator: np.random.Generator) -> Edits:
        """Adds one edit, drawn at random: a swap of parts or a setting with equal chances, then a field, then a value.

        Raises InputError if nothing can be edited, and as `apply` does.
        """
        possible = self.list_edits(edits)
        groups = [group for swaps in (True, False) if (group := [edit for edit in possible if edit.swaps == swaps])]
        if not groups:
            raise InputError(f"There is nothing to edit at {', '.join(self.at)}; give another --at PATH.")
        group = groups[int(generator.integers(len(groups)))]
        paths = list(dict.fromkeys(edit.path for edit in group))
        path = paths[int(generator.integers(len(paths)))]
        values = [edit for edit in group if edit.path == path]
        return self.simplify(add_edit(edits, values[int(generator.integers(len(values)))]))

    def cross(self, left: Edits, right: Edits) -> Edits:
        """Joins the edits of two parents: all of the left, and those of the right on other paths."""
        paths = [edit.path for edit in left]
        return self.simplify((*left, *(edit for edit in right if not any(_overlap(edit.path, path) for path in paths))))

    def simplify(self, edits: Edits) -> Edits:
        """Leaves out edits that change nothing beside the others; all stay if they cannot be applied."""
        try:
            whole = self.identify(edits)
            for edit in edits:
                rest = tuple(other for other in edits if other != edit)
                with_rest = self._try(rest)
                if with_rest == whole:
                    return self.simplify(rest)
        except InputError:
            pass
        return edits

    def _try(self, edits: Edits) -> str | None:
        try:
            return self.identify(edits)
        except InputError:  # an edit of a part that the one left out had put there
            return None


def add_edit(edits: Edits, new: Edit) -> Edits:
    """Adds an edit, in place of those of its path and below."""
    return (*(edit for edit in edits if edit.path != new.path and not edit.path.startswith(f"{new.path}.")), new)


def _overlap(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")


def _find_blocks(experiment: Experiment) -> Iterator[str]:
    """Finds what is directly below the blocks of the model's stacks: their fields, or the blocks of a pattern."""
    for field in fields(experiment.model):
        stack = getattr(experiment.model, field.name)
        if isinstance(stack, Stack):
            above = f"model.{field.name}.block"
            names = map(str, range(len(stack.block))) if isinstance(stack.block, tuple) else ()
            yield from (f"{above}.{name}" for name in names)
            if not isinstance(stack.block, tuple):
                yield from (f"{above}.{inner.name}" for inner in fields(stack.block))


def _find_annotation(experiment: Experiment, path: str) -> object:
    """The type of the field at a path; None below a tuple or a mapping, whose items are not swapped."""
    above, _, name = path.rpartition(".")
    owner = part(experiment, above) if above else experiment
    return read_annotations(type(owner)).get(name) if dataclasses.is_dataclass(owner) else None


def _find_item(annotation: object, index: int) -> object:
    """The type of an item of a tuple."""
    for choice in list_alternatives(annotation):
        if typing.get_origin(choice) is tuple:
            kinds = typing.get_args(choice)
            return kinds[0] if kinds[-1] is Ellipsis else kinds[index]
    return None


def _scale(value: float) -> Iterator[str]:
    """A number halved and doubled; whole numbers stay whole."""
    if abs(value) >= LEAST:
        yield from dict.fromkeys(
            write_value(new)
            for new in ((value // 2 if isinstance(value, int) else value / 2), value * 2)
            if new and new != value
        )


def _accepts(owner: object, name: str, text: str) -> bool:
    """Tells if a component takes a number, as its own checks have it; other texts are taken to be fine."""
    assert dataclasses.is_dataclass(owner)
    assert not isinstance(owner, type)
    try:
        number = float(text)
    except ValueError:
        return True
    try:
        dataclasses.replace(owner, **{name: int(number) if text.lstrip("-").isdecimal() else number})
    except (TypeError, ValueError):
        return False
    return True
