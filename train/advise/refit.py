"""A recommended estimator as a file of Python that fits it again and answers: nothing is loaded that runs code."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator

from models.words import join
from train.advise.advice import Advice
from train.advise.examples import Estimator
from train.advise.frozen import load_features
from train.advise.models import open_task
from train.advise.problem import Problem
from train.advise.simple import COLUMN, collect
from train.advise.tables import encode, read_table
from train.advise.terms import Limits
from train.advise.windows import collect_last
from train.contracts import Asks, Dataset
from train.data.notes import Notes
from train.data.questions import read_texts
from train.data.sources import read
from train.data.tasks.series import OpenedSeries
from train.errors import InputError

NAME = "method.py"
TEMPLATE = '''"""{method}, for {path}: fits it to the same examples as `morphax advise`, and answers.

    python {file} QUESTIONS     {questions}
"""

import sys

{imports}

PROBLEM = {problem}
METHOD = {estimator}

if __name__ == "__main__":
    sys.exit(main(PROBLEM, METHOD, sys.argv[1:], frozen={frozen}))
'''


def write_method(folder: Path, advice: Advice) -> Path | None:
    """Writes the recommended method as a Python file; None if it is not an estimator of scikit-learn."""
    chosen, problem = advice.chosen, dataclasses.replace(advice.problem, seen=(), limits=Limits())
    if chosen.estimator is None:
        return None
    file = folder / NAME
    parts = [type(part) for part in (chosen.estimator, *chosen.estimator.get_params().values()) if is_estimator(part)]
    imports = {f"from {find_module(part)} import {part.__name__}" for part in parts} | {
        "from train.advise.problem import Problem",
        "from train.advise.refit import main",
        "from train.advise.terms import Limits",
    }
    text = TEMPLATE.format(
        method=chosen.name,
        path=problem.path,
        file=file,
        questions=_describe_questions(problem),
        imports="\n".join(sorted(imports)),
        problem=repr(problem),
        estimator=chosen.estimator.__repr__(N_CHAR_MAX=sys.maxsize),
        frozen=chosen.kind == "frozen",
    )
    file.write_text(text, encoding="utf-8")
    return file


def is_estimator(value: object) -> bool:
    """Tells if a setting is an estimator itself."""
    return isinstance(value, BaseEstimator)


def find_module(kind: type) -> str:
    """Finds the public module of a class: that of its package, if its own is private."""
    parts = kind.__module__.split(".")
    private = [number for number, part in enumerate(parts) if part.startswith("_")]
    return ".".join(parts[: private[0]] if private else parts)


def _describe_questions(problem: Problem) -> str:
    match problem.task:
        case "table":
            return f"tables with the columns {join(problem.features)}; an answer a row"
        case "forecasts":
            return "tables with the last steps of the same series"
        case "image classes" | "video classes":
            return "files or folders of them; an answer each"
        case _:
            return "texts, or tables with their column; an answer each"


def main(problem: Problem, estimator: BaseEstimator, inputs: Sequence[str], frozen: bool = False) -> int:
    """Fits an estimator and prints its answers; returns the exit code."""
    try:
        if not inputs:
            raise InputError(f"There is nothing to answer; give {_describe_questions(problem)}.")
        for line in answer(problem, estimator, inputs, frozen):
            print(line)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def answer(problem: Problem, estimator: BaseEstimator, inputs: Sequence[str], frozen: bool = False) -> Iterator[str]:
    """Fits an estimator to the training examples of a problem, or to all rows of a table, and answers questions.

    `frozen` fits it to the features of the pretrained model of the problem's config.
    """
    assert isinstance(estimator, Estimator)
    if problem.task == "table":
        table = read_table(problem, lambda text: print(text, file=sys.stderr))
        estimator.fit(table.inputs, table.targets)
        for path in inputs:
            split = read(path)
            rows = [split.examples[index] for index in range(len(split.examples))]
            if missing := [name for name in problem.features if not rows or name not in rows[0]]:
                raise InputError(f"{path} has no column {join(missing)}; give {_describe_questions(problem)}.")
            yield from map(str, estimator.predict(encode(problem, rows, table.orders)))
        return
    _, experiment, data = open_task(problem)
    train, targets = collect(problem.task, data).train
    if isinstance(data, OpenedSeries):
        estimator.fit(train, targets)
        for path in inputs:
            for name, values in zip(data.names, estimator.predict(collect_last(data, path)), strict=True):
                yield f"{name}: {', '.join(f'{value:.6g}' for value in values)}"
        return
    asked = _read_questions(problem, data, inputs)
    if frozen:
        embed = load_features(experiment)
        estimator.fit(embed(data, list(train)), targets)
        answers = estimator.predict(embed(data, asked))
    else:
        estimator.fit(train, targets)
        answers = estimator.predict(asked if problem.task.startswith("text") else _read_arrays(problem, data, asked))
    yield from (data.names[value] if problem.greater else f"{value:.6g}" for value in answers)


def _read_questions(problem: Problem, data: Dataset, inputs: Sequence[str]) -> list[str]:
    if isinstance(data, Asks):
        return data.list_questions(inputs)
    texts = [text.removeprefix("data.text=") for text in problem.overrides if text.startswith("data.text=")]
    return read_texts(inputs, Notes(), text=texts[0])


def _read_arrays(problem: Problem, data: Dataset, asked: Sequence[str]) -> np.ndarray:
    batches = data.questions(asked, 256, 1)
    rows = np.concatenate([batch[COLUMN[problem.task]] for batch in batches.stream(0, len(batches))])
    return rows[: len(asked)].reshape(len(asked), -1)
