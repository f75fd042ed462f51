"""Costs of each config on the TPU v5e-1 of Colab, by the compiler, without a TPU: batch, memory, milliseconds.

    make tpu-configs          # or: python -m tests.benchmarks.colab [--only NAME ...] [--json FILE], with libtpu

The training step of every config, in bfloat16 with float32 parameters at the batch for Colab named below, is compiled
for one chip; milliseconds are those that `morphax plan` expects.  Loops of unknown length (the matching of boxes) count
one trip, and what the host does is not in it.  Shapes are those of the first training batch of the real data.
"""

import dataclasses

from tests.benchmarks.measure import finish, note, parser, report, selected
from train.config import list_configs, load_config
from train.plan.step import plan_step

# Batches that fill the chip better than those for two cores; a config that is not here keeps its own.
BATCHES = {
    "detect_cells": 32,
    "detect_digits": 128,
    "drive_decision": 512,
    "drive_highway": 512,
    "images_vit": 512,
    "lm_shakespeare": 64,
    "sentiment_bert": 128,
    "topics_bert": 128,
    "traffic_occupancy": 1024,
    "traffic_weather": 256,
    "translate_multi30k": 256,
    "translate_numbers": 256,
    "tweets_bert": 128,
    "video_manoeuvres": 128,
    "video_motion": 256,
}


def figures_of(name: str) -> dict[str, float]:
    """A config's batch, peak MiB, milliseconds a step, examples a second, seconds to compile."""
    experiment, _ = load_config(name, ["precision=bfloat16"])
    experiment = dataclasses.replace(experiment, batch_size=BATCHES.get(name, experiment.batch_size))
    plan = plan_step(experiment, name, "v5e:1x1")
    return {
        "batch": experiment.batch_size,
        "peak_mib": plan.peak / 2**20,
        "milliseconds": plan.seconds * 1e3,
        "examples_per_second": experiment.batch_size / plan.seconds,
        "compile_seconds": plan.compile_seconds,
    }


def main() -> None:
    """Compiles and prints the table."""
    options = parser(__doc__).parse_args()
    figures = dict[str, dict[str, float]]()
    for name in selected(list_configs(), options.only):
        figures[name] = figures_of(name)
        note(f"{name}: {figures[name]}")
    rows = [
        (
            name,
            f"{one['batch']:.0f}",
            f"{one['peak_mib']:,.0f}",
            f"{one['milliseconds']:.2f}",
            f"{one['examples_per_second']:,.0f}",
            f"{one['compile_seconds']:.0f}",
        )
        for name, one in figures.items()
    ]
    report(
        ("config", "batch", "peak MiB", "ms a step", "examples/s", "s to compile"),
        rows,
        "TPU v5e-1, bfloat16, by the compiler's estimate",
    )
    finish(figures, options.json, [])


if __name__ == "__main__":
    main()
