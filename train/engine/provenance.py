"""Provenance of a run: the source of its config's own classes, fingerprints of its data, and its relative paths."""

import ast
import dataclasses
import hashlib
import inspect
import itertools
import os
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import TypedDict

from models.structure import part, replace
from train.data.origins import Named, ReadsFiles
from train.data.sources import find_library
from train.data.sources.tfds import make_builder
from train.errors import InputError, Json
from train.experiment import Experiment
from train.spec.parts import list_kinds

# a copy of the file that defined the run's own classes, beside experiment.json; executed only if --config names it
COPY = "config.py"
# names of settings that hold paths, in any data set
FILES = ("path", "test", "parallel", "test_parallel", "images", "test_images")
PATHS = (*(f"data.{name}" for name in FILES), "data.dataset", "data.tokenizer", "initial.folder")
WHOLE = 2**28  # most bytes that are hashed whole
SAMPLE, SAMPLES = 2**16, 256  # bytes at each end of a file, and number of files, that are hashed of more


class SourceRecord(TypedDict):
    """A source in experiment.json: its file if there is one, the hash of its text, the names of its classes."""

    path: str | None
    sha256: str
    components: list[str]


@dataclasses.dataclass(frozen=True)
class Source:
    """Source code of an experiment's own classes: the file, if there is one, its text, the names of the classes."""

    path: str | None
    text: str
    components: tuple[str, ...]

    def record(self) -> SourceRecord:
        """Encodes the source for experiment.json, its text as a hash."""
        return {
            "path": self.path,
            "sha256": hashlib.sha256(self.text.encode()).hexdigest(),
            "components": list(self.components),
        }


def find_source(experiment: Experiment) -> Source | None:
    """Finds the source of the classes in an experiment that are not this project's; None if all are."""
    foreign = {
        kind.__name__: kind
        for kind in list_kinds(experiment)
        if kind.__module__.split(".")[0] not in ("models", "train", "builtins")
    }
    if not foreign:
        return None
    texts: dict[str, str] = {}
    paths: list[str] = []
    for kind in foreign.values():
        module = sys.modules.get(kind.__module__)
        file = getattr(module, "__file__", None)
        if file is not None and kind.__module__ not in texts:
            paths.append(os.path.realpath(file))
            read = vars(module).get("__source__") if module is not None else None
            texts[kind.__module__] = read if isinstance(read, str) else Path(file).read_text(encoding="utf-8")
        elif file is None:  # a class of a notebook
            texts[f"{kind.__module__}.{kind.__name__}"] = read_methods(kind)
    return Source(paths[0] if paths else None, "\n".join(texts[name] for name in sorted(texts)), tuple(sorted(foreign)))


