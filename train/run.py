"""A run's folder: the experiment that it is of, where it is, and what opens it again."""

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from tensorflow_datasets.core import registered

import configs
from models.structure import nearest, replace
from train.data.contracts import Opened
from train.data.tokens import Learnt
from train.experiment import Experiment
from train.spec import InputError, Names, changes, components, decode, encode, override, project

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
TOKENIZER = "tokenizer.json"
UNFINISHED = (".write", "experiment.json.partial", TOKENIZER)  # what a kill may leave in a folder that is no run yet


def config_names() -> list[str]:
    """The experiments in configs/."""
    return sorted(path.stem for path in Path(configs.__path__[0]).glob("*.py") if path.stem != "__init__")


def load_config(name: str, overrides: list[str]) -> tuple[Experiment, Names]:
    """The experiment of a config, by its name in configs/ or the path of a Python file, with overrides applied; and the components known.

    Raises InputError for a name that is none, a file without `experiment()`, and for every override that does not fit.
    """
    module = _module(name)
    names = project() | components(module)
    if not hasattr(module, "experiment"):
        raise InputError(f"The config {name!r} has no function experiment(); it needs one that gives an Experiment.")
    try:
        experiment = module.experiment()
    except Exception as error:  # whatever the config's own code raises
        raise InputError(f"The config {name!r} cannot be built: {_told(error, module.__file__)}") from None
    if not isinstance(experiment, Experiment):
        raise InputError(f"experiment() of the config {name!r} gave a {type(experiment).__name__}; it must give an Experiment.")
    try:
        again = decode(encode(experiment), names)  # what is trained is what its run is read back as
    except InputError as error:
        raise InputError(f"The config {name!r} could not be read back from its run: {error}") from None
    if lost := changes(experiment, again):
        raise InputError(f"The config {name!r} could not be read back from its run: {'; '.join(lost)}; use tuples and known components.")
    return overridden(again, overrides, names), names


def overridden(experiment: Experiment, overrides: list[str], names: Names) -> Experiment:
    """The experiment with overrides applied together, so that two that only fit with each other are fine in any order."""
    lengths = [text for text in overrides if text.split("=")[0] in ("steps", "epochs")]
    if len(lengths) == 1:  # asking for steps takes the place of epochs, and the other way round
        other = "epochs" if lengths[0].startswith("steps") else "steps"
        own = {"steps": 1, "epochs": None} if other == "epochs" else {"steps": None, "epochs": 1.0}
        experiment = dataclasses.replace(experiment, **own)
    waiting = list(overrides)
    while waiting:
        refused: dict[str, InputError] = {}
        for text in waiting:
            try:
                experiment = override(experiment, text, names)
            except InputError as error:
                refused[text] = error
        if len(refused) == len(waiting):
            raise refused[waiting[0]]
        waiting = list(refused)  # once more: one may have waited for another
    return experiment


def _module(name: str) -> Any:
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"There is no config file {name}.")
        try:
            return _own_file(path.resolve(), path.read_bytes())
        except Exception as error:  # whatever the config's own code raises
            raise InputError(f"The config {name!r} cannot be read: {_told(error, str(path.resolve()))}") from None
    if name not in config_names():
        raise InputError(f"No config is called {name!r}; {nearest(name, config_names())}")
    return importlib.import_module(f"configs.{name}")


def loaded(file: str) -> Any:
    """The module of a Python file of the user's.  Raises InputError if there is none, and for whatever its code raises."""
    path = Path(file)
    if not path.is_file():
        raise InputError(f"There is no file {file}.")
    try:
        return _own_file(path.resolve(), path.read_bytes())
    except Exception as error:  # whatever the file's own code raises
        raise InputError(f"{file} cannot be read: {_told(error, str(path.resolve()))}") from None


