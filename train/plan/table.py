"""Plans side by side, to read, and one by one, for other programs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from train.plan.step import Plan
from train.report.console import format_count

LABEL, VALUE = 14, 11  # the widths of columns


def table(plans: Sequence[Plan], width: int = 80) -> str:
    """The plans by numbers, then under these their figures, as many beside each other as the width holds; then what
    kernels and communication they have, of which no line is broken.
    """
    numbered = list(enumerate(plans, 1))
    parts = ["\n".join(f"{number}  {plan.topology}, {plan.name}" for number, plan in numbered)]
    beside = max((width - LABEL) // VALUE, 1)
    for first in range(0, len(plans), beside):
        columns = [{"": str(number), **dict(figures(plan))} for number, plan in numbered[first : first + beside]]
        lines = (
            name.ljust(LABEL) + "".join(f" {column[name]}".rjust(VALUE) for column in columns) for name in columns[0]
        )
        parts.append("\n".join(line.rstrip() for line in lines))
    parts.append("\n".join(line for number, plan in numbered for line in named(number, plan)))
    return "\n\n".join(part for part in parts if part)


def figures(plan: Plan) -> list[tuple[str, str]]:
    """A plan as names and values, all of them short."""
    known = [
        ("parameters", format_count(plan.parameters)),
        ("rows a step", f"{plan.rows:,}"),
        ("tokens a step", f"{plan.tokens:,}" if plan.tokens else "-"),
        ("devices", str(plan.devices)),
        ("memory", _bytes(plan.peak)),
        ("  of", _bytes(plan.available)),
        ("  too much by", "none" if plan.fits else _bytes(plan.peak - plan.available)),
        ("FLOPs of model", format_count(plan.model_flops)),
    ]
    rest = [
        ("FLOPs that run", format_count(plan.flops)),
        ("  in kernels", format_count(plan.kernel_flops)),
        ("arguments", _bytes(plan.arguments)),
        ("temporaries", _bytes(plan.temporaries)),
        ("in host memory", _bytes(plan.host)),
        ("moved", _bytes(plan.moved)),
        ("communication", _bytes(sum(size for _, size in plan.collectives.values()))),
        ("cycles", format_count(plan.cycles)),
        ("roofline", _seconds(plan.roofline)),
        ("  set by", plan.bound),
        ("expected step", _seconds(plan.seconds)),
        ("ceiling of MFU", f"{plan.ceiling:.1%}"),
        ("tokens/s", format_count(plan.tokens_per_second) if plan.tokens else "-"),
        ("rows/s", format_count(plan.rows / plan.seconds) if plan.seconds else "-"),
    ]
    return [
        *known,
        *(rest if plan.fits else [(name, "-") for name, _ in rest]),
        ("compiled in", _seconds(plan.compile_seconds)),
    ]


def named(number: int, plan: Plan) -> list[str]:
    """What of a plan has names of its own."""
    said = ", ".join(f"{kind} {times} times, {_bytes(size)}" for kind, (times, size) in plan.collectives.items())
    run = ", ".join(
        f"{times} {name}{' (not counted)' * (name in plan.uncounted)}" for name, times in plan.kernels.items()
    )
    return [
        *([f"communication of {number}: {said}"] if said else []),
        *([f"kernels of {number}: {run}"] if run else []),
    ]


def record(plan: Plan) -> dict[str, Any]:
    """A plan as JSON has it: null where a step that does not fit has no figures."""
    always = {
        field.name
        for field in dataclasses.fields(plan)
        if field.default_factory is field.default is dataclasses.MISSING
    } | {"fits"}
    values = dataclasses.asdict(plan) | {"tokens_per_second": plan.tokens_per_second}
    return {name: value if plan.fits or name in always else None for name, value in values.items()}


def _bytes(number: float) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.{2 if number < 100 * size else 0}f} {unit}"
    return f"{number:.0f} B"


def _seconds(number: float) -> str:
    return f"{number:.2f} s" if number >= 1 else f"{number * 1e3:.2f} ms"
