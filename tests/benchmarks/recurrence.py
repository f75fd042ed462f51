"""Recurrences whose state is a matrix, their gradients compiled for one TPU v5e: all chunks at once by XLA, or by our
kernels.

    make tpu-recurrence       # or: python -m tests.benchmarks.recurrence [--only NAME ...] [--json FILE], with libtpu

2 rows of 4 heads over 2,048 tokens, with segments.  Peak memory is the compiler's, what is moved is what instructions
read and write in the chip's large memory, and cycles are the compiler's estimates for XLA's instructions and its final
schedule for a kernel, times the blocks of the grid.  Milliseconds are the longer of cycles over the clock and bytes
over the memory's speed.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from models.backend.implementation import Recurrent
from models.backend.platform import compile_for
from models.recurrence.decayed import decay_memory
from models.recurrence.delta import delta
from models.recurrence.kernel import TOGETHER
from tests.benchmarks.measure import finish, note, parser, report, selected
from train.cost.chips import find_chip
from train.cost.compiled import count_hbm_bytes
from train.cost.hlo import Program
from train.plan.topology import find_devices

ROWS, HEADS, LENGTH = 2, 4, 2048
# The recurrence, how wide keys and values are, and whether channels decay each on their own.
FORMS: dict[str, tuple[Any, int, int, bool]] = {
    "decayed": (decay_memory, 128, 256, False),
    "decayed, a channel": (decay_memory, 128, 128, True),
    "delta": (delta, 128, 256, False),
    "delta, a channel": (delta, 128, 128, True),
}


def figures_of(name: str, implementation: Recurrent, dumped: Path) -> dict[str, float]:
    """Peak MiB, moved MiB, kilocycles by the compiler and in kernels, milliseconds at the least."""
    run, keys, values, channels = FORMS[name]
    (device,) = find_devices("v5e:1x1")
    place = SingleDeviceSharding(device)

    def array(*width: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((ROWS, HEADS, LENGTH, *width), dtype, sharding=place)

    given = (
        [array(keys), array(keys), array(values)]
        + ([array(keys)] * 2 if run is delta else [])
        + [array(*[keys] * channels)]
    )
    segments = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32, sharding=place)

    def loss(given: Any, weights: jax.Array, segments: jax.Array) -> jax.Array:
        return jnp.vdot(weights, run(*given, segments, implementation=implementation)[0])

    for stale in dumped.iterdir():
        stale.unlink()
    with compile_for([device]):
        compiled = jax.jit(jax.grad(loss)).lower(given, array(values), segments).compile()
    program, facts, memory = (
        Program(compiled.as_text() or ""),
        find_chip(device.device_kind),
        compiled.memory_analysis(),
    )
    assert facts is not None
    assert memory is not None
    blocks = ROWS * HEADS * LENGTH // (TOGETHER * (16 if channels else 64))
    schedules = [file.read_text() for file in dumped.glob("*ward*schedule-analysis_final_bundles.txt")]
    scheduled = (
        sum(int(number) for text in schedules for number in re.findall(r"total scheduled bundles: *(\d+)", text))
        * blocks
    )
    cycles, traffic = program.sum_cycles(), count_hbm_bytes(program)
    return {
        "peak_mib": memory.peak_memory_in_bytes / 2**20,
        "moved_mib": traffic / 2**20,
        "kilocycles": cycles / 1e3,
        "kernel_kilocycles": scheduled / 1e3,
        "milliseconds": 1e3 * max((cycles + scheduled) / facts.hertz, traffic / facts.bandwidth),
    }


def main() -> None:
    """Compiles and prints the table."""
    options = parser(__doc__).parse_args()
    rows, slower, figures = list[tuple[str, ...]](), list[str](), dict[str, dict[str, float]]()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIBTPU_INIT_ARGS"] = (
            f"{os.environ.get('LIBTPU_INIT_ARGS', '')} --xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        )
        for name in selected(FORMS, options.only):
            for implementation in ("xla", "pallas"):
                one = figures_of(name, implementation, Path(folder))
                figures[f"{name}, {implementation}"] = one
                note(f"{name}, {implementation}: {one}")
            pair = [figures[f"{name}, {implementation}"] for implementation in ("xla", "pallas")]
            rows.append(
                (
                    name,
                    *(f"{one['peak_mib']:,.0f}" for one in pair),
                    *(f"{one['moved_mib']:,.0f}" for one in pair),
                    f"{pair[0]['kilocycles']:,.0f}",
                    f"{pair[1]['kilocycles']:,.0f} + {pair[1]['kernel_kilocycles']:,.0f}",
                    *(f"{one['milliseconds']:.2f}" for one in pair),
                    f"{pair[1]['milliseconds'] / pair[0]['milliseconds']:.2f}",
                )
            )
            if pair[1]["milliseconds"] >= pair[0]["milliseconds"]:
                slower.append(f"{name}: the kernel is expected to be no faster")
    heads = ("recurrence", "peak MiB", "kernel", "moved MiB", "kernel", "kilocycles", "kernel", "ms", "kernel", "ratio")
    report(heads, rows, "Gradients of recurrences on TPU v5e:1x1, by XLA and by kernels")
    finish(figures, options.json, slower)


if __name__ == "__main__":
    main()
