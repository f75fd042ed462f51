"""The benchmarks beside other programs and of structures, one after the other, on one page.

    python -m tests.benchmarks [--only NAME ...] [--to runs/bench] [--record]

Each prints its progress and its tables, and for programs of jax the dearest operations with their share of the roof;
these are also in `page.md` of the folder with the minutes that it took.  Its figures, but for those of finetune, are in
NAME.json.  Ends with 1 where a goal does not hold or a ratio fell; `--record` keeps the ratios of this run instead.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

NAMES = ("finetune", "language", "images", "generation", "data", "mixers", "decoding")
TURNS = {"language": 4, "images": 4, "generation": 3, "data": 3}  # that make the page in 40 minutes
ASKED = {"mixers": ["--lengths", "512", "2048"]}  # rows of 8,192 tokens take a quarter of an hour more
PROFILED = ("language", "images", "generation")


def main() -> int:
    """Runs the benchmarks; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    options.add_argument("--to", type=Path, default=Path("runs/bench"), help="folder of the page (default: runs/bench)")
    options.add_argument("--record", action="store_true", help="keep the ratios, on a machine at rest")
    given = options.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "torch", "transformers"))
    page = [
        f"# Benchmarks\n\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    ]
    failed, start = False, time.monotonic()
    for name in given.only:
        began = time.monotonic()
        command = [sys.executable, "-m", f"tests.benchmarks.{name}"]
        asked = [] if name == "finetune" else ["--json", str(given.to / f"{name}.json")]
        asked += ["--record"] if given.record and name in TURNS else []
        asked += ASKED.get(name, [])
        asked += ["--rounds", str(TURNS[name])] if name in TURNS else []
        asked += ["--profile", str(given.to / "traces" / name)] if name in PROFILED else []
        done = subprocess.run([*command, *asked], stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, flush=True)
        failed |= done.returncode != 0
        ended = "" if done.returncode in (0, 1) and done.stdout else f", ended with {done.returncode}"
        minutes = f"{(time.monotonic() - began) / 60:.1f} minutes{ended}"
        page.append(f"## {name}\n\n`python -m {command[-1]}`, {minutes}\n\n```text\n{done.stdout}```")
        (given.to / "page.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print(f"{given.to / 'page.md'} has all tables, made in {(time.monotonic() - start) / 60:.0f} minutes")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
