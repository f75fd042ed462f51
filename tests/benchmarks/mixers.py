"""Time and memory of every mixer of tokens against causal softmax attention, and of experts against a dense layer:
`make bench`.

    python -m tests.benchmarks.mixers [--only NAME ...] [--lengths 512 2048 8192] [--json FILE]

Forward and backward pass (gradients of parameters and input) of one layer by its defaults at width 512, batch 1,
float32, compiled. Times are ratios to attention, which runs in turn with each mixer, and with 8,192 tokens once for
all; memory is what the compiled program asks for (temporaries and outputs), also over attention's.  Growth is the least
time at 8,192 tokens over the least at 2,048, since what disturbs a run adds to it.  Mixers that decode with a constant
state must need less memory than attention at 8,192, and recurrences grow 4.8 times at most.  With 512 tokens
GatedDeltaNet may take 2 times attention's time and Mamba1 3 times; experts, 8 active of 64, may cost 1.5 times a dense
GLU as wide as the active ones with 8,192 tokens, which give each 1,024 rows.  Ends with 1 where a goal does not hold.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from models import GLU, Attention
from models.experts.routed import Experts
from tests.benchmarks.measure import (
    WIDTH,
    begin,
    constant,
    finish,
    fitted,
    in_turn,
    mixers,
    note,
    numbers,
    output,
    parser,
    report,
    selected,
    start,
)

GROWTH, DEARER = 4.8, 1.5
MOST = {"GatedDeltaNet": 2.0, "Mamba1": 3.0}  # times attention's time with 512 tokens
FIRST, SHORT, LONG = 512, 2048, 8192  # growth is measured between the last two
EXPERTS, TOKENS = Experts(64, 8, expand=1 / 2), (2048, 8192)


@dataclasses.dataclass
class Pass:
    """A layer's compiled forward and backward pass over one row: what runs it, the bytes that it asks for, and seconds
    if they were measured once and for all.
    """

    run: Callable[[], Any]
    memory: int
    seconds: float | None = None

    @classmethod
    def of(cls, layer: Any, length: int) -> "Pass":
        """Compiles it, and runs it once."""
        layer, x = fitted(layer, length), numbers(1, length, WIDTH)
        params, outer = start(layer, x), numbers(1, length, WIDTH)[:, ::-1]
        passed = jax.jit(jax.grad(lambda params, x, outer: jnp.vdot(output(layer, params, x), outer), (0, 1)))
        compiled = passed.lower(params, x, outer).compile()
        memory: Any = compiled.memory_analysis()
        jax.block_until_ready(compiled(params, x, outer))
        return cls(lambda: compiled(params, x, outer), memory.temp_size_in_bytes + memory.output_size_in_bytes)


def against(layer: Any, passes: dict[int, Pass], rounds: int = 2) -> tuple[dict[str, dict[str, float]], float]:
    """By length, seconds of the layer, and its time and memory over those of the passes given; and its growth."""
    own = {length: Pass.of(layer, length) for length in passes}
    times: dict[int, list[tuple[float, float]]] = {length: [] for length in passes}
    turned = {length: other for length, other in passes.items() if other.seconds is None}
    for _ in range(rounds):
        for length, other in turned.items():
            times[length] += in_turn(own[length].run, other.run, max(1, min(4, LONG // length // 2)), 1)
    growth = math.nan
    if {SHORT, LONG} <= set(passes):
        spent = in_turn(own[SHORT].run, own[LONG].run, 4 if constant(layer) else 1, 4)
        growth = min(long for _, long in spent) / min(short for short, _ in spent)
        times[LONG] = times[LONG] or [(long, passes[LONG].seconds or math.nan) for _, long in spent]
    return {
        str(length): {
            "seconds": statistics.median(first for first, _ in pairs),
            "time": statistics.median(first / second for first, second in pairs),
            "memory": own[length].memory / passes[length].memory,
            "bytes": own[length].memory,
        }
        for length, pairs in times.items()
    }, growth


def measure_mixers(names: list[str], lengths: list[int]) -> tuple[dict[str, Any], list[str]]:
    """Measures the mixers and prints their table; the figures, and the goals that do not hold."""
    known, figures, failures, rows = mixers(), {}, [], []
    passes = {length: Pass.of(Attention(causal=True), length) for length in lengths}
    if {SHORT, LONG} <= set(passes):  # seconds a call, and the ratios are far from one
        passes[LONG].seconds = statistics.median(long for _, long in in_turn(passes[SHORT].run, passes[LONG].run, 1, 3))
    for name in names:
        found, growth = against(known[name], passes)
        figures[name] = found | {"growth": growth}
        told = [
            f"{length} tokens {value['seconds']:.3f} s, {value['bytes'] / 2**20:.0f} MiB"
            for length, value in found.items()
        ]
        note(f"{name}: {', '.join(told)}, growth {growth:.2f}")
        goal = ""
        if not math.isnan(growth) and constant(known[name]):
            linear = growth <= GROWTH or not type(known[name]).__module__.startswith("models.recurrence")
            goal = "holds" if linear and found[str(LONG)]["memory"] < 1 else "MISSED"
        if goal == "MISSED":
            failures.append(f"{name}, growth {growth:.2f}, memory {found[str(LONG)]['memory']:.2f} of attention's")
        if str(FIRST) in found and found[str(FIRST)]["time"] > MOST.get(name, math.inf):
            goal = "MISSED"
            failures.append(f"{name}, {found[str(FIRST)]['time']:.2f} times attention's time with {FIRST} tokens")
        cells = [f"{value[key]:.2f}" for key in ("time", "memory") for value in found.values()]
        rows.append((name, *cells, "" if math.isnan(growth) else f"{growth:.2f}", goal))
    columns = [f"{key}, {length:,}" for key in ("time", "memory") for length in lengths]
    title = "Forward and backward pass over causal softmax attention's; growth: least time at 8,192 tokens over 2,048"
    report(("mixer", *columns, "growth", "goal"), rows, title)
    return figures, failures


def measure_experts() -> tuple[dict[str, Any], list[str]]:
    """Measures experts against a dense layer as wide as the active ones together, and prints their table."""
    dense, rows, failures = GLU(EXPERTS.active * EXPERTS.expand), [], []
    figures, _ = against(EXPERTS, {length: Pass.of(dense, length) for length in TOKENS}, rounds=4)
    for length, value in figures.items():
        goal = "" if int(length) < LONG else "holds" if value["time"] <= DEARER else "MISSED"
        rows.append((f"{int(length):,}", f"{value['time']:.2f}", f"{value['memory']:.2f}", goal))
        if goal == "MISSED":
            failures.append(f"Experts at {int(length):,} tokens, {value['time']:.2f} times the dense layer's time")
    shape = f"{EXPERTS.active} of {EXPERTS.experts} experts active, each {EXPERTS.expand:g} times as wide as the stream"
    report(
        ("tokens", "time", "memory", "goal"), rows, f"{shape}, over a GLU of {EXPERTS.active * EXPERTS.expand:g} times"
    )
    return figures, failures


def main() -> None:
    """Measures and prints the tables."""
    asked = parser(__doc__)
    asked.add_argument("--lengths", nargs="+", type=int, default=[FIRST, SHORT, LONG], help="tokens a row")
    options = asked.parse_args()
    begin()
    figures, failures = {}, []
    names = selected([*mixers(), "Experts"], options.only)
    if measured := [name for name in names if name != "Experts"]:
        figures["mixers"], failures = measure_mixers(measured, options.lengths)
    if "Experts" in names:
        figures["experts"], missed = measure_experts()
        failures += missed
    finish(figures, options.json, failures)


if __name__ == "__main__":
    main()
