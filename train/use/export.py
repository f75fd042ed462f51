"""Delivery of a trained run in a format, checked by the run's own outputs after it is read back."""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import jax
import numpy as np

from train.contracts import Arrays, Dataset, Tokenised
from train.data.tokens import Published
from train.disk import explain_failed_writes
from train.engine.folder import TOKENIZER, Recorded, collect_versions
from train.errors import InputError, Json
from train.use.delivery import MEANINGS, Delivery, Program, open_delivery, save_arrays
from train.use.formats import find_format, list_formats
from train.use.quantization import Quantized, describe_quantized, quantize, require_method

TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2}  # of the largest output, by the precision of the run
QUANTIZED = 1e-2  # of the root mean square of the outputs, if weights are quantised
READ = {
    "tokens": "ids of the tokenizer, 0 where a row is padded",
    "segments": "1 for a token, 0 where a row is padded",
    "positions": "positions of the tokens in their text, counted from 0",
    "source": "ids of the source's tokens, 0 where a row is padded",
    "source_segments": "1 for a token of the source, 0 where a row is padded",
    "source_positions": "positions of the source's tokens, counted from 0",
    "image": "rows, columns and channels, from -1 to 1, of the image that is resized to them",
    "video": "frames, rows, columns and channels, from -1 to 1",
}


class Checked(TypedDict):
    """Differences of outputs from the run's: the largest one, beside the largest output, and the root mean square of
    all of them over that of all outputs (`relative`).

    `judged` names the one that is at most `tolerance` in what may be used: `relative` if weights are quantised.
    """

    examples: int
    difference: float | None  # None if it is not finite
    largest: float
    relative: float | None
    judged: Literal["difference", "relative"]
    tolerance: float
    precision: str


class Described(TypedDict):
    """The type and the extents of an array, and of an input what it holds."""

    dtype: str
    shape: list[int | str]
    meaning: NotRequired[str]


class Artefact(TypedDict):
    """The contents of export.json.  A named axis of an array that is in `symbolic` may have any extent."""

    format: str
    files: str
    config: str
    step: int
    experiment: Json
    inputs: dict[str, Described]
    outputs: dict[str, Described]
    symbolic: dict[str, str]
    classes: list[str]
    tokenizer: str | None
    remarks: list[str]
    checked: Checked
    quantized: NotRequired[Quantized]
    versions: dict[str, str]


