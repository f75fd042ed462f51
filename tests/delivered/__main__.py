"""Five tasks in three formats, in environments that have jax, onnxruntime or TensorFlow and nothing of this project.

    make delivered      or: python -m tests.delivered [--only NAME ...]

Trains a few steps of each config, exports the run in each format, as it is and in int8, and runs what is written by the
Python of `.lanes/delivered/FORMAT`.  The table has the largest difference from the outputs of the run, over the largest
output, and for int8 the root mean square of the differences over that of the outputs.  Ends with 1 where the first is
more than 1e-4, or the second more than 1e-2.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import rich.console
import rich.table

TASKS = {  # by config, its settings
    "sentiment_bert": ("epochs=none", "steps=60", "data.path=train.csv", "data.test=test.csv"),
    "lm_shakespeare": ("steps=20",),
    "translate_numbers": ("steps=20",),
    "traffic_occupancy": ("epochs=none", "steps=20"),
    "detect_digits": ("epochs=none", "steps=20"),
}
FORMATS = {"stablehlo": ["jax"], "onnx": ["onnxruntime"], "savedmodel": ["tensorflow"]}  # what its environment has
EXACT, QUANTISED = 1e-4, 1e-2
LANES = Path(__file__).resolve().parents[2] / ".lanes" / "delivered"


def write_films(path: Path, split: str, count: int) -> None:
    """Writes sentences of film reviews with their labels."""
    from train.data.sources import open_dataset

    rows = open_dataset("movie_snippets/labels", split).examples
    with path.open("w", newline="", encoding="utf-8") as file:
        written = csv.writer(file)
        written.writerow(["text", "label"])
        written.writerows([rows[index]["text"].decode(), f"class {rows[index]['label']}"] for index in range(count))


def call(python: Path | str, *words: str, folder: Path) -> str:
    """Runs a Python program in a folder; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def run_alone(out: Path, form: str) -> tuple[float, float]:
    """The largest differences of a folder's outputs, in the environment of its format: absolute, and relative."""
    printed = call(LANES / form / "bin" / "python", str(Path(__file__).with_name("alone.py")), form, folder=out)
    said = json.loads(printed.splitlines()[-1])
    if said["installed"] != FORMATS[form]:
        raise SystemExit(f"The environment of {form} has {said['installed']}, and should have {FORMATS[form]} alone.")
    pairs = said["found"].values()
    return max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)


def main() -> int:
    """Measures and prints the table; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME")
    given = options.parse_args()
    table = rich.table.Table("run", *FORMATS, *(f"{form}, int8" for form in FORMATS), title="Apart from the run")
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_films(folder / "train.csv", "train", 8021)
        write_films(folder / "test.csv", "test", 60)  # few: what int8 costs is measured on all of them
        for task in given.only:
            call(sys.executable, "-m", "train", task, *TASKS[task], "--run", task, folder=folder)
            cells: list[str] = []
            for method in (None, "int8"):
                for form in FORMATS:
                    out = folder / f"{task}_{form}_{method}"
                    words = ["--to", form, "--json", *([] if method is None else ["--quantize", method])]
                    said = json.loads(
                        call(sys.executable, "-m", "train", "export", task, str(out), *words, folder=folder)
                    )
                    difference, relative = run_alone(out, form)
                    apart = difference / said["checked"]["largest"] if method is None else relative
                    good = apart <= (EXACT if method is None else QUANTISED)
                    failed |= not good
                    cells.append(f"{apart:.1e}" if good else f"{apart:.1e} TOO FAR")
                    print(f"{task}, {form}, {method or 'float32'}: {cells[-1]}", file=sys.stderr, flush=True)
            table.add_row(task, *cells)
    rich.console.Console(width=120).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
