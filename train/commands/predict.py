"""`morphax predict`: answers texts and files by a trained run."""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from train.commands import add_run_arguments, read_texts
from train.engine.compilation import enable_compilation_cache
from train.errors import InputError

HELP = "ask a trained run"
EXAMPLES = """
examples:
  morphax predict runs/sentiment_bert "a delightful film"
  morphax predict runs/sentiment_bert reviews.csv           a CSV, TSV, JSONL, Parquet or TXT file, each row a text
  morphax predict runs/sentiment_bert reviews.csv --set data.text=review
  morphax predict runs/sentiment_bert - < sentences.txt     one text a line
  morphax predict runs/sentiment_bert --json "a delightful film"
  morphax predict runs/reviews reviews.csv --thresholds     one threshold a group: morphax audit bias --thresholds
  morphax predict runs/detect_cells PICTURE.jpg FOLDER      objects; sides of boxes in shares of the picture
  morphax predict runs/translate_multi30k "A man is riding a bicycle."
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="texts or files, as the run asks; - reads lines from standard input"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="path=value",
        help="a setting to change, such as data.text; again for more",
    )
    parser.add_argument(
        "--thresholds",
        action="store_true",
        help="decide by the thresholds of groups in RUN/thresholds.json (morphax audit bias --thresholds)",
    )
    parser.add_argument("--group", help="the group of all inputs, with --thresholds (default: a column of the tables)")
    add_run_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    enable_compilation_cache()
    from models.words import join
    from train.engine.folder import open_run
    from train.spec.overrides import override
    from train.spec.parts import list_project_parts
    from train.use.evaluate import predict

    run = open_run(options.folder, options.config)
    run = dataclasses.replace(run, experiment=override(run.experiment, options.set, list_project_parts()))
    inputs = list(read_texts(options.inputs))
    if not inputs:
        raise InputError("There is nothing to predict from; give a text or a file, or lines on standard input.")
    answers = predict(options.folder, run, inputs, options.best)
    if options.group is not None and not options.thresholds:
        raise InputError(f"--group is {options.group!r}, which only --thresholds reads; give both.")
    if options.thresholds:
        answers = decide_by_group(answers, options.folder, inputs, options.group)
    paired: list[dict[str, object]] = []
    for question, answer in answers:
        paired.append({"input": question, **answer})
        if not options.json:
            print(f"{question}\n    {format_answer(answer)}", flush=True)
    if options.json:
        print(json.dumps({"run": str(options.folder), "answers": paired}, ensure_ascii=False))
    if reasons := [str(answer["unanswered"]) for answer in paired if "unanswered" in answer]:
        print(
            f"morphax: {len(reasons)} of {len(paired)} inputs are not answered: {join(reasons, room=400)}",
            file=sys.stderr,
        )
    return 0


def decide_by_group(
    answers: Iterable[tuple[str, Mapping[str, object]]], folder: Path, inputs: Sequence[str], group: str | None
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Replaces the labels of answers by those of a run's thresholds by group.

    Raises InputError if the run has none, if an input has no column of groups and `group` is not given, and for a group
    that has no threshold.
    """
    from models.words import join
    from train.use.bias.thresholds import change_answer, read_cells, read_thresholds

    thresholds = read_thresholds(folder)
    if group is not None and group not in thresholds.by_group:
        raise InputError(f"--group is {group!r}, which has no threshold; there are {join(thresholds.by_group)}.")
    cells = itertools.repeat(group) if group is not None else read_cells(inputs, thresholds.column)
    for (question, answer), cell in zip(answers, cells, strict=False):
        yield question, change_answer(answer, thresholds, cell)


def format_answer(answer: Mapping[str, object]) -> str:
    """Formats an answer for people."""
    words: list[str] = []
    for name, value in answer.items():
        if name in ("least", "likeliest") and "objects" in answer:
            continue
        if name == "unanswered":
            words.append(f"not answered: {value}")
            continue
        if isinstance(value, dict) and any(isinstance(inner, list) for inner in value.values()):
            words.append(
                "\n    ".join(
                    line for key, numbers in value.items() for line in _format_series(f"{name} {key}", numbers)
                )
            )
        elif isinstance(value, dict):
            words.append(", ".join(f"{key} {chance:.3f}" for key, chance in value.items()))
        elif name == "objects" and isinstance(value, list):
            words.append("\n    ".join(map(_format_object, value)) or _explain_nothing(answer))
        elif isinstance(value, list) and value and isinstance(value[0], float):
            words.append("".join(_format_series(name, value)))
        else:
            words.append(f"{name} {value:.4f}" if isinstance(value, float) else f"{value}")
    return "  ".join(words)


def _explain_nothing(answer: Mapping[str, object]) -> str:
    """Formats an answer without objects, with the likeliest one below the threshold."""
    likeliest, least = answer.get("likeliest"), answer.get("least")
    if not isinstance(likeliest, Mapping) or not isinstance(least, int | float):
        return "nothing found"
    return f"nothing found of objective.least {least:g} or more; the likeliest: {_format_object(likeliest)}"


def _format_object(detected: Mapping[str, float | list[float]]) -> str:
    """Formats a detected object and its box."""
    name, chance = next(iter(detected.items()))
    box = detected["box"]
    assert isinstance(box, list)
    left, top, right, bottom = (f"{side:.3f}" for side in box)
    return f"{name} {chance:.2f} at left {left} top {top} right {right} bottom {bottom}"


def _format_series(name: str, values: Sequence[float] | Sequence[Sequence[float]]) -> Iterator[str]:
    """Formats numbers, one a step, as a line; as a line for each series if a step has several."""
    if values and isinstance(values[0], list):
        for number, series in enumerate(zip(*values, strict=True), 1):
            yield from _format_series(f"{name} series {number}", list(series))
    else:
        yield f"{name}  {' '.join(f'{value:.4g}' for value in values)}"
