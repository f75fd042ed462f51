"""Run folders: write, read back and resume `experiment.json`."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import jax

from models.structure import differences, part, replace
from train.config import import_config, list_configs
from train.contracts import Dataset, Tokenised
from train.data.tokens import Published
from train.engine.provenance import (
    COPY,
    SourceRecord,
    describe_directory,
    describe_edits,
    find_source,
    fingerprint_data,
    relocate_paths,
)
from train.engine.requirements import Change
from train.errors import InputError, Json
from train.experiment import Experiment
from train.parallel import Jit
from train.spec.encoding import Encoded, decode, encode
from train.spec.overrides import list_changes
from train.spec.parts import list_components, list_project_parts, merge_names

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
TOKENIZER = "tokenizer.json"
FREE = ("parallel", "accumulate", "steps", "epochs", "sinks")  # settings that may change when a run is continued
# files that a killed process may leave in a folder before it is a run
UNFINISHED = (".write", "experiment.json.partial", TOKENIZER, COPY)


def collect_versions() -> dict[str, str]:
    """Collects versions of packages and Python, the Git commit, and the kind of device."""
    commit = ""
    with contextlib.suppress(OSError):  # git is not installed
        process = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
        )
        commit = process.stdout.strip()
    packages = {name: version(name) for name in PACKAGES}
    return packages | {"python": sys.version.split()[0], "commit": commit, "device": jax.devices()[0].device_kind}


def adopt_settled(folder: Path, experiment: Experiment) -> Experiment:
    """Applies the settings that followed the data when the folder's run began, to the experiment.

    Settings that have changed since stay.  The experiment stays as it is if the folder holds no readable run.
    """
    try:
        settled = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))["settled"]
        for change in settled:
            path = change["path"]
            if path not in experiment.given and encode(part(experiment, path)) == change["before"]:
                experiment = replace(experiment, path, decode(change["after"], {}))
    except (OSError, ValueError, LookupError, TypeError):
        return experiment
    return experiment


def record(
    folder: Path,
    experiment: Experiment,
    config: str,
    opened: Dataset,
    fresh: Sequence[str] = (),
    settled: Sequence[Change] = (),
) -> None:
    """Makes the folder and writes experiment.json: the experiment, its config's name, its classes, versions.

    Also fingerprints of the data and of the config's own classes, the working folder, the parameters that are `fresh`
    beside loaded weights, and the settings that were `settled` by the data.  A tokenizer, and the file that defines
    the config's own classes, are written beside it first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = opened.tokens if isinstance(opened, Tokenised) else None
    source = find_source(experiment)
    if isinstance(tokens, Published):
        (folder / TOKENIZER).write_text(tokens.to_json(), encoding="utf-8")
    data: Written = {
        "experiment": encode(experiment),
        "config": config,
        "classes": list(opened.classes),
        "versions": collect_versions(),
        "data": fingerprint_data(experiment),
        "directory": describe_directory(folder),
        "fresh": list(fresh),
        "settled": [change.record() for change in settled],
    }
    if source is not None:
        data["source"] = source.record()
        if source.path is not None:
            (folder / COPY).write_text(source.text, encoding="utf-8")
    _write(folder, data)


def extend(folder: Path, old: "Recorded", experiment: Experiment, config: str, step: int) -> None:
    """Updates experiment.json if a run goes on after a step with changes, and appends these to `continued`."""
    said = old.said
    before: Mapping[str, object] = said
    source = find_source(experiment)
    same = old.experiment == experiment  # then the encoding of an older version stays
    encoded = said["experiment"] if same and "experiment" in said else encode(experiment)
    data: Written = {"experiment": encoded, "config": config, "versions": collect_versions()}
    if "data" in said:  # older versions did not record it
        data["data"] = fingerprint_data(relocate_paths(experiment, folder, said.get("directory"), here=True))
    if source is not None and describe_edits(folder, said.get("source"), source):
        data["source"] = source.record()
        if source.path is not None:
            (folder / COPY).write_text(source.text, encoding="utf-8")
    changed: dict[str, object] = {name: before.get(name) for name, value in data.items() if before.get(name) != value}
    if not changed:
        return
    changed.pop("experiment", None)
    entry: Continued = {"step": step, "changes": list_changes(old.experiment, experiment), "before": changed}
    _write(folder, {**before, **data, "continued": [*said.get("continued", []), entry]})


def _write(folder: Path, data: Mapping[str, object]) -> None:
    partial = folder / "experiment.json.partial"
    partial.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / "experiment.json")


class Continued(TypedDict):
    """A change of a run after a step: the settings that changed, and what experiment.json held before."""

    step: int
    changes: list[str]
    before: dict[str, object]


