"""Plans side by side as a text table, and one by one as JSON values."""

import dataclasses
from collections.abc import Sequence

from train.errors import Json
from train.plan.step import Plan
from train.report.console import format_count

LABEL, VALUE = 14, 11  # the widths of columns


def format_table(plans: Sequence[Plan], width: int = 80) -> str:
    """Formats plans as text: their names by number, their figures in columns as the width allows, then their traffic.

    Lines of kernels and communication are not wrapped.
    """
    numbered = list(enumerate(plans, 1))
    parts = ["\n".join(f"{number}  {plan.topology}, {plan.name}" for number, plan in numbered)]
    beside = max((width - LABEL) // VALUE, 1)
    for first in range(0, len(plans), beside):
        columns = [{"": str(number), **dict(list_figures(plan))} for number, plan in numbered[first : first + beside]]
        lines = (
            name.ljust(LABEL) + "".join(f" {column[name]}".rjust(VALUE) for column in columns) for name in columns[0]
        )
        parts.append("\n".join(line.rstrip() for line in lines))
    parts.append("\n".join(line for number, plan in numbered for line in describe_traffic(number, plan)))
    return "\n\n".join(part for part in parts if part)


def list_figures(plan: Plan) -> list[tuple[str, str]]:
    """Lists the figures of a plan as short names and values."""
    known = [
        ("parameters", format_count(plan.parameters)),
        ("rows a step", f"{plan.rows:,}"),
        ("tokens a step", f"{plan.tokens:,}" if plan.tokens else "-"),
        ("devices", str(plan.devices)),
        ("memory", _format_bytes(plan.peak)),
        ("  of", _format_bytes(plan.available)),
        ("  too much by", "none" if plan.fits else _format_bytes(plan.peak - plan.available)),
        ("FLOPs of model", format_count(plan.model_flops)),
    ]
    rest = [
        ("FLOPs that run", format_count(plan.flops)),
        ("  in kernels", format_count(plan.kernel_flops)),
        ("arguments", _format_bytes(plan.arguments)),
        ("temporaries", _format_bytes(plan.temporaries)),
        ("in host memory", _format_bytes(plan.host)),
        ("moved", _format_bytes(plan.moved)),
        ("communication", _format_bytes(sum(size for _, size in plan.collectives.values()))),
        ("cycles", format_count(plan.cycles)),
        ("roofline", _format_seconds(plan.roofline)),
        ("  set by", plan.bound),
        ("expected step", _format_seconds(plan.seconds)),
        ("ceiling of MFU", f"{plan.ceiling:.1%}"),
        ("tokens/s", format_count(plan.tokens_per_second) if plan.tokens else "-"),
        ("rows/s", format_count(plan.rows / plan.seconds) if plan.seconds else "-"),
    ]
    return [
        *known,
        *(rest if plan.fits else [(name, "-") for name, _ in rest]),
        ("compiled in", _format_seconds(plan.compile_seconds)),
    ]


def describe_traffic(number: int, plan: Plan) -> list[str]:
    """Describes the collectives and the kernels of a plan, a line each."""
    collectives = ", ".join(
        f"{kind} {times} times, {_format_bytes(size)}" for kind, (times, size) in plan.collectives.items()
    )
    kernels = ", ".join(
        f"{times} {name}{' (not counted)' * (name in plan.uncounted)}" for name, times in plan.kernels.items()
    )
    return [
        *([f"communication of {number}: {collectives}"] if collectives else []),
        *([f"kernels of {number}: {kernels}"] if kernels else []),
    ]


def record(plan: Plan) -> dict[str, Json]:
    """Records a plan as JSON values; figures that a step that does not fit lacks are null."""
    always = {
        field.name
        for field in dataclasses.fields(plan)
        if field.default_factory is field.default is dataclasses.MISSING
    } | {"fits"}
    values = dataclasses.asdict(plan) | {"tokens_per_second": plan.tokens_per_second}
    return {name: value if plan.fits or name in always else None for name, value in values.items()}


def _format_bytes(number: float) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.{2 if number < 100 * size else 0}f} {unit}"
    return f"{number:.0f} B"


def _format_seconds(number: float) -> str:
    return f"{number:.2f} s" if number >= 1 else f"{number * 1e3:.2f} ms"
