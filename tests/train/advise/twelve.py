"""Twelve small data sets as files, and what the best of all methods reaches on each when everything is tried.

    python -m tests.train.advise.twelve [NAME ...]      writes twelve.json, minutes a data set

Tables are those of scikit-learn; the others are cut down from the project's own data sets, and so are their models, in
`settings`.
"""

import csv
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

from configs.sentiment_bert import WEIGHTS
from train.advise.advice import Advice, advise
from train.advise.halving import LONG
from train.advise.measured import Measured
from train.advise.models import list_candidates, open_task, prepare_candidate, try_candidate
from train.advise.problem import Problem, Wishes, find_problem
from train.advise.sentences import measure
from train.data.sources import open_dataset

RECORD = Path(__file__).with_name("twelve.json")
MINILM = ("model.stack.repeats=1", f"initial=HuggingFace('{WEIGHTS}', fit=true)", "data.length=32", "batch_size=8")
SMALL = ("batch_size=8", "epochs=none", f"steps={LONG}")


@dataclasses.dataclass(frozen=True)
class Case:
    """A data set: `make` writes it into a folder and returns its path; `settings` cut models down."""

    make: Callable[[Path], Path]
    settings: tuple[str, ...] = ()
    horizon: int | None = None

    def find(self, folder: Path) -> Problem:
        """Writes the data set and finds its task."""
        problem = find_problem(str(self.make(folder)), Wishes(horizon=self.horizon))
        return dataclasses.replace(problem, overrides=(*problem.overrides, *self.settings))


def write_table(folder: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    path = folder / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def make_table(load: Callable[..., Any], shuffled: bool = False) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        inputs, targets = load(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(targets)) if shuffled else np.arange(len(targets))
        columns = [f"x{number}" for number in range(inputs.shape[1])]
        rows = [[*map(float, row), target] for row, target in zip(inputs, targets[order], strict=True)]
        named = load is not load_diabetes
        cells = [[*row[:-1], f"class {row[-1]}" if named else row[-1] + 0.5] for row in rows]
        return write_table(folder, [*columns, "target"], cells)

    return make


def make_texts(name: str, target: str, count: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        split = open_dataset(name, "train")
        order = np.random.default_rng(0).permutation(len(split.examples))[:count]
        some = [split.examples[int(index)] for index in order]
        cells = [(row["text"].decode(), f"c{row[target]}" if target == "label" else row[target]) for row in some]
        return write_table(folder, ["text", target], cells)

    return make


def make_digits(folder: Path) -> Path:
    pictures, labels = load_digits(return_X_y=True)
    for number, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
        kind = folder / "digits" / str(label)
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels.reshape(8, 8) * 15).astype(np.uint8)).save(kind / f"{number}.png")
    return folder / "digits"


def make_series(name: str, column: str, days: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        examples = open_dataset(name, "hours").examples
        values = np.concatenate([examples[day][column] for day in range(days)])
        known = np.flatnonzero(~np.isnan(values))
        values = np.interp(np.arange(len(values)), known, values[known])
        start = np.datetime64("2025-01-06T00")
        rows = [(str(start + np.timedelta64(hour, "h")), f"{value:.5f}") for hour, value in enumerate(values)]
        return write_table(folder, ["time", "load"], rows)

    return make


def make_play(folder: Path) -> Path:
    path = folder / "play.txt"
    path.write_bytes(open_dataset("shakespeare_plays", "train").examples[0]["text"])
    return path


CASES = {
    "iris": Case(make_table(load_iris)),
    "wine": Case(make_table(load_wine)),
    "breast_cancer": Case(make_table(load_breast_cancer)),
    "diabetes": Case(make_table(load_diabetes)),
    "shuffled_iris": Case(make_table(load_iris, shuffled=True)),
    "digits": Case(make_digits, ("data.size=(28, 28)", *SMALL)),
    "movies": Case(make_texts("movie_snippets/labels", "label", 900), MINILM),
    "scores": Case(make_texts("movie_snippets/scores", "score", 900), MINILM),
    "reuters": Case(make_texts("reuters_r8", "label", 900), MINILM),
    "occupancy": Case(make_series("traffic_occupancy", "sensor_03", 200), ("batch_size=16", *SMALL[1:]), 12),
    "vehicles": Case(make_series("traffic_weather", "vehicles", 200), SMALL, 12),
    "play": Case(make_play, SMALL),
}


def try_everything(problem: Problem, cheap: Advice) -> Advice:
    """Adds to the cheap methods of an advice every model, trained as long as its config trains it."""
    trials: list[Measured] = []
    if problem.task != "table":
        problem = open_task(problem)[0]
        for candidate in list_candidates(problem):
            steps = max(prepare_candidate(problem, candidate).steps, LONG)
            trials.append(try_candidate(problem, candidate, steps)[0])
    whole = [method for method in cheap.methods if method not in cheap.trials]
    return dataclasses.replace(cheap, methods=(*whole, *trials), trials=tuple(trials))


def find_winner(advice: Advice) -> tuple[str, float, float]:
    """The best of all methods on the part on which nothing was chosen, its metric and half of its interval."""
    sign = -1 if advice.greater else 1
    best = min(advice.methods, key=lambda method: sign * measure(advice, method)[0])
    return best.name, *measure(advice, best)


def main() -> None:
    """Measures and records."""
    for name in sys.argv[1:] or CASES:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            problem = CASES[name].find(Path(folder))
            cheap = advise(problem, math.inf, lambda text: print("   ", text, flush=True))
            found = try_everything(problem, cheap)
        best, value, half = find_winner(found)
        record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        record[name] = {"best": best, "value": round(value, 5), "half": round(half, 5)}
        spent, whole = (sum(trial.seconds for trial in some.trials) for some in (cheap, found))
        chosen = cheap.chosen.name, round(measure(cheap, cheap.chosen)[0], 5)
        told = f"recommended {chosen}; models {spent:.0f} s of {whole:.0f} s"
        print(name, record[name], told, f"in all {time.perf_counter() - began:.0f} s", flush=True)
        RECORD.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
