"""Parts of an experiment: classes and functions with a name in configs, overrides and `experiment.json`."""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from models import activation
from models.contracts import KINDS, conforms
from models.structure import fields, nearest
from train.errors import InputError

Component = type | types.FunctionType
Names = dict[str, Component]  # class or function, by its name
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
BUILDERS = "train.data.builders."  # these modules build data sets, which are found by their files
PROJECT = ("models", "train")
OF_THE_PROJECT = "the project's {}"


def list_project_parts() -> Names:
    """Lists parts of this project by name.  Raises InputError, naming both modules, if two parts have one name."""
    return dict(_discover_project())


@functools.cache
def _discover_project() -> Names:
    from train.experiment import Experiment

    modules = [module for holder in HOLDERS for module in _import_modules(holder)]
    candidates = [value for module in modules for value in list_components(module).values()]
    return discover(Experiment, candidates) | list_components(activation)


def _import_modules(holder: str) -> Iterator[types.ModuleType]:
    module = importlib.import_module(holder)
    yield module
    if folder := vars(module).get("__path__"):
        names = [info.name for info in pkgutil.walk_packages(folder, f"{holder}.")]
        yield from (importlib.import_module(name) for name in names if not name.startswith(BUILDERS))


def discover(root: type, candidates: Iterable[object]) -> Names:
    """Discovers the parts of a tree below `root`, by name: the class, and every candidate that fits in a part's field.

    A field whose type is a contract takes every candidate that conforms to it; a field whose type is a class takes
    that class and its subclasses.  Raises InputError, naming both modules, if two parts have one name.
    """
    classes = [value for value in candidates if isinstance(value, type)]
    parts: Names = {}
    waiting: list[type] = [root]
    kinds: list[object] = list(KINDS)
    seen: set[object] = {root}  # kinds and parts
    while waiting or kinds:
        if waiting:
            part = waiting.pop()
            if parts.setdefault(part.__name__, part) is not part:
                homes = " and ".join(sorted((parts[part.__name__].__module__, part.__module__)))
                raise InputError(f"Two parts are called {part.__name__}, in {homes}; rename one of them.")
            kinds += [kind for annotation in read_annotations(part).values() for kind in split_annotation(annotation)]
        elif isinstance(kind := kinds.pop(), type) and ("kind", kind) not in seen:
            new = [value for value in classes if value not in seen and fits(value, kind)]
            seen |= {("kind", kind), *new}
            waiting += new
    return parts


def fits(component: type, kind: type) -> bool:
    """Tells if a class may stand in a field of a type: it conforms to the contract, or is or extends the dataclass."""
    if is_contract(kind):
        return conforms(component, kind)
    return dataclasses.is_dataclass(kind) and kind in component.__mro__


def is_contract(annotation: object) -> TypeGuard[type]:
    """Tells if a type is a protocol."""
    return isinstance(annotation, type) and bool(vars(annotation).get("_is_protocol", False))


def split_annotation(annotation: object) -> Iterator[object]:
    """Splits an annotation into its types: those of a union, of a tuple and of a mapping's values."""
    inner = typing.get_args(annotation)
    if not inner or typing.get_origin(annotation) in (typing.Literal, Callable):
        yield annotation
        return
    for item in inner:
        yield from split_annotation(item)


def list_components(module: types.ModuleType) -> Names:
    """Lists the public dataclasses that a module itself defines; the functions if it is `models.activation`."""
    public = {
        name: value for name, value in vars(module).items() if _find_home(value) == module.__name__ and name[0] != "_"
    }
    if module is activation:
        return {name: value for name, value in public.items() if inspect.isfunction(value)}
    return {
        name: value for name, value in public.items() if isinstance(value, type) and dataclasses.is_dataclass(value)
    }


def _find_home(value: object) -> str | None:
    return value.__module__ if isinstance(value, type) or inspect.isfunction(value) else None


def is_ours(component: Component) -> bool:
    """Tells if a class or function is the project's, and no user's."""
    return component.__module__.partition(".")[0] in PROJECT


def merge_names(known: Mapping[str, Component], users: Mapping[str, Component]) -> Names:
    """Merges known names with those of a user's file or notebook, which come first.

    A part of the project that is hidden by a user's is kept under `OF_THE_PROJECT`, for `find_recorded`.
    """
    hidden = {
        name: known[name] for name in users if name in known and is_ours(known[name]) and not is_ours(users[name])
    }
    return {**known, **users, **{OF_THE_PROJECT.format(name): value for name, value in hidden.items()}}


def find(name: object, names: Names) -> Component:
    """Finds the part of a name, the user's before the project's.

    Raises InputError if there is none, with the nearest names.
    """
    if not isinstance(name, str) or name not in names:
        raise InputError(f"No component is called {name!r}; {nearest(str(name), list(names)) if names else ''}")
    return names[name]


def find_recorded(name: object, module: object, names: Names) -> Component:
    """Finds a recorded part: a user's if it is recorded with a module, otherwise the project's if there is one.

    Raises InputError if there is none, and if it is recorded with a module and only the project has one.
    """
    part = find(name, names)
    if module is not None and is_ours(part):
        raise InputError(f"No component of {module} is called {name!r}; the one of {part.__module__} is another.")
    return part if module is not None else names.get(OF_THE_PROJECT.format(name), part)


def list_kinds(value: object) -> Iterator[Component]:
    """Lists the classes and functions that a structure is made of."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        for field in fields(value):
            yield from list_kinds(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from list_kinds(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from list_kinds(item)
    elif inspect.isfunction(value):
        yield value


def add_kinds(names: Names, value: object) -> Names:
    """Adds the names of the classes and functions of a structure to known names, which come first."""
    inner = {kind.__name__: kind for kind in list_kinds(value)}
    unknown = {name for name in inner if name not in names or is_ours(names[name])}
    users = {name: kind for name, kind in inner.items() if name in unknown and not is_ours(kind)}
    return merge_names(inner | names, users)


def read_annotations(owner: type) -> dict[str, object]:
    """Reads the types of a component's fields by name; Any if a postponed annotation names what is not imported."""
    try:
        hints = typing.get_type_hints(owner)
    except NameError:
        hints = {}
    written = {field.name: Any if isinstance(field.type, str) else field.type for field in fields(owner)}
    return {name: hints.get(name, kind) for name, kind in written.items()}
