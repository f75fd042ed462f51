"""A run's folder: the experiment that it is of, where it is, and what opens it again."""

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import configs
from models.structure import nearest
from train.experiment import Experiment
from train.spec import InputError, Names, changes, components, decode, encode, override, project

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


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
        raise InputError(f"The config {name!r} has no function experiment() -> Experiment.")
    try:
        experiment = module.experiment()
    except (TypeError, ValueError) as error:
        raise InputError(f"The config {name!r} cannot be built: {str(error).splitlines()[0]}") from None
    if not isinstance(experiment, Experiment):
        raise InputError(f"experiment() of the config {name!r} gave a {type(experiment).__name__}; it must give an Experiment.")
    return overridden(experiment, overrides, names), names


def overridden(experiment: Experiment, overrides: list[str], names: Names) -> Experiment:
    """The experiment with overrides applied together, so that two that only fit with each other are fine in any order."""
    lengths = [text for text in overrides if text.split("=")[0] in ("steps", "epochs")]
    if len(lengths) == 1:  # asking for steps takes the place of epochs, and the other way round
        other = "epochs" if lengths[0].startswith("steps") else "steps"
        own = {"steps": 1, "epochs": None} if other == "epochs" else {"steps": None, "epochs": 1.0}
        experiment = dataclasses.replace(experiment, **own)
    for text in overrides:
        experiment = override(experiment, text, names)
    return experiment


def _module(name: str) -> Any:
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"There is no config file {name}.")
        spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)
        return module
    if name not in config_names():
        raise InputError(f"No config is called {name!r}; {nearest(name, config_names())}")
    return importlib.import_module(f"configs.{name}")


def versions() -> dict[str, str]:
    """What the run was computed with."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    found = {name: version(name) for name in PACKAGES}
    return found | {"python": sys.version.split()[0], "commit": commit.stdout.strip(), "device": jax.devices()[0].device_kind}


def record(folder: Path, experiment: Experiment, config: str, classes: tuple[str, ...]) -> None:
    """Writes experiment.json: the experiment, the config it came from, the classes it knows, versions."""
    data = {"experiment": encode(experiment), "config": config, "classes": list(classes), "versions": versions()}
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
    if not path.is_file():
        raise InputError(f"{folder} is no run: it has no experiment.json; give a folder that `morphax train` wrote.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        name, classes = data["config"], tuple(data["classes"])
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}).") from None
    known = project()
    if config is not None:
        known |= components(_module(config))
    elif name in config_names():
        known |= components(_module(name))
    try:
        experiment = decode(data["experiment"], known)
    except InputError as error:
        raise InputError(f"{path}: {error} If a config file of your own defines it, add --config FILE.") from None
    if not isinstance(experiment, Experiment):
        raise InputError(f"{path} holds no experiment.")
    return Recorded(experiment, name, classes)


def claim(folder: Path, experiment: Experiment, config: str) -> Recorded | None:
    """The run that the folder already holds, if it is of the same experiment; None for a new folder, which is made.

    Raises InputError, naming every difference, where it holds another experiment, and where it cannot be written.
    """
    if (folder / "experiment.json").is_file():
        old = recorded(folder, config if config.endswith(".py") else None)
        if different := changes(old.experiment, experiment):
            raise InputError(
                f"{folder} holds another experiment ({'; '.join(different)}): continue it with its own settings, or name a new folder with --run."
            )
        _writable(folder)
        return old
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is no run; name another folder with --run.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {os.strerror(error.errno or 0)}; name another folder with --run.") from None
    _writable(folder)
    return None


def _writable(folder: Path) -> None:
    probe = folder / ".write"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {os.strerror(error.errno or 0)}; name another folder with --run.") from None
