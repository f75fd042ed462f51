"""Contents of a run folder that come from its data, file by file, and a copy of the folder without its examples."""

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from models.structure import part
from train.charts import Matrix, Plot
from train.engine.constant import FILE as CONSTANT
from train.engine.folder import TOKENIZER, Recorded
from train.engine.provenance import COPY, PATHS
from train.errors import InputError
from train.optimizers.private import Protects
from train.page import Piece, Sentence, Table, from_json, to_json
from train.report.html import write_report
from train.summary import Summary
from train.use.fit import FINDINGS

# examples: texts, pictures, values of single examples.  derived: computed from examples without noise.
# random: what decides the noise of a private run.  unknown: no file that morphax writes.
Kind = Literal["examples", "derived", "weights", "numbers", "settings", "random", "unknown"]
REMOVED = Sentence("Removed before sharing: it may show examples of the data.")
NUMBER = re.compile(r"[-+±.,%e\d\s]+|nan|inf|-|")
REMADE = (FINDINGS, "report.html")
WRITTEN: dict[str, tuple[Kind, str]] = {  # by other commands
    "bias.html": ("derived", "counts and measures of groups of the test part"),
    "bias.json": ("derived", "counts and measures of groups of the test part"),
    "swaps.html": ("examples", "texts of the test part with other terms"),
    "swaps.json": ("derived", "changes of predictions over examples of the test part"),
    "thresholds.json": ("derived", "a threshold of the probability for each group"),
    "model_card.md": ("derived", "metrics with intervals, counts of groups, hashes and paths of the data"),
}
EXPLAINED, SUMMARY = "explained", re.compile(r"summary(-\d+)?\.json")


@dataclasses.dataclass(frozen=True)
class Content:
    """Content of a file, or of a folder of files, of a run: its path in the run, bytes, a kind, and that in words."""

    path: str
    size: int
    kind: Kind
    said: str


def list_contents(folder: Path, run: Recorded) -> list[Content]:
    """Lists what each file of a run holds of its data, by path; a file of several kinds comes once for each."""
    contents: list[Content] = []
    for path in sorted(folder.iterdir()):
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        name = path.name + ("/" if path.is_dir() else "")
        contents += [Content(name, size, kind, said) for kind, said in _describe(path, run)]
    return contents


def _describe(path: Path, run: Recorded) -> Iterator[tuple[Kind, str]]:
    """Describes a file of a run, or a folder of its."""
    name, private = path.name, isinstance(run.experiment.optimizer, Protects)
    if name == "experiment.json":
        yield "settings", "the settings of the experiment"
        if paths := list_paths(run):
            yield "settings", f"paths of this machine: {', '.join(paths)}"
        if run.classes:
            yield "derived", f"the names of {len(run.classes)} classes"
        if run.said.get("data"):
            yield "derived", "hashes of the files of the data, by which who has a file can tell that it was used"
    elif name == COPY:
        yield "settings", "a copy of the code that the config came from"
    elif name == TOKENIZER:
        learnt = str(_get(run, "data.tokenizer")).startswith("bpe:")
        said = "a vocabulary of pieces of the training texts" if learnt else "the vocabulary of a published tokenizer"
        yield ("derived" if learnt else "settings"), said
    elif name == "checkpoints":
        steps = sorted(int(inside.name) for inside in path.iterdir() if inside.name.isdecimal())
        noised = "with the guarantee of the run" if private else "from which training examples may be inferred"
        yield "weights", f"weights after steps {', '.join(map(str, steps))}, {noised}"
        said = "moments of the optimizer and the key of its random numbers"
        yield ("random", f"{said}, which takes the noise off") if private else ("weights", said)
    elif name in (FINDINGS, "report.html"):
        shown = [caption for caption, piece in read_findings(path.parent).items() if not is_aggregate(piece, run)]
        yield "numbers", "metrics and charts over all examples"
        if shown:
            yield "examples", f"examples of the test part: {'; '.join(shown)}"
        if name == "report.html" and (said := list_paths(run)):
            yield "settings", f"paths of this machine: {', '.join(said)}"
    elif name == EXPLAINED:
        count = len(list(path.glob("*.html")))
        yield "examples", f"{count} pages, each with a question and the training examples nearest to it"
    elif SUMMARY.fullmatch(name):
        yield "numbers", "metrics with intervals, and costs"
        if noted := sum(map(len, list_names(path))):
            yield "derived", f"names of {noted} rows or files that were left out or cut"
    elif name == CONSTANT:
        yield "derived", "the constant prediction that fits the training targets best"
    elif name in WRITTEN:
        yield WRITTEN[name]
    elif name in ("metrics.jsonl", "tensorboard"):
        yield "numbers", "losses and metrics by step" + (", without noise" if private else "")
    elif name in ("wandb.json", "mlflow.json"):
        yield "settings", "the ID of the run on a tracking server"
    else:
        yield "unknown", "no file that morphax writes: look at it"


