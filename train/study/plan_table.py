"""Plans side by side, to read."""

from collections.abc import Sequence

from rich.table import Table

from train.console import count
from train.study.plan import Plan


def table(plans: Sequence[Plan]) -> Table:
    """A column for each plan."""
    found = Table(box=None, pad_edge=False)
    found.add_column("")
    for plan in plans:
        found.add_column(f"{plan.topology}\n{plan.name}", justify="right", overflow="fold")
    for (name, _), *_ in zip(*(lines(plan) for plan in plans), strict=True):
        found.add_row(name, *(dict(lines(plan))[name] for plan in plans))
    return found


def lines(plan: Plan) -> list[tuple[str, str]]:
    """A plan as names and values."""
    over = plan.peak - plan.available
    held = f"{_bytes(plan.peak)} of {_bytes(plan.available)}"
    fits = f"fits: {held}" if plan.fits else f"too much by {_bytes(over)}: {held}"
    known = [
        ("parameters", count(plan.parameters)),
        ("rows, tokens a step", f"{plan.rows}, {plan.tokens:,}"),
        ("devices", str(plan.devices)),
        ("memory", fits),
        ("FLOPs of the model", count(plan.model_flops)),
    ]
    rest = [
        ("FLOPs that run", count(plan.flops)),
        ("  in kernels", count(plan.kernel_flops) + "".join(f", {name} not counted" for name in plan.uncounted)),
        ("arguments", _bytes(plan.arguments)),
        ("temporaries", _bytes(plan.temporaries)),
        ("moved", _bytes(plan.moved)),
        ("communication", ", ".join(f"{count_} {kind} {_bytes(size)}" for kind, (count_, size) in plan.collectives.items()) or "none"),
        ("kernels", ", ".join(f"{times} {name}" for name, times in plan.kernels.items()) or "none"),
        ("cycles", count(plan.cycles)),
        ("roofline", f"{plan.roofline * 1e3:.2f} ms, by {plan.bound}"),
        ("expected step", f"{plan.seconds * 1e3:.2f} ms"),
        ("ceiling of MFU", f"{plan.ceiling:.1%}"),
        ("tokens/s" if plan.tokens else "rows/s", count(plan.tokens_per_second)),
    ]
    return [*known, *(rest if plan.fits else [(name, "-") for name, _ in rest]), ("time to compile", f"{plan.compile_seconds:.0f} s")]


def _bytes(number: float) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f} B"
