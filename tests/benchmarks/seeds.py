"""Five seeds of `tiny_lm` side by side, one worker a core, against five runs one after the other.

    python -m tests.benchmarks.seeds [--seeds 5] [--steps 1000] [--repeats 1] [--json FILE]

Each way makes the same trials, of the default size.  Side by side is a worker for each core, pinned to it and computing
on one thread; one after the other is a process for each seed, on all cores, as runs of their own would be.  Starts of
processes count, and programs come from the cache of compiled ones, which a trial of each way fills before.  The ratio
is that of the ways' median times; on two cores it may be 0.62 at most, and the command ends with 1 where it is more.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from train.study.trial import Outcome, Unit
from train.study.workers import Pool, list_cores

MOST = 0.62  # of the time of runs one after the other, on two cores


def time_trials(groups: Sequence[Sequence[int]], workers: int, steps: int) -> float:
    """Seconds that trials of groups of seeds take, each group by workers of its own."""
    outcomes: list[Outcome | str] = []
    began = time.perf_counter()
    for seeds in groups:
        with Pool(workers) as pool:
            units = [Unit("tiny", "tiny_lm", (f"steps={steps}",), seed, "verdict") for seed in seeds]
            outcomes += [outcome for _, outcome in pool(units)]
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
    cores, seeds = len(list_cores()), range(options.seeds)
    ways = {"side by side": ([seeds], cores), "one after the other": ([[seed] for seed in seeds], 1)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _, workers in ways.values():
        time_trials([[0]], workers, options.steps)
    for _ in range(options.repeats):
        for name, (groups, workers) in ways.items():
            times[name].append(time_trials(groups, workers, options.steps))
            print(f"{name}: {times[name][-1]:.1f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["side by side"] / medians["one after the other"]
    print(f"{options.seeds} seeds on {cores} cores: {ratio:.2f} of the time of one after the other")
    if options.json:
        options.json.write_text(json.dumps({"cores": cores, "times": times, "ratio": ratio}))
    return int(cores == 2 and ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