class Written(TypedDict, total=False):
    """The contents of experiment.json; older versions lack some."""

    experiment: Encoded
    config: str
    classes: list[str]
    versions: dict[str, str]
    data: dict[str, dict[str, Json]]
    directory: dict[str, str]
    fresh: list[str]
    settled: list[dict[str, object]]
    source: SourceRecord
    continued: list[Continued]


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Contents of experiment.json: the experiment, its config's name and classes; `said` is the whole file, parsed.

    `edited` names the run's own classes that were edited since they were trained.
    """

    experiment: Experiment
    config: str
    classes: tuple[str, ...]
    said: Written = dataclasses.field(default_factory=Written)
    edited: str = ""


def read_run(folder: Path, config: str | None = None) -> Recorded:
    """Reads a run's experiment.  `config` is a file that defines its own components; by default the recorded one.

    Raises InputError if the folder holds no run, or if the file is damaged or names an unknown component.
    """
    path = folder / "experiment.json"
    if not os.path.isfile(path):  # false also for a name that is too long for a file
        raise InputError(f"{folder} is no run: it has no experiment.json; give a folder that `morphax train` wrote.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        written, name, classes = data["experiment"], data["config"], tuple(data["classes"])
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {error}); give another folder, or train anew."
        ) from None
    known = list_components(sys.modules["__main__"])  # a notebook's own classes
    source = data.get("source")
    if config is None:
        config = name if name in list_configs() else _find_source_file(folder, source)
    if config is not None:
        known |= list_components(import_config(config))
    marked = '"from"' in json.dumps(written)  # older versions recorded no modules
    known = merge_names(list_project_parts(), known) if marked else list_project_parts() | known
    try:
        experiment = decode(written, known)
    except InputError as error:
        raise InputError(f"{path}: {error} If a config file of your own defines it, add --config FILE.") from None
    if not isinstance(experiment, Experiment):
        raise InputError(f"{path} holds no experiment.")
    return Recorded(experiment, name, classes, data, describe_edits(folder, source, find_source(experiment)))


def _find_source_file(folder: Path, source: SourceRecord | None) -> str | None:
    """Finds the file that defines a run's own components, if it has any.  Raises InputError if it is gone.

    A file in the run's folder, which may come from anywhere, is only executed if --config names it.
    """
    if source is None or source["path"] is None:
        return None
    path = Path(source["path"])
    names = ", ".join(source["components"])
    if not path.is_file() or Path(os.path.realpath(folder)) in path.parents:
        kept = f", such as {folder / COPY}, which the run keeps" if (folder / COPY).is_file() else ""
        where = "is not there" if not path.is_file() else "lies in the run's own folder"
        raise InputError(f"{path}, which defines {names} of {folder}, {where}: give the file with --config FILE{kept}.")
    return str(path)


def open_run(folder: Path, config: str | None = None) -> Recorded:
    """Opens a run for use: its experiment on one device, with the saved tokenizer and relocated paths.

    Raises InputError if the classes of its config were edited since; if `config` names the edited file, prints that
    instead.
    """
    run = read_run(folder, config)
    if run.edited:
        source = run.said.get("source")
        path = (source and source["path"]) or "the notebook"
        what = f"{run.edited} of {config or path} is not what {folder} was trained with"
        if config is None:
            kept = f" ask the run as it was with --config {folder / COPY}, or" if (folder / COPY).is_file() else ""
            named = f" as the file is now with --config {path}" if path != "the notebook" else " undo the edit"
            raise InputError(f"{what}:{kept}{named}, or train it anew.")
        print(f"{what}: what follows is of another model.", file=sys.stderr, flush=True)
    experiment = use_saved_tokenizer(folder, relocate_paths(run.experiment, folder, run.said.get("directory")))
    return dataclasses.replace(run, experiment=dataclasses.replace(experiment, parallel=Jit()))


def use_saved_tokenizer(folder: Path, experiment: Experiment) -> Experiment:
    """Sets the tokenizer that the run's folder holds, if any."""
    tokenizer = folder / TOKENIZER
    return replace(experiment, "data.tokenizer", str(tokenizer)) if tokenizer.is_file() else experiment


def claim(
    folder: Path, experiment: Experiment, config: str, fresh: bool = False, edits: bool = False
) -> Recorded | None:
    """Reads the run that the folder holds, if it is of the same experiment; None if a new one can be made.

    Its steps and its parallelism may differ.  Raises InputError, naming every difference, if the folder holds another
    experiment; if its classes were edited since, unless `edits` is set; and if the folder cannot be written.
    """
    if os.path.isfile(folder / "experiment.json") and fresh:
        _require_writable(folder)
        return None
    if os.path.isfile(folder / "experiment.json"):
        old = read_run(folder, config if config.endswith(".py") else None)
        if any(path.split(".")[0] not in FREE for path, _, _ in differences(old.experiment, experiment)):
            raise InputError(describe_conflict(folder, old.experiment, experiment))
        if old.edited and not edits:
            raise InputError(
                f"{folder} was made with another {old.edited}, which has been edited since: undo the edit, go on all"
                " the same with --changed, train anew with --fresh, which keeps this run under another name, or name"
                " a new folder with --run."
            )
        if old.experiment != experiment or not (folder / "summary.json").is_file():
            _require_writable(folder)
        return old
    if os.path.exists(folder) and (
        not folder.is_dir() or any(path.name not in UNFINISHED for path in folder.iterdir())
    ):
        raise InputError(f"{folder} exists and is no run; name another folder with --run.")
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_writable(folder)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made: {os.strerror(error.errno or 0)}; name another folder with --run."
        ) from None
    finally:  # a run that is refused later leaves no folder behind
        for path in new:
            with contextlib.suppress(OSError):
                path.rmdir()
    return None


def describe_conflict(folder: Path, old: Experiment, new: Experiment) -> str:
    """Writes the error message for a folder that holds another experiment."""
    listed = "; ".join(list_changes(old, new))
    return f"{folder} holds another experiment ({listed}): continue with its settings, or name a new folder with --run."


def _require_writable(folder: Path) -> None:
    probe = folder / ".write"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {os.strerror(error.errno or 0)}; name another folder with --run."
        ) from None