def list_paths(run: Recorded) -> list[str]:
    """Lists the paths of files and folders that a run's settings name."""
    named = [str(value) for path in PATHS if (value := _get(run, path)) and re.search(r"[/\\]|\.\w+$", str(value))]
    directory = run.said.get("directory")
    return [*named, *(directory.values() if directory else ())]


def list_names(summary: Path) -> list[list[str]]:
    """Lists the names of rows or files in each note on the data of a summary."""
    with _explain_damage(summary):
        return [note.get("names", []) for note in json.loads(summary.read_text(encoding="utf-8")).get("data", [])]


def read_findings(folder: Path) -> dict[str, Piece]:
    """Reads the pieces of a run's report by their captions; empty before it is finished.

    Raises InputError for a file that cannot be read.
    """
    path = folder / FINDINGS
    if not path.is_file():
        return {}
    with _explain_damage(path):
        pieces = json.loads(path.read_text(encoding="utf-8"))
        return {caption: from_json(piece) for caption, piece in pieces.items()}


def is_aggregate(piece: Piece, run: Recorded) -> bool:
    """Tells if a piece certainly shows no example: a chart over all of them, or a table of numbers and classes."""
    if isinstance(piece, Plot | Matrix):
        return True
    renamed = _get(run, "data.names")
    names = {*run.classes, *(renamed if isinstance(renamed, tuple) else ())}
    return isinstance(piece, Table) and all(
        isinstance(cell, str) and (cell in names or bool(NUMBER.fullmatch(cell))) for row in piece.rows for cell in row
    )


def redact(folder: Path, run: Recorded, to: Path) -> list[Content]:
    """Copies a run without examples of its data, and returns what was left out; the run itself is not changed.

    Weights, metrics, settings and charts over all examples stay; the report is made anew of them.  Pages of `explain`
    and of swapped terms, names of rows, files that morphax does not write, and, of a private run, its random state and
    what was computed without noise, are left out.  Raises InputError if `to` exists.
    """
    if to.exists():
        raise InputError(f"{to} exists; name another folder with --to.")
    contents = list_contents(folder, run)
    skipped = {content.path.rstrip("/") for content in contents if content.kind == "unknown"} | {
        EXPLAINED,
        "swaps.html",
    }
    private = isinstance(run.experiment.optimizer, Protects)
    skipped |= {CONSTANT, "metrics.jsonl", "tensorboard"} if private else set()
    partial = to.with_name(f"{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in folder.iterdir():
        if path.name in skipped or path.name in REMADE or SUMMARY.fullmatch(path.name):
            continue
        if path.is_dir():
            rest = shutil.ignore_patterns("rest", "damaged-*") if private else None
            shutil.copytree(path, partial / path.name, ignore=rest)
        else:
            shutil.copy2(path, partial / path.name)
    for path in folder.iterdir():
        if SUMMARY.fullmatch(path.name):
            summary = dict(_read_summary(path)) | {"data": [], "run": str(to), "command": f"morphax predict {to} INPUT"}
            (partial / path.name).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    done = partial / "summary.json"
    if done.is_file():
        pieces = {
            name: content if is_aggregate(content, run) else REMOVED for name, content in read_findings(folder).items()
        }
        encoded = {caption: to_json(piece) for caption, piece in pieces.items()}
        (partial / FINDINGS).write_text(json.dumps(encoded) + "\n", encoding="utf-8")
        write_report(partial, run.experiment, _read_summary(done), pieces)
    partial.rename(to)
    return [content for content in contents if content.path.rstrip("/") in skipped or _is_remade(content, private)]


def _is_remade(content: Content, private: bool) -> bool:
    """Tells if a content of a file that is kept is left out of its copy."""
    noted = content.kind == "derived" and bool(SUMMARY.fullmatch(content.path))
    return content.kind == "examples" or noted or (private and content.kind == "random")


def _read_summary(path: Path) -> Summary:
    with _explain_damage(path):
        return json.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Turns what a damaged file makes its reader raise into an InputError."""
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); finish the run again, or remove it.") from None


def _get(run: Recorded, path: str) -> object:
    try:
        return part(run.experiment, path)
    except LookupError:
        return None
