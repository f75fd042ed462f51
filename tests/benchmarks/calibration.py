"""False verdicts on real runs: studies of variants that are the baseline with another initial key and other batches.

    python -m tests.benchmarks.calibration [--studies 20] [--steps 30] [--most 8] [--to FOLDER]

Each study compares `tiny_lm` with itself: the variant's trials have the seeds of the baseline plus an offset of their
own, so that each pair differs by chance alone, and every verdict of better or worse is false.  At most 5 % of the
studies may have one, whatever the number of looks.  A study goes on from its ledger.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from train.study.compare import Comparison, Entry
from train.study.costs import load_cost
from train.study.trial import Outcome, Unit
from train.study.workers import Pool, list_cores
from train.variants import BASELINE, Study

OFFSET = 10_000  # between the seeds of the baseline and of the variant
WIDTH = ("model.embed.width=32", "model.stack.repeats=2", "model.stack.block.mixer.heads=2")
SMALL = (*WIDTH, "batch_size=8", "evaluation.batch_size=16")


class Shifted:
    """Makes trials of the variant from other seeds than those of the baseline."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def __call__(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Outcome | str]]:
        """Makes trials; each is given back under its own seed."""
        shifted = {
            dataclasses.replace(unit, seed=unit.seed + OFFSET * (unit.variant != BASELINE)): unit for unit in units
        }
        for unit, outcome in self.pool(list(shifted)):
            yield shifted[unit], outcome


def main() -> int:
    """Carries out the studies; prints each verdict and the number of false ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--most", type=int, default=8)
    parser.add_argument("--data", help="data of the experiment (default: that of tiny_lm)")
    parser.add_argument("--to", type=Path, default=Path("runs/calibration"))
    options = parser.parse_args()
    overrides = (*SMALL, f"steps={options.steps}", *((f"data={options.data}",) if options.data else ()))
    study = Study("tiny_lm", overrides, {"same": ()}, budget="none", most=options.most, smallest=0.0)
    cost = load_cost(study.config, overrides, ())
    entries = [Entry(name, overrides, cost=cost) for name in (BASELINE, "same")]
    false = 0
    with Pool(len(list_cores())) as pool:
        for number in range(options.studies):
            folder = options.to / f"{number:03}"
            folder.mkdir(parents=True, exist_ok=True)
            first = number * 100
            verdict = Comparison(study, folder, entries, first_seed=first).run(Shifted(pool))[1].verdict
            assert verdict is not None
            false += verdict.word in ("better", "worse")
            print(f"study {number}: {verdict.word} after {verdict.seeds} seeds, p {verdict.p:.2g}", flush=True)
    print(f"{false} of {options.studies} studies have a false verdict")
    return int(false > 0.05 * options.studies)


if __name__ == "__main__":
    sys.exit(main())