def _told(error: Exception, file: str) -> str:
    """What a config's own code raised, and the line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    kind = "" if type(error) in (ValueError, LookupError, InputError) else f"{type(error).__name__}: "
    said = error.msg if isinstance(error, SyntaxError) else (str(error).strip().splitlines() or ["no reason given"])[0]
    return f"{kind}{said}" + (f" (line {line} of {Path(file).name})" if line else "")


@functools.cache
def _own_file(path: Path, source: bytes) -> Any:
    del source  # the same text is run once, so that its classes stay the same ones
    folder = [str(path.parent)]  # TFDS asks where a builder's package is
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path, submodule_search_locations=folder)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    with registered.skip_registration():  # a data set of its own may have the name of another
        spec.loader.exec_module(module)
    return module


def versions() -> dict[str, str]:
    """What the run was computed with."""
    commit = ""
    with contextlib.suppress(OSError):  # where git is not installed
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
        commit = asked.stdout.strip()
    found = {name: version(name) for name in PACKAGES}
    return found | {"python": sys.version.split()[0], "commit": commit, "device": jax.devices()[0].device_kind}


def record(folder: Path, experiment: Experiment, config: str, opened: Opened) -> None:
    """Makes the folder and writes experiment.json: the experiment, the config it came from, the classes it knows, versions.

    A tokenizer that the data learnt is written beside it first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = getattr(opened, "tokens", None)
    if isinstance(tokens, Learnt):
        (folder / TOKENIZER).write_text(tokens.file(), encoding="utf-8")
    data = {"experiment": encode(experiment), "config": config, "classes": list(opened.classes), "versions": versions()}
    partial = folder / "experiment.json.partial"
    partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / "experiment.json")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What experiment.json says: the experiment, its config's name, the classes it knows."""

    experiment: Experiment
    config: str
    classes: tuple[str, ...]


def recorded(folder: Path, config: str | None = None) -> Recorded:
    """A run's experiment, read back.  `config` is a file that defines components of its own; one in configs/ is found by itself.

    Raises InputError where the folder holds no run, or the file is damaged or names an unknown component.
    """
    path = folder / "experiment.json"
    if not os.path.isfile(path):  # also where the name is too long for a file
        raise InputError(f"{folder} is no run: it has no experiment.json; give a folder that `morphax train` wrote.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        written, name, classes = data["experiment"], data["config"], tuple(data["classes"])
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); give another folder, or train anew.") from None
    known = project() | components(sys.modules["__main__"])  # a notebook's own classes
    if config is not None:
        known |= components(_module(config))
    elif name in config_names():
        known |= components(_module(name))
    try:
        experiment = decode(written, known)
    except InputError as error:
        raise InputError(f"{path}: {error} If a config file of your own defines it, add --config FILE.") from None
    if not isinstance(experiment, Experiment):
        raise InputError(f"{path} holds no experiment.")
    return Recorded(experiment, name, classes)


def fitted(folder: Path, experiment: Experiment) -> Experiment:
    """The run's experiment, reading text with the tokenizer that the run learnt and keeps, where it has one."""
    place = folder / TOKENIZER
    return replace(experiment, "data.tokenizer", str(place)) if place.is_file() else experiment


def claim(folder: Path, experiment: Experiment, config: str) -> Recorded | None:
    """The run that the folder already holds, if it is of the same experiment; None where a new one can be made.

    Raises InputError, naming every difference, where it holds another experiment, and where it cannot be written.
    """
    if os.path.isfile(folder / "experiment.json"):
        old = recorded(folder, config if config.endswith(".py") else None)
        if different := changes(old.experiment, experiment):
            listed = "; ".join(different)
            raise InputError(f"{folder} holds another experiment ({listed}): continue with its settings, or name a new folder with --run.")
        _writable(folder)
        return old
    if os.path.exists(folder) and (not folder.is_dir() or any(path.name not in UNFINISHED for path in folder.iterdir())):
        raise InputError(f"{folder} exists and is no run; name another folder with --run.")
    new = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _writable(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {os.strerror(error.errno or 0)}; name another folder with --run.") from None
    finally:  # a run that is refused later leaves nothing behind
        for place in new:
            with contextlib.suppress(OSError):
                place.rmdir()
    return None


def _writable(folder: Path) -> None:
    probe = folder / ".write"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {os.strerror(error.errno or 0)}; name another folder with --run.") from None
