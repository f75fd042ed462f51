"""Figures of a comparison: losses over tokens, FLOPs and seconds, fronts over costs, and confidence sequences."""

import math
from collections.abc import Callable, Iterator, Sequence

from train.charts import Plot, Series
from train.study.compare import Result
from train.study.curves import FEWEST, compute_band, compute_interval
from train.study.verdict import find_interval
from train.variants import BASELINE, Study

EQUAL = 0.02  # costs that differ by less have no front
WIDEST = 8  # times the last interval, up to which earlier ones are drawn
Cost = Callable[[Result], float]
PER_STEP: dict[str, Cost] = {  # what a step costs, by the name of the axis
    "tokens": lambda result: float(result.entry.tokens),
    "training FLOPs": lambda result: float(result.entry.cost.flops),
    "seconds of training": lambda result: result.step_seconds,
}
COSTS: dict[str, Cost] = {  # of a run, by the name of the axis
    "parameters": lambda result: float(result.entry.cost.parameters),
    "training FLOPs": lambda result: result.curve[-1][0] * float(result.entry.cost.flops),
    "bytes of a step": lambda result: math.nan if result.memory is None else result.memory,
    "seconds of training": lambda result: result.curve[-1][0] * result.step_seconds,
}


def draw_curves(results: Sequence[Result]) -> dict[str, Plot]:
    """Draws held-out losses over tokens, FLOPs and seconds, by the name of the axis; over steps without tokens.

    Lines are means over seeds in the band of `describe_band`.  An axis is left out if it is not known for all.
    """
    shown = [result for result in results if result.curve]
    plots: dict[str, Plot] = {}
    for axis, cost in PER_STEP.items():
        costs = [cost(result) for result in shown]
        if all(0 < value < math.inf for value in costs):
            plots[axis] = _draw_losses(shown, costs, axis)
    if "tokens" not in plots:
        plots = {"steps": _draw_losses(shown, [1.0] * len(shown), "steps"), **plots}
    return plots


def _draw_losses(results: Sequence[Result], costs: Sequence[float], axis: str) -> Plot:
    is_interval = has_intervals(results)
    series: list[Series] = []
    for number, (result, cost) in enumerate(zip(results, costs, strict=True)):
        band = [(cost * step, low, high) for step, low, high in compute_band(result.curves, is_interval)]
        if band:
            series.append(Series("", tuple(band), "band", number))
        line = tuple((cost * step, loss) for step, loss in result.curve if math.isfinite(loss))
        series.append(Series(result.entry.name, line, "marked", number))
    return Plot(tuple(series), axis, "held-out loss")


def has_intervals(results: Sequence[Result]) -> bool:
    """If every structure has enough seeds for a t interval."""
    return min((len(result.curves) for result in results if result.curve), default=0) >= FEWEST


def describe_band(results: Sequence[Result]) -> str:
    """Describes the band around means of curves."""
    seeds = sorted({len(result.curves) for result in results if result.curve})
    if not seeds:
        return "no curves yet"
    count = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(*seeds)
    band = "95 % t interval of the mean" if has_intervals(results) else "lowest to highest seed"
    return f"Mean over {count} seeds" + (f"; band: {band}" if seeds[-1] > 1 else "")


def draw_fronts(results: Sequence[Result]) -> dict[str, Plot]:
    """Draws losses over the costs of a run by name, with the front: what no other has at a lower cost and loss.

    A cost that is equal within 2 % has none.
    """
    shown = [result for result in results if result.curve and math.isfinite(result.loss)]
    plots: dict[str, Plot] = {}
    for axis, cost in COSTS.items():
        costs = [cost(result) for result in shown]
        if len(shown) > 1 and all(map(math.isfinite, costs)) and max(costs) > (1 + EQUAL) * min(costs):
            plots[axis] = _draw_front(shown, costs, axis)
    return plots


def _draw_front(results: Sequence[Result], costs: Sequence[float], axis: str) -> Plot:
    series: list[Series] = []
    for number, (result, cost) in enumerate(zip(results, costs, strict=True)):
        if len(result.losses) > 1:
            low, high = compute_interval(result.losses)
            series.append(Series("", ((cost, low), (cost, high)), "line", number))
        series.append(Series(result.entry.name, ((cost, result.loss),), "points", number))
    front = list(find_front([(cost, result.loss) for cost, result in zip(costs, results, strict=True)]))
    stairs = [
        point
        for (_, loss), (cost, less) in zip(front, front[1:], strict=False)
        for point in ((cost, loss), (cost, less))
    ]
    line = (front[0], *stairs, (max(costs), front[-1][1]))
    return Plot((*series, Series("front", line, "dashed", None)), axis, "held-out loss")


def find_front(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Finds the points (cost, loss) of which no other has neither a higher cost nor a higher loss, by cost."""
    least = math.inf
    for cost, loss in sorted(points):
        if loss < least:
            yield cost, loss
            least = loss


def draw_sequence(differences: Sequence[float], loss: float, alpha: float, smallest: float = 0.0) -> Plot | None:
    """Draws the mean difference and its confidence sequence by seed, in % of a loss; None if none is finite.

    Early intervals that are more than 8 times as wide as the last are left out.
    """
    rows: list[tuple[int, float, float, float]] = []
    for n in range(2, len(differences) + 1):
        low, high = find_interval(differences[:n], alpha)
        if max(abs(low), abs(high)) < math.inf:
            rows.append((n, 100 * sum(differences[:n]) / n / loss, 100 * low / loss, 100 * high / loss))
    if not rows:
        return None
    widest = WIDEST * abs(rows[-1][3] - rows[-1][2])
    rows = [row for row in rows if row[3] - row[2] <= widest or row is rows[-1]]
    ends = rows[0][0], rows[-1][0]
    series = [
        Series("confidence sequence", tuple((n, low, high) for n, _, low, high in rows), "band", 0),
        Series("mean", tuple((n, mean) for n, mean, _, _ in rows), "marked", 0),
        Series("", tuple((n, 0.0) for n in ends), "dashed", None),
    ]
    if smallest:
        band = tuple((n, -100 * smallest, 100 * smallest) for n in ends)
        series.insert(0, Series("of no interest", band, "band", None))
    return Plot(tuple(series), "seeds", "difference of the loss (%)")


def draw_sequences(study: Study, results: Sequence[Result]) -> dict[str, Plot]:
    """Draws the confidence sequences of variants by name, at the level alpha over their number."""
    judged = [result for result in results if result.verdict is not None and result.entry.name != BASELINE]
    base = results[0].loss if results else math.nan
    plots = {
        result.entry.name: draw_sequence(result.differences, base, study.alpha / len(judged), study.smallest)
        for result in judged
    }
    return {name: plot for name, plot in plots.items() if plot is not None}
