"""Verdicts in words: a sentence for each variant, and the table of a study."""

import math
from collections.abc import Callable, Mapping, Sequence

import rich.box
import rich.table
import rich.text

from train.cost.value import Cost, divide
from train.errors import Json
from train.study.compare import Result
from train.variants import BASELINE

# of the table, by the title of their column
COSTS: Mapping[str, Callable[[Cost], int | None]] = {
    "parameters": lambda cost: cost.parameters,
    "active": lambda cost: cost.active,
    "FLOPs": lambda cost: cost.flops,
    "state": lambda cost: cost.state,
}


def describe(result: Result) -> str:
    """The verdict on a variant in a sentence."""
    entry, verdict = result.entry, result.verdict
    if entry.out is not None:
        return f"{entry.name}: disqualified ({entry.out})"
    if verdict is None:
        return f"{entry.name}: not measured yet"
    mean, low, high = result.share
    seeds = f"after {verdict.seeds} seeds"
    if verdict.word in ("better", "worse"):
        ends = sorted((abs(low), abs(high)))
        size = f"{abs(mean):.1%} ({_percent(ends[0])} to {_percent(ends[1])}) of the loss {seeds}"
        text = f"{entry.name}: {verdict.word} by {size}"
        if (speed := find_speed(result)) is not None:
            flops, seconds = (_format_speed(value, verdict.word == "worse") for value in speed)
            text += f"; for the same loss {flops} compute" + (f" and {seconds} time" if math.isfinite(speed[1]) else "")
    else:
        seen = max(abs(low), abs(high)) if verdict.word == "as good" else (high - low) / 2
        bound = f"one of {seen:.1%} would have been seen" if math.isfinite(seen) else "too few to tell"
        said = "no difference of interest" if verdict.word == "as good" else "no difference shown"
        text = f"{entry.name}: {said} {seeds} ({bound})"
        if verdict.needed is not None and verdict.needed > verdict.seeds:
            text += f"; if this goes on, {verdict.needed} seeds would decide"
    costs = f"parameters {result.parameters:.3f}, FLOPs {result.flops:.3f}, time {result.seconds:.2f} of the baseline's"
    tuned = f"; {result.tuned.describe()}" if result.tuned is not None and result.tuned.end is not None else ""
    return f"{text}; {costs}{tuned}"


def find_speed(result: Result) -> tuple[float, float] | None:
    """The better one's speed-up over the other for the loss that the other ends with: in FLOPs, and in seconds.

    The latter is NaN unless all trials are of one machine.  None if the curves do not say.
    """
    if not result.compute or result.verdict is None:
        return None
    turn = 1 if result.share[0] < 0 else -1  # the ratios of costs are the variant's over the baseline's
    seconds = result.seconds if math.isfinite(result.step_seconds) else math.nan
    return 1 / (result.compute * result.flops**turn), 1 / (result.compute * seconds**turn)


def _format_speed(speed: float, is_worse: bool) -> str:
    is_more = is_worse == (speed >= 1)
    return f"{max(speed, 1 / speed):.2f} times {'more' if is_more else 'less'}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if math.isfinite(share) else "any"


def make_table(results: Sequence[Result]) -> rich.table.Table:
    """The table of a study."""
    shown = rich.table.Table(*make_columns(results), box=rich.box.SIMPLE)
    for cells in make_rows(results):
        shown.add_row(*map(rich.text.Text, cells))
    return shown


def make_columns(results: Sequence[Result]) -> tuple[str, ...]:
    """Names of the table's columns."""
    memory = ("memory",) if _has_memory(results) else ()
    return ("variant", *_list_costs(results), "time", *memory, "loss", "difference of the loss", "seeds", "verdict")


def _has_memory(results: Sequence[Result]) -> bool:
    """If the table has bytes of compiled steps: where all that were trained have them."""
    known = [result.memory is not None for result in results if result.losses]
    return bool(known) and all(known)


def _list_costs(results: Sequence[Result]) -> list[str]:
    """Costs that the table has: active parameters where some are not, a decoder's state where a structure has one."""
    costs = [result.entry.cost for result in results]
    shown = {
        "active": any(cost.active not in (None, cost.parameters) for cost in costs),
        "state": any(cost.state for cost in costs),
    }
    return [name for name in COSTS if shown.get(name, True)]


def make_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Cells of the table: ratios of costs to the baseline's, and differences as shares of its loss."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        entry, verdict = result.entry, result.verdict
        read = (COSTS[name] for name in _list_costs(results))
        ratios = [divide(cost(entry.cost), cost(results[0].entry.cost)) for cost in read]
        costs = ["" if ratio is None else f"{ratio:.3f}" for ratio in ratios]
        time = [f"{result.seconds:.2f}" if math.isfinite(result.seconds) else ""]
        if _has_memory(results):
            ratio = divide(result.memory, results[0].memory)
            time.append("" if ratio is None else f"{ratio:.3f}")
        loss = f"{result.loss:.4f}" if math.isfinite(result.loss) else ""
        mean, low, high = result.share
        difference = f"{mean:+.2%} ({low:+.2%} to {high:+.2%})" if verdict else ""
        difference = difference.replace("-inf%", "-").replace("+inf%", "-")
        word = "disqualified" if entry.out else verdict.word if verdict else ""
        seeds = str(len(result.losses)) if result.losses else ""
        rows.append((entry.name, *costs, *time, loss, difference, seeds, "" if entry.name == BASELINE else word))
    return rows


def record(result: Result) -> dict[str, Json]:
    """A result as JSON values; what is not finite is null."""

    def number(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    verdict = result.verdict
    return {
        "variant": result.entry.name,
        "overrides": list(result.entry.overrides),
        "tuned": result.tuned.record() if result.tuned is not None else None,
        "matched": list(result.entry.moved),
        "verdict": "disqualified" if result.entry.out else verdict.word if verdict else None,
        "reason": result.entry.out,
        "sentence": None if result.entry.name == BASELINE else describe(result),
        "seeds": len(result.losses),
        "loss": number(result.loss),
        "losses": list(result.losses),
        "difference": number(result.share[0]),
        "interval": [number(result.share[1]), number(result.share[2])],
        "p": verdict.p if verdict else None,
        "p_of_one_look": verdict.t_p if verdict else None,
        "parameters": number(result.parameters),
        "flops": number(result.flops),
        "seconds": number(result.seconds),
        "memory": number(result.memory),
        "compute": number(result.compute),
        "costs": result.entry.cost.record(),
        "speed_up": [number(value) for value in find_speed(result) or ()] or None,
    }
