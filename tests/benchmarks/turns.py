"""Two programs in turn: each keeps a process of its own, and one works while the other waits."""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from train.allocator import set_allocator

RECORD = Path(__file__).with_name("recorded.json")  # by benchmark and size, the median ratio and the least of a turn
KEPT = 0.9  # of the least recorded ratio, since the medians of two runs differ by as much as the turns of one
FEWEST, MOST = 3, 15  # rounds of `--gate`


def measure_process() -> int:
    """Measures the most bytes that this process has used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(
    once: Callable[[], object],
    facts: dict[str, Any],
    measure_peak: Callable[[], int] = measure_process,
    warm: int = 0,
) -> None:
    """Works twice to compile, tells `facts`, then works as often as each line of standard input says.

    `warm` calls before that are not timed, for steps of which one follows another in use: the other's turn has left
    this process with cold caches, and with memory that the system has taken back.
    """
    once()
    once()
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        for _ in range(warm):
            once()
        began = time.perf_counter()
        for _ in range(int(line)):
            once()
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "peak": measure_peak()}), flush=True)


def read_worker(known: Collection[str]) -> tuple[str, str] | None:
    """Reads which of the programs this process is, and what it works on; None for the process that asks."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--worker", choices=known)
    options.add_argument("--only")
    given, _ = options.parse_known_args() if "--worker" in sys.argv else (None, None)
    return None if given is None else (given.worker, given.only)