def read_methods(kind: type | FunctionType) -> str:
    """Reads the source of a function, or of the functions of a class, that is in no file, as far as it is available."""
    sources: list[str] = []
    for function in (
        [kind] if inspect.isfunction(kind) else [value for value in vars(kind).values() if inspect.isfunction(value)]
    ):
        try:
            sources.append(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
        except (OSError, TypeError):
            continue
    return "\n".join(sources)


def describe_edits(folder: Path, recorded: SourceRecord | None, now: Source | None) -> str:
    """Names the parts of a run's own code that were edited since; empty if only comments and docstrings were.

    `recorded` is the source in experiment.json, None for a run of an older version.
    """
    if recorded is None or (now is not None and recorded == now.record() | {"path": recorded["path"]}):
        return ""
    names = ", ".join(recorded["components"])
    if now is None:
        return names
    copy = folder / COPY
    if not copy.is_file():
        return names
    before, after = _parse_parts(copy.read_text(encoding="utf-8")), _parse_parts(now.text)
    return ", ".join(sorted(name for name in before | after if before.get(name) != after.get(name)))


def _parse_parts(text: str) -> dict[str, str]:
    """Parses the top level of a file, by name, without comments, docstrings and `experiment`."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return {"its text": text}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    parts: dict[str, str] = {}
    for node in tree.body:
        name = getattr(node, "name", None) or (
            "imports" if isinstance(node, ast.Import | ast.ImportFrom) else "its settings"
        )
        if name != "experiment":
            parts[name] = parts.get(name, "") + ast.dump(node)
    return parts


def fingerprint_data(experiment: Experiment) -> dict[str, dict[str, Json]]:
    """Fingerprints the data, by setting: number, size and SHA-256 of files, or the version of a named data set.

    Up to 256 MiB are hashed whole; of more, every file's name and size, and both ends of 256 files.
    """
    data = experiment.data
    prints: dict[str, dict[str, Json]] = {}
    for name in FILES:
        value = getattr(data, name, None)
        if isinstance(value, str) and (path := Path(value).expanduser()).exists():
            prints[f"data.{name}"] = _fingerprint_files(path)
    named = data.dataset if isinstance(data, Named) else None
    given = isinstance(data, ReadsFiles) and data.path is not None
    if isinstance(named, str) and named and not given:
        try:
            if (library := find_library(named)) is not None:
                described = library.describe(named.partition(":")[2])
                return prints | {"data.dataset": {"version": described["version"], "examples": described["splits"]}}
            info = make_builder(named).info
            examples = {split: int(each.num_examples) for split, each in info.splits.items()}
            prints["data.dataset"] = {"version": str(info.version), "examples": examples}
        except Exception:  # a user's builder may raise anything; its data opened without this
            return prints
    return prints


def _fingerprint_files(path: Path) -> dict[str, Json]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    sizes = [file.stat().st_size for file in files]
    total = hashlib.sha256()
    stride = 1 if sum(sizes) <= WHOLE else -(-len(files) // SAMPLES)
    for number, (file, size) in enumerate(zip(files, sizes, strict=True)):
        if file != path:
            total.update(f"{file.relative_to(path)}\0{size}\0".encode(errors="surrogateescape"))
        if number % stride:
            continue
        with file.open("rb") as content:
            if sum(sizes) <= WHOLE:
                while block := content.read(2**22):
                    total.update(block)
            else:
                total.update(content.read(SAMPLE))
                content.seek(max(size - SAMPLE, 0))
                total.update(content.read(SAMPLE))
    return {"files": len(files), "bytes": sum(sizes), "sha256": total.hexdigest()}


def describe_changes(before: Mapping[str, Mapping[str, Json]], after: Mapping[str, Mapping[str, Json]]) -> str:
    """Describes how data has changed; empty if it has not, or was not recorded."""
    changes: list[str] = []
    for name, old in before.items():
        new = after.get(name)
        if new is None or new == old:
            continue
        differing = [key for key in old if old[key] != new.get(key) and key != "sha256"]
        pairs = [(key, f"{old[key]} -> {new.get(key)}") for key in differing]
        words = [f"{both} {key}" if key in ("bytes", "files") else f"{key} {both}" for key, both in pairs]
        changes.append(f"{name}: {', '.join(words) or 'other content of the same size'}")
    return "; ".join(changes)


def describe_directory(folder: Path) -> dict[str, str]:
    """Describes the working folder, which relative paths start from: its path, absolute and from the run's folder."""
    here = os.path.realpath(os.curdir)
    return {"path": here, "from_run": os.path.relpath(here, os.path.realpath(folder))}


def relocate_paths(
    experiment: Experiment, folder: Path, recorded: Mapping[str, str] | None, here: bool = False
) -> Experiment:
    """Resolves relative paths against the run's first working folder, seen from the run's folder or at its old path.

    A path stays as it is if nothing exists there, and with `here` also if it exists in the working folder.
    """
    if recorded is None:
        return experiment
    for path in PATHS:
        try:
            value = part(experiment, path)
        except LookupError:
            continue
        if not isinstance(value, str) or not value or value == "bytes":
            continue
        prefix, value = (
            ("", value)
            if find_library(value) is None
            else (value[: value.index(":") + 1], value[value.index(":") + 1 :])
        )
        if (path == "data.dataset" and not prefix) or ":" in value or value.startswith("~") or os.path.isabs(value):
            continue
        if here and os.path.exists(value):
            continue
        bases = (os.path.join(os.path.realpath(folder), recorded["from_run"]), recorded["path"])
        resolved = (os.path.normpath(os.path.join(base, value)) for base in bases)
        target = next((candidate for candidate in resolved if os.path.exists(candidate)), value)
        if not (os.path.exists(value) and os.path.samefile(value, target)):
            experiment = replace(experiment, path, prefix + target)
    return experiment


def put_aside(folder: Path) -> Path:
    """Renames a run's folder to the first free of FOLDER.1, FOLDER.2, ...  Raises InputError if that fails."""
    here = Path(os.path.realpath(os.curdir))
    if (where := Path(os.path.realpath(folder))) == here or where in here.parents:
        raise InputError(
            f"{folder} is or holds the working folder and cannot be moved aside; name another folder with --run."
        )
    names = (folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
    aside = next(path for path in names if not os.path.lexists(path))
    try:
        folder.rename(aside)
    except OSError as error:
        raise InputError(f"{folder} cannot be moved aside: {error.strerror}; name another folder with --run.") from None
    return aside
