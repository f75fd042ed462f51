"""Parts of an experiment: which classes and functions have a name in configs, overrides and `experiment.json`."""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from models import activation
from models.contracts import KINDS, conforms
from models.structure import fields, nearest
from train.errors import InputError

Names = dict[str, Any]  # class or function, by its name
HOLDERS = (  # packages and modules that define parts
    "models",
    "train.data",
    "train.experiment",
    "train.objectives",
    "train.optimizers",
    "train.parallel",
    "train.review",
    "train.sinks",
    "train.weights",
)
BUILDERS = "train.data.builders."  # of data sets, which are found by their files
PROJECT = ("models", "train")
OF_THE_PROJECT = "the project's {}"


def project() -> Names:
    """Parts of this project by name.  Raises InputError, naming both modules, if two parts have one name."""
    return dict(_project())


@functools.cache
def _project() -> Names:
    from train.experiment import Experiment

    modules = [module for holder in HOLDERS for module in _modules(holder)]
    candidates = [value for module in modules for value in components(module).values()]
    return discover(Experiment, candidates) | components(activation)


def _modules(holder: str) -> Iterator[types.ModuleType]:
    module = importlib.import_module(holder)
    yield module
    if folder := vars(module).get("__path__"):
        names = [info.name for info in pkgutil.walk_packages(folder, f"{holder}.")]
        yield from (importlib.import_module(name) for name in names if not name.startswith(BUILDERS))


def discover(root: type, candidates: Iterable[Any]) -> Names:
    """Parts that a tree below a class can be made of, by name: the class, and what fits in a field of a part.

    In a field whose type is a contract fits every candidate that conforms to it, and in one whose type is a class
    the class and those derived from it.  Raises InputError, naming both modules, if two parts have one name.
    """
    classes = [value for value in candidates if isinstance(value, type)]
    parts: Names = {}
    waiting: list[type] = [root]
    kinds: list[Any] = list(KINDS)
    asked: set[Any] = {root}  # kinds and parts that were looked at
    while waiting or kinds:
        if waiting:
            part = waiting.pop()
            if parts.setdefault(part.__name__, part) is not part:
                homes = " and ".join(sorted((parts[part.__name__].__module__, part.__module__)))
                raise InputError(f"Two parts are called {part.__name__}, in {homes}; rename one of them.")
            kinds += [kind for annotation in annotations(part).values() for kind in leaves(annotation)]
        elif isinstance(kind := kinds.pop(), type) and ("kind", kind) not in asked:
            new = [value for value in classes if value not in asked and _fits(value, kind)]
            asked |= {("kind", kind), *new}
            waiting += new
    return parts


def _fits(component: type, kind: type) -> bool:
    if is_contract(kind):
        return conforms(component, kind)
    return dataclasses.is_dataclass(kind) and kind in component.__mro__


def is_contract(annotation: Any) -> bool:
    """If a type is a protocol."""
    return isinstance(annotation, type) and bool(vars(annotation).get("_is_protocol", False))


def leaves(annotation: Any) -> Iterator[Any]:
    """Types that an annotation is made of: those of a union, of a tuple and of a mapping's values."""
    inner = typing.get_args(annotation)
    if not inner or typing.get_origin(annotation) in (typing.Literal, typing.get_origin(Callable[[Any], Any])):
        yield annotation
        return
    for item in inner:
        yield from leaves(item)


def components(module: types.ModuleType) -> Names:
    """Public dataclasses that a module itself defines; of `models.activation` its functions."""
    own = {name: value for name, value in vars(module).items() if _home(value) == module.__name__ and name[0] != "_"}
    if module is activation:
        return {name: value for name, value in own.items() if inspect.isfunction(value)}
    return {name: value for name, value in own.items() if isinstance(value, type) and dataclasses.is_dataclass(value)}


def _home(value: Any) -> str | None:
    return value.__module__ if isinstance(value, type) or inspect.isfunction(value) else None


def is_ours(component: Any) -> bool:
    """If a class or function is the project's, and no user's."""
    return component.__module__.partition(".")[0] in PROJECT


def joined(known: Mapping[str, Any], own: Mapping[str, Any]) -> Names:
    """Known names and those of a user's file or notebook, which come first.

    A part of the project that one of these is called as is kept under `OF_THE_PROJECT`, where `named` finds it.
    """
    hidden = {name: known[name] for name in own if name in known and is_ours(known[name]) and not is_ours(own[name])}
    return {**known, **own, **{OF_THE_PROJECT.format(name): value for name, value in hidden.items()}}


def find(name: Any, names: Names) -> Any:
    """The part of a name, the user's before the project's.  Raises InputError if there is none, with the nearest."""
    if not isinstance(name, str) or name not in names:
        raise InputError(f"No component is called {name!r}; {nearest(str(name), list(names)) if names else ''}")
    return names[name]


def find_recorded(name: Any, module: Any, names: Names) -> Any:
    """The part of a recorded name: a user's if it is recorded with a module, otherwise the project's if there is one.

    Raises InputError if there is none, and if it is recorded with a module and only the project has one.
    """
    part = find(name, names)
    if module is not None and is_ours(part):
        raise InputError(f"No component of {module} is called {name!r}; the one of {part.__module__} is another.")
    return part if module is not None else names.get(OF_THE_PROJECT.format(name), part)


def kinds(value: Any) -> Iterator[Any]:
    """Classes and functions that a structure is made of."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        for field in fields(value):
            yield from kinds(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from kinds(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from kinds(item)
    elif inspect.isfunction(value):
        yield value


def with_kinds(names: Names, value: Any) -> Names:
    """Known names and, after them, those of the classes and functions that a structure is made of."""
    inner = {kind.__name__: kind for kind in kinds(value)}
    unknown = {name for name in inner if name not in names or is_ours(names[name])}
    own = {name: kind for name, kind in inner.items() if name in unknown and not is_ours(kind)}
    return joined(inner | names, own)


def annotations(owner: type) -> dict[str, Any]:
    """Types of a component's fields by name; Any for a postponed annotation that names what is not imported."""
    try:
        hints = typing.get_type_hints(owner)
    except NameError:
        hints = {}
    written = {field.name: Any if isinstance(field.type, str) else field.type for field in fields(owner)}
    return {name: hints.get(name, kind) for name, kind in written.items()}
