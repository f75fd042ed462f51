"""What a run was made from: the classes of its config's own file, the files of its data, and where relative paths
lead.
"""

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
from typing import Any

from models.structure import part, replace
from train.data.source import builder
from train.data.sources import library_of
from train.errors import InputError
from train.experiment import Experiment
from train.spec.parts import kinds

# beside experiment.json: the file that defined the run's own classes, as it was; nothing runs it unless asked to
COPY = "config.py"
# what settings of files are called, in any data
FILES = ("path", "test", "parallel", "test_parallel", "images", "test_images")
PLACES = (*(f"data.{name}" for name in FILES), "data.dataset", "data.tokenizer", "initial.folder")
WHOLE, SAMPLE, SAMPLES = 2**28, 2**16, 256  # bytes that are read whole; bytes and files of a sample of what is larger


@dataclasses.dataclass(frozen=True)
class Source:
    """Code that an experiment's own classes come from: the file, if there is one, its text, the names of the
    classes.
    """

    path: str | None
    text: str
    components: tuple[str, ...]

    def recorded(self) -> dict[str, Any]:
        """What experiment.json says of it."""
        return {
            "path": self.path,
            "sha256": hashlib.sha256(self.text.encode()).hexdigest(),
            "components": list(self.components),
        }


def find_source(experiment: Experiment) -> Source | None:
    """The code of the classes in an experiment that are not this project's; None if all are."""
    own = {
        kind.__name__: kind
        for kind in kinds(experiment)
        if kind.__module__.split(".")[0] not in ("models", "train", "builtins")
    }
    if not own:
        return None
    texts: dict[str, str] = {}
    paths: list[str] = []
    for kind in own.values():
        module = sys.modules.get(kind.__module__)
        file = getattr(module, "__file__", None)
        if file is not None and kind.__module__ not in texts:
            paths.append(os.path.realpath(file))
            read = vars(module).get("__source__") if module is not None else None
            texts[kind.__module__] = read if isinstance(read, str) else Path(file).read_text(encoding="utf-8")
        elif file is None:  # a class of a notebook
            texts[f"{kind.__module__}.{kind.__name__}"] = _read_methods(kind)
    return Source(paths[0] if paths else None, "\n".join(texts[name] for name in sorted(texts)), tuple(sorted(own)))


