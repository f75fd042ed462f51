"""Configs: those of the project by name, files of the user's by path, and the experiment that each builds."""

import functools
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from tensorflow_datasets.core import registered

import configs
from models.structure import nearest
from train.errors import InputError
from train.experiment import Experiment
from train.spec.encoding import decode, encode
from train.spec.overrides import list_changes, override
from train.spec.parts import Names, list_components, list_project_parts, merge_names

MAIN = "__main__"


def list_configs() -> list[str]:
    """Lists the names of the experiments in configs/."""
    return _list_files("experiment")


def list_studies() -> list[str]:
    """Lists the names of the studies in configs/."""
    return _list_files("study")


def list_searches() -> list[str]:
    """Lists the names of the architecture searches in configs/."""
    return _list_files("search")


def _list_files(function: str) -> list[str]:
    files = Path(configs.__path__[0]).glob("*.py")
    return sorted(path.stem for path in files if f"\ndef {function}(" in path.read_text(encoding="utf-8"))


def load_config(name: str, overrides: list[str], files: Sequence[str] = ()) -> tuple[Experiment, Names]:
    """Loads a config's experiment, by name or as a Python file, with overrides; also returns the known components.

    `files` are Python files of the user's whose components overrides may name too; `__main__` stands for the running
    notebook or script.  Raises InputError for an unknown
    name, a file without `experiment()`, and an override that does not fit.
    """
    module = import_config(name)
    names = merge_names(list_project_parts(), list_components(module))
    for file in files:
        names = merge_names(names, list_components(sys.modules[MAIN] if file == MAIN else load_file(file)))
    if not hasattr(module, "experiment"):
        remedy = "it needs one that gives an Experiment."
        if "study" in vars(module):
            remedy = f"it is a study: morphax compare {name}."
        elif "search" in vars(module):
            remedy = f"it is a search: morphax search {name}."
        raise InputError(f"The config {name!r} has no function experiment(); {remedy}")
    try:
        experiment = module.experiment()
    except Exception as error:  # the config's code may raise anything
        raise InputError(f"The config {name!r} cannot be built: {_describe_error(error, module.__file__)}") from None
    if not isinstance(experiment, Experiment):
        raise InputError(
            f"experiment() of the config {name!r} gave a {type(experiment).__name__}; it must give an Experiment."
        )
    try:
        again = decode(encode(experiment), names)  # train exactly the experiment that its run is read back as
    except InputError as error:
        raise InputError(f"The config {name!r} could not be read back from its run: {error}") from None
    if lost := list_changes(experiment, again):
        raise InputError(
            f"The config {name!r} could not be read back from its run: {'; '.join(lost)}; use tuples and known"
            " components."
        )
    return override(again, overrides, names), names


def import_config(name: str, fitting: Sequence[str] = ()) -> ModuleType:
    """Imports the module of a config, by name or as a file.

    Raises InputError if there is none, with names of experiments and of `fitting` ones.
    """
    if name.endswith(".py"):
        return load_file(name, "config file")
    experiments = list_configs()
    if name not in (*experiments, *list_studies(), *list_searches()):
        raise InputError(f"No config is called {name!r}; {nearest(name, [*fitting, *experiments])}")
    return importlib.import_module(f"configs.{name}")


def load_file(file: str, what: str = "file") -> ModuleType:
    """Imports a Python file of the user's.  Raises InputError if there is none, or if its code raises anything."""
    path = Path(file)
    if not path.is_file():
        raise InputError(f"There is no {what} {file}.")
    try:
        module = _execute_file(path.resolve(), path.read_bytes())
    except Exception as error:  # the file's code may raise anything
        raise InputError(f"The {what} {file} cannot be read: {_describe_error(error, str(path.resolve()))}") from None
    # a file whose text is again an earlier one gets that one's cached module, and so its classes
    sys.modules[module.__name__] = module
    return module


def _describe_error(error: Exception, file: str | None) -> str:
    """Describes an error that the code of a file raised, with the line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    kind = "" if type(error) in (ValueError, LookupError, InputError) else f"{type(error).__name__}: "
    said = error.msg if isinstance(error, SyntaxError) else (str(error).strip().splitlines() or ["no reason given"])[0]
    return f"{kind}{said}" + (f" (line {line} of {Path(file).name})" if line and file else "")


@functools.cache
def _execute_file(path: Path, source: bytes) -> ModuleType:
    # cached: the same text is executed once, so that its classes keep their identity
    folder = [str(path.parent)]  # TFDS looks up the folder of a builder's package
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path, submodule_search_locations=folder)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # recorded with the run; the file may have changed by then
    vars(module)["__source__"] = source.decode("utf-8", errors="replace")
    sys.modules[module.__name__] = module
    with registered.skip_registration():  # a data set in the file may have the name of another
        spec.loader.exec_module(module)
    return module