def export(folder: Path, run: Recorded, to: Path, name: str, best: bool = False, method: str | None = None) -> Artefact:
    """Writes a run's last checkpoint (or its best) into an empty or new folder, and checks it; returns export.json.

    `method` is how its weights are quantised, one of METHODS; their metrics on the test split are measured then.

    What is written is read back from the disk and computes the run's held-out examples; `checked` tells how far its
    outputs are from the run's.  Raises InputError for an unknown format, a folder that holds something, a run without
    a checkpoint, and one that the format cannot hold.
    """
    form = find_format(name)
    if method is not None:
        require_method(name, method, form.quantizes, {each.name: each.quantizes for each in list_formats().values()})
    require_empty(to)
    delivery = open_delivery(folder, run, best)
    if method is not None:
        delivery = quantize(delivery, method)
    with explain_failed_writes(to):
        symbols = form.write(delivery, to)
        written = sum(file.stat().st_size for file in to.rglob("*") if file.is_file())
        _write_examples(delivery, to)
    program = form.load(delivery, to)
    artefact = describe(delivery, name, form.says, symbols, check(delivery, program, symbols))
    if method is not None:
        artefact["quantized"] = describe_quantized(delivery, program, symbols, written)
    with explain_failed_writes(to):
        (to / "export.json").write_text(json.dumps(artefact, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return artefact


def require_empty(to: Path) -> None:
    """Raises InputError unless a folder is empty or can be made."""
    if os.path.exists(to) and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} exists and is not an empty folder; nothing is overwritten: name a new folder.")


def check(delivery: Delivery, program: Program, symbols: Collection[str]) -> Checked:
    """Compares the outputs that an artefact gives for held-out examples with the run's."""
    batches = delivery.list_checks(symbols)
    difference, largest = 0.0, 0.0
    squares = np.zeros(2)  # of differences, and of outputs
    for batch in batches:
        outputs = program(batch)
        for name, expected in delivery.compute(batch).items():
            values = np.asarray(outputs[name], np.float32)
            with np.errstate(invalid="ignore"):  # infinity less infinity
                apart = np.where(values == expected, 0, np.abs(values - expected))
            difference = np.maximum(difference, apart.max(initial=0))  # not a number stays
            finite = expected[np.isfinite(expected)]
            largest = max(largest, float(np.abs(finite).max(initial=0)))
            squares += np.square(apart, dtype=np.float64).sum(), np.square(finite, dtype=np.float64).sum()
    finite = bool(np.isfinite(difference))
    tolerance = TOLERANCES[delivery.experiment.precision]
    return {
        "examples": max(map(count_rows, batches)),
        "difference": float(difference) if finite else None,
        "largest": largest,
        "relative": float(np.sqrt(squares[0] / squares[1])) if finite and squares[1] else None,
        "judged": "relative" if delivery.method else "difference",
        "tolerance": max(tolerance, QUANTIZED) if delivery.method else tolerance * largest,
        "precision": delivery.experiment.precision,
    }


def count_rows(batch: Arrays) -> int:
    """Counts the rows of a batch."""
    return len(next(iter(batch.values())))


def is_close(checked: Checked) -> bool:
    """Tells if an artefact gives the run's outputs."""
    apart = checked[checked["judged"]]
    return apart is not None and apart <= checked["tolerance"]


def describe(delivery: Delivery, name: str, files: str, symbols: Collection[str], checked: Checked) -> Artefact:
    """Describes an artefact: its arrays, what the run makes them of, and how it was checked."""
    run, data = delivery.run, delivery.inference.data
    inputs = delivery.shapes(symbols)
    outputs = jax.eval_shape(delivery.function(symbols), delivery.weights, inputs)
    most = {symbol: f", at most {delivery.sizes[symbol]}" for symbol in symbols if symbol != "b"}
    return {
        "format": name,
        "files": files,
        "config": run.config,
        "step": delivery.step,
        "experiment": run.said.get("experiment"),
        "inputs": {key: _describe_array(shape, READ.get(key, "as in the data")) for key, shape in inputs.items()},
        "outputs": {key: _describe_array(shape) for key, shape in outputs.items()},
        "symbolic": {symbol: MEANINGS[symbol] + most.get(symbol, "") for symbol in symbols},
        "classes": list(data.names if data.classes else ()),
        "tokenizer": _name_tokenizer(data),
        "remarks": delivery.list_remarks(),
        "checked": checked,
        "versions": collect_versions(),
    }


def _describe_array(shape: jax.ShapeDtypeStruct, meaning: str = "") -> Described:
    extents = [size if isinstance(size, int) else str(size) for size in shape.shape]
    described: Described = {"dtype": str(shape.dtype), "shape": extents}
    return {**described, "meaning": meaning} if meaning else described


def _name_tokenizer(data: Dataset) -> str | None:
    if not isinstance(data, Tokenised):
        return None
    return TOKENIZER if isinstance(data.tokens, Published) else f"{type(data.tokens).__name__}: UTF-8, a byte an id"


def _write_examples(delivery: Delivery, to: Path) -> None:
    """Writes example.npz, with the run's outputs, and tokenizer.json if there is one."""
    shown = delivery.shown
    arrays = {f"inputs/{name}": value for name, value in delivery.select(shown).items()}
    arrays |= {f"outputs/{name}": value for name, value in delivery.compute(shown).items()}
    save_arrays(to / "example.npz", arrays)
    data = delivery.inference.data
    if isinstance(data, Tokenised) and isinstance(data.tokens, Published):
        (to / TOKENIZER).write_text(data.tokens.to_json(), encoding="utf-8")