def _read_methods(kind: Any) -> str:
    """The text of a class that is in no file: of its functions, as far as they can be had."""
    found = []
    for function in (
        [kind] if inspect.isfunction(kind) else [value for value in vars(kind).values() if inspect.isfunction(value)]
    ):
        try:
            found.append(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
        except (OSError, TypeError):
            continue
    return "\n".join(found)


def describe_edits(folder: Path, recorded: Mapping[str, Any] | None, now: Source | None) -> str:
    """What of a run's own code differs from what it was made with, in words; nothing where it is the same but for
    comments and docstrings.

    `recorded` is what experiment.json says of the source; a run of an older version says nothing.
    """
    if recorded is None or (now is not None and recorded == now.recorded() | {"path": recorded["path"]}):
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
    """The top level of a file, by name, without comments and docstrings, and without `experiment`, whose value is
    recorded.
    """
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
    found: dict[str, str] = {}
    for node in tree.body:
        name = getattr(node, "name", None) or (
            "imports" if isinstance(node, ast.Import | ast.ImportFrom) else "its settings"
        )
        if name != "experiment":
            found[name] = found.get(name, "") + ast.dump(node)
    return found


def fingerprint_data(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """What tells the data of an experiment from other data: number, size and sha256 of the files, by setting; version
    of a named set.

    Up to 256 MiB are read whole; of more, every file's name and size count, and the ends of 256 of them.
    """
    data: Any = experiment.data
    found = {}
    for name in FILES:
        value = getattr(data, name, None)
        if isinstance(value, str) and (place := Path(value).expanduser()).exists():
            found[f"data.{name}"] = _fingerprint_files(place)
    named = getattr(data, "dataset", None)
    if isinstance(named, str) and named and getattr(data, "path", None) is None:
        try:
            if (library := library_of(named)) is not None:
                described = library.describe(named.partition(":")[2])
                return found | {"data.dataset": {"version": described["version"], "examples": described["splits"]}}
            info = builder(named).info
            examples = {split: int(one.num_examples) for split, one in info.splits.items()}
            found["data.dataset"] = {"version": str(info.version), "examples": examples}
        except Exception:  # whatever a builder of one's own raises: it was read without this
            return found
    return found


def _fingerprint_files(place: Path) -> dict[str, Any]:
    files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
    sizes = [file.stat().st_size for file in files]
    total = hashlib.sha256()
    stride = 1 if sum(sizes) <= WHOLE else -(-len(files) // SAMPLES)
    for number, (file, size) in enumerate(zip(files, sizes, strict=True)):
        if file != place:
            total.update(f"{file.relative_to(place)}\0{size}\0".encode(errors="surrogateescape"))
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


def describe_changes(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> str:
    """How data differs from what it was, in words; nothing where it is the same, or was not recorded."""
    found = []
    for name, old in before.items():
        new = after.get(name)
        if new is None or new == old:
            continue
        differing = [key for key in old if old[key] != new.get(key) and key != "sha256"]
        pairs = [(key, f"{old[key]} -> {new.get(key)}") for key in differing]
        words = [f"{both} {key}" if key in ("bytes", "files") else f"{key} {both}" for key, both in pairs]
        found.append(f"{name}: {', '.join(words) or 'other content of the same size'}")
    return "; ".join(found)


def describe_directory(folder: Path) -> dict[str, str]:
    """The working folder, which relative paths start from: where it is, and as seen from the run's folder, should both
    be moved.
    """
    here = os.path.realpath(os.curdir)
    return {"path": here, "from_run": os.path.relpath(here, os.path.realpath(folder))}


def relocate_paths(
    experiment: Experiment, folder: Path, recorded: Mapping[str, str] | None, here: bool = False
) -> Experiment:
    """The experiment with its relative paths led from where they were given, seen from the run's folder, or else as
    they were then.

    A path stays as it is if nothing is found there, and with `here` also if the working folder has it.
    """
    if recorded is None:
        return experiment
    for path in PLACES:
        try:
            value = part(experiment, path)
        except LookupError:
            continue
        if not isinstance(value, str) or not value or value == "bytes":
            continue
        prefix, value = (
            ("", value) if library_of(value) is None else (value[: value.index(":") + 1], value[value.index(":") + 1 :])
        )
        if (path == "data.dataset" and not prefix) or ":" in value or value.startswith("~") or os.path.isabs(value):
            continue
        if here and os.path.exists(value):
            continue
        bases = (os.path.join(os.path.realpath(folder), recorded["from_run"]), recorded["path"])
        place = next(
            (one for one in (os.path.normpath(os.path.join(base, value)) for base in bases) if os.path.exists(one)),
            value,
        )
        if not (os.path.exists(value) and os.path.samefile(value, place)):
            experiment = replace(experiment, path, prefix + place)
    return experiment


def put_aside(folder: Path) -> Path:
    """Gives a run's folder the first free name of FOLDER.1, FOLDER.2 ...; the new name.  Raises InputError where that
    cannot be done.
    """
    here = Path(os.path.realpath(os.curdir))
    if (where := Path(os.path.realpath(folder))) == here or where in here.parents:
        raise InputError(
            f"{folder} is or holds the working folder and cannot be moved aside; name another folder with --run."
        )
    aside = next(
        place
        for number in itertools.count(1)
        if not os.path.lexists(place := folder.with_name(f"{folder.name}.{number}"))
    )
    try:
        folder.rename(aside)
    except OSError as error:
        raise InputError(f"{folder} cannot be moved aside: {error.strerror}; name another folder with --run.") from None
    return aside