class Worker:
    """A process of a benchmark that works when it is asked to; `facts` are what it told at its start."""

    def __init__(self, module: str, who: str, name: str) -> None:
        command = [sys.executable, "-m", module, "--worker", who, "--only", name]
        environment = set_allocator(os.environ)  # as morphax's commands run; the other has it too
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts = self._read()
        self.peak = 0

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def work(self, times: int) -> float:
        """Works so many times; returns the seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        answer = self._read()
        self.peak = answer["peak"]
        return answer["seconds"]

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


def compare_speeds(
    module: str, who: Sequence[str], name: str, amount: int, times: int, rounds: int, enough: float = math.inf
) -> dict[str, Any]:
    """Measures two programs in turn, the first beside the second: `times` calls a turn, each of `amount` tokens.

    Ends before `rounds` when the median ratio of `FEWEST` rounds or more is at least `enough`.  Gives tokens a second
    of both and their ratio in each round, what each told at its start, and peak memory.
    """
    ours, theirs = who
    workers = {each: Worker(module, each, name) for each in who}
    speeds: list[dict[str, float]] = []
    try:
        for _ in range(rounds):
            speeds.append({each: amount * times / worker.work(times) for each, worker in workers.items()})
            if len(speeds) >= FEWEST and statistics.median(speed[ours] / speed[theirs] for speed in speeds) >= enough:
                break
    finally:
        for worker in workers.values():
            worker.stop()
    return {
        "speeds": {each: [speed[each] for speed in speeds] for each in who},
        "ratios": [speed[ours] / speed[theirs] for speed in speeds],
        "facts": {each: worker.facts for each, worker in workers.items()},
        "peaks": {each: worker.peak for each, worker in workers.items()},
    }


class Compared(Protocol):
    """The work of two programs: the tokens of a call, the calls of a turn, and how many times as fast ours must be."""

    @property
    def tokens(self) -> int: ...
    @property
    def times(self) -> int: ...
    @property
    def goal(self) -> float: ...


Size = TypeVar("Size", bound=Compared)


def add_turn_options(options: argparse.ArgumentParser, rounds: int, profiled: str) -> None:
    """Adds the options of a benchmark of two programs."""
    options.add_argument("--rounds", type=int, default=rounds, help=f"turns of each (default: {rounds})")
    options.add_argument(
        "--profile", type=Path, metavar="FOLDER", help=f"write {profiled} there, and print the dearest"
    )
    options.add_argument("--record", action="store_true", help=f"keep the ratios in {RECORD.name}")
    options.add_argument(
        "--gate",
        action="store_true",
        help=f"only see that no ratio fell below {KEPT:g} of the least recorded: rounds until their median is above, at"
        f" most {MOST}; a goal that is missed is no failure",
    )


def compare_all(
    module: str,
    who: Sequence[str],
    sizes: Mapping[str, Compared],
    chosen: Sequence[str],
    given: argparse.Namespace,
    title: str,
) -> tuple[dict[str, Any], list[str]]:
    """Measures two programs in turn on each chosen size and prints a table.

    Returns the figures and the failures: goals that are missed, and ratios that fell by more than a tenth.
    """
    from tests.benchmarks.measure import note, report

    figures: dict[str, Any] = {}
    failures: list[str] = []
    rows: list[tuple[str, ...]] = []
    other = who[1]
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    recorded = record.setdefault(module.rpartition(".")[2], {})
    for name in chosen:
        size, before = sizes[name], recorded.get(name)
        if given.gate and before is None:
            raise SystemExit(f"No ratio of {name} is recorded; measure it with --record on a machine that is at rest.")
        least = 0.0 if before is None else KEPT * before["least"]
        rounds, enough = (MOST, least) if given.gate else (given.rounds, math.inf)
        found = figures[name] = compare_speeds(module, who, name, size.tokens, size.times, rounds, enough)
        ratio = statistics.median(found["ratios"])
        if ratio < size.goal and not given.gate:
            failures.append(f"{name}, {ratio:.2f} times as fast as {other}; the goal is {size.goal:g}")
        if ratio < least and not given.record:
            failures.append(f"{name}, {ratio:.2f} times as fast as {other}, less than {least:.2f}, {KEPT:g} of before")
        recorded[name] = {"median": round(ratio, 3), "least": round(min(found["ratios"]), 3)}
        note(f"{name}: {ratio:.2f}")
        counts = (found["facts"][each].get("parameters") for each in who)
        rows.append(
            (
                name,
                *("-" if count is None else f"{count:,}" for count in counts),
                *(f"{statistics.median(found['speeds'][each]):,.0f}" for each in who),
                f"{ratio:.2f} ({min(found['ratios']):.2f} to {max(found['ratios']):.2f})",
                *(f"{found['peaks'][each] / 2**20:,.0f}" for each in who),
                f"{size.goal:g}: {'holds' if ratio >= size.goal else 'MISSED'}",
            )
        )
    columns = ("", "parameters", other, "tokens/s", other, "ratio", "MiB", other, "goal")
    report(columns, rows, f"{title}, beside {other}")
    if given.record:
        RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return figures, failures


def run_turns(
    module: str,
    doc: str | None,
    title: str,
    sizes: Mapping[str, Size],
    starts: Mapping[str, Callable[[Size], tuple[Callable[[], None], int]]],
    arguments: Sequence[str] | None = None,
    add: Callable[[Sequence[str], int], dict[str, Any]] = lambda chosen, rounds: {},
    warm: int = 0,
) -> None:
    """Runs a benchmark whose programs start from a size alone, as one of its workers or as the process that asks.

    A start gives a call and the number of parameters.  `add` measures more of the chosen sizes, unless only ratios are
    asked for; it is given the rounds.  `warm` is that of `serve`.
    """
    if (asked := read_worker(starts)) is not None:  # before jax is imported, which PyTorch's memory would count
        who, name = asked
        once, count = starts[who](sizes[name])
        serve(once, {"parameters": count}, warm=warm)
        return
    from tests.benchmarks.measure import begin, finish, parser, selected
    from tests.benchmarks.profiled import profile

    options = parser(doc)
    add_turn_options(options, 7, "a trace of morphax's work")
    given = options.parse_args(arguments)
    begin()
    chosen = selected(sizes, given.only)
    figures, failures = compare_all(module, tuple(starts), sizes, chosen, given, title)
    if given.profile is not None:
        for name in chosen:
            profile(starts["morphax"](sizes[name])[0], given.profile / "".join(filter(str.isalnum, name)))
    finish(figures | ({} if given.gate else add(chosen, given.rounds)), given.json, failures)
