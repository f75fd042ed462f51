"""Plants faults of one line, one after the other, and tells which are found by the tests that should see them.

    python -m tests.planted [--only WORD ...] [--workers 2]

Each fault is planted in a copy of the project.  A fault whose line is no longer there, or whose tests fail without it,
is an error: the table would say nothing.  Exit code 1 where more than one fault goes unseen.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import rich.console
import rich.table

from tests.planted.faults import FAULTS, Fault

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("models", "train", "configs", "tests", "colab", "docs")
FILES = ("pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "AGENTS.md", "CITATION.cff", "Makefile")
FILES += (".pre-commit-config.yaml", "requirements-data.txt")
PARTS = (*FOLDERS, *FILES)
UNSEEN = 1  # faults that may go unnoticed


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the tests of a fault did: `caught`, `unseen`, or why it says nothing; the first test that failed;
    seconds.
    """

    verdict: str
    test: str
    seconds: float


def copied(folder: Path) -> Path:
    """A copy of the project without what is made in it."""
    ignored = shutil.ignore_patterns("__pycache__", ".*cache", "_build")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def tested(folder: Path, tests: Sequence[str], workers: int) -> subprocess.CompletedProcess[str]:
    """The tests, run in a copy, up to the first that fails."""
    # Byte code would outlive a line of the same length and second; the data cache is what `make test` also has.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", "-rf", *tests]
    command += ["-n", str(workers), "--dist", "worksteal"] if workers > 1 else []
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def planted(fault: Fault, folder: Path) -> Outcome:
    """Plants a fault in a copy, runs its tests, and takes it out again."""
    began, path = time.perf_counter(), folder / fault.file
    sound = path.read_text(encoding="utf-8")
    if sound.count(fault.old) != 1:
        return Outcome(f"stale: its line stands {sound.count(fault.old)} times in {fault.file}", "", 0.0)
    path.write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
    try:
        done = tested(folder, fault.tests, 1)
    finally:
        path.write_text(sound, encoding="utf-8")
    failed = next(
        (
            line.split(" - ")[0].removeprefix("FAILED ")
            for line in done.stdout.splitlines()
            if line.startswith("FAILED ")
        ),
        "",
    )
    verdicts = {0: "unseen", 1: "caught"}
    # A fault that keeps a file from being imported would be seen by anybody: it is no proof of a test.
    said = verdicts.get(
        done.returncode, f"broken: pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}"
    )
    return Outcome(said, failed, time.perf_counter() - began)


def sound(folder: Path, faults: Sequence[Fault], workers: int) -> str:
    """Empty where all tests of the faults pass without them, else what pytest printed last."""
    done = tested(folder, sorted({test for fault in faults for test in fault.tests}), workers)
    return "" if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-500:]


def show_outcomes(outcomes: dict[Fault, Outcome]) -> None:
    """Prints the table."""
    table = rich.table.Table(title="Planted faults", title_justify="left")
    for column in ("file", "line", "planted", "verdict", "by", "s"):
        table.add_column(column, overflow="fold")
    for fault, outcome in outcomes.items():
        by = outcome.test.rpartition("/")[2]
        table.add_row(fault.file, fault.old.strip(), fault.new.strip(), outcome.verdict, by, f"{outcome.seconds:.0f}")
    rich.console.Console(width=None if sys.stdout.isatty() else 200).print(table)


def main() -> int:
    """Plants all faults, or those whose file or line contains one of the words of --only; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="WORD", help="faults whose file or line contains it (all)"
    )
    parser.add_argument("--workers", type=int, default=2, help="copies that are tested side by side (2)")
    options = parser.parse_args()
    faults = [
        fault for fault in FAULTS if not options.only or any(word in fault.file + fault.old for word in options.only)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folders = [copied(Path(scratch) / str(number)) for number in range(options.workers)]
        if said := sound(folders[0], faults, options.workers):
            print(f"The tests fail without any fault:\n{said}", file=sys.stderr)
            return 2
        outcomes: dict[Fault, Outcome] = {}
        free = list(folders)

        def work(fault: Fault) -> None:
            folder = free.pop()
            outcomes[fault] = planted(fault, folder)
            free.append(folder)
            print(f"{len(outcomes)}/{len(faults)} {fault.file}: {outcomes[fault].verdict}", file=sys.stderr, flush=True)

        with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(work, faults))
    show_outcomes({fault: outcomes[fault] for fault in faults})
    caught = sum(outcome.verdict == "caught" for outcome in outcomes.values())
    wrong = [outcome for outcome in outcomes.values() if outcome.verdict not in ("caught", "unseen")]
    print(f"{caught} of {len(faults)} planted faults are caught")
    print(f"{caught} passed, {len(faults) - caught} failed")
    return 1 if wrong or len(faults) - caught > UNSEEN else 0


if __name__ == "__main__":
    sys.exit(main())
