"""Five seeds of `tiny_lm` side by side, one worker a core, against five runs one after the other.

    python -m tests.benchmarks.seeds [--seeds 5] [--steps 1000] [--repeats 1] [--json FILE]

Each way makes the same trials, of the default size: a worker for each core, pinned to it and computing on one thread,
and one worker on all cores.  A worker starts anew and compiles anew each time.  The ratio is the median of the ways'
times; on two cores it may be 0.62 at most, and the command ends with 1 where it is more.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

from train.study.trial import Outcome, Unit
from train.study.workers import Pool, list_cores

MOST = 0.62  # of the time of runs one after the other, on two cores


def time_trials(workers: int, seeds: int, steps: int) -> float:
    """Seconds that the trials take, from the start of the first worker to the last outcome."""
    units = [Unit("tiny", "tiny_lm", (f"steps={steps}",), seed, "verdict") for seed in range(seeds)]
    began = time.perf_counter()
    with Pool(workers) as pool:
        outcomes = [outcome for _, outcome in pool(units)]
    seconds = time.perf_counter() - began
    if wrong := [outcome for outcome in outcomes if not isinstance(outcome, Outcome)]:
        sys.exit(f"a trial could not be made: {wrong[0]}")
    return seconds


def main() -> int:
    """Measures both ways, in turn; prints times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # in workers
    cores, times = len(list_cores()), {"side by side": list[float](), "one after the other": list[float]()}
    for _ in range(options.repeats):
        for name, workers in (("side by side", cores), ("one after the other", 1)):
            times[name].append(time_trials(workers, options.seeds, options.steps))
            print(f"{name}: {times[name][-1]:.1f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["side by side"] / medians["one after the other"]
    print(f"{options.seeds} seeds on {cores} cores: {ratio:.2f} of the time of one after the other")
    if options.json:
        options.json.write_text(json.dumps({"cores": cores, "times": times, "ratio": ratio}))
    return int(cores == 2 and ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
