"""The table and the page of a ladder."""

import csv
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rich.box
import rich.table
import rich.text

from train.charts import Plot, Series
from train.disk import explain_failed_writes
from train.page import Table, add_caption
from train.report.figures import write_figures
from train.report.html import make_page
from train.study.files import write_report, write_tables
from train.study.ladder import Point, Run, Trend, collect_runs, describe_trend, record_ladder
from train.study.scaling import find_optimum, find_parabola_bias
from train.variants import BASELINE, Study

COLUMNS = ("size", "variant", "width", "parameters", "tokens", "FLOPs", "loss", "difference", "verdict")
DRAWN = 40  # points of a fitted curve
SIZES = ": loss over parameters at equal compute, by the law of parameters and tokens"
LEVELS = 4  # of compute, of which curves over parameters are drawn


def make_rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """Makes the cells of the table, a row for a structure at a size."""
    rows: list[tuple[str, ...]] = []
    for point in points:
        result, rung = point.result, point.rung
        mean, low, high = result.share
        difference = f"{mean:+.2%} ({low:+.2%} to {high:+.2%})" if result.verdict and math.isfinite(low) else ""
        if result.verdict and not math.isfinite(low):
            difference = f"{mean:+.2%}"
        word = "disqualified" if result.entry.out else result.verdict.word if result.verdict else ""
        size = f"{rung.size:g}" + (f" x {rung.multiple:g} tokens" if rung.multiple != 1 else "")
        numbers = (f"{point.parameters:.3g}", f"{rung.tokens:.3g}", f"{point.flops:.3g}")
        loss = f"{result.loss:.4f}" if math.isfinite(result.loss) else ""
        rows.append((size, point.name, str(rung.width), *numbers, loss, difference, word))
    return rows


def make_ladder_table(points: Sequence[Point]) -> rich.table.Table:
    """Makes the table for a terminal."""
    table = rich.table.Table(*COLUMNS, box=rich.box.SIMPLE)
    for cells in make_rows(points):
        table.add_row(*map(rich.text.Text, cells))
    return table


def draw_laws(runs: Mapping[str, Sequence[Run]], trends: Sequence[Trend]) -> Plot:
    """Draws losses over compute: runs as points, laws as lines up to their reach, their 95 % intervals as bands."""
    series: list[Series] = []
    for number, trend in enumerate(trends):
        grid = np.geomspace(trend.law.lowest[0], trend.reach, DRAWN).tolist()
        band = [(math.log10(flops), *trend.law.predict_interval(flops)) for flops in grid]
        line = [(math.log10(flops), trend.law.predict(flops)) for flops in grid]
        dots = tuple((math.log10(run.flops), run.loss) for run in runs[trend.name])
        series += [
            Series("", tuple(band), "band", number),
            Series(trend.name, tuple(line), "line", number),
            Series("", dots, "points", number),
        ]
        if trend.crossing is not None:
            compute, low, high, _ = trend.crossing
            loss = trend.law.predict(compute)
            span = tuple((math.log10(flops), loss) for flops in (low, high))
            series += [
                Series(f"{trend.name} crosses", span, "dashed", None),
                Series("", ((math.log10(compute), loss),), "points", None),
            ]
    return Plot(tuple(series), "log10 of training FLOPs", "held-out loss")


def draw_sizes(points: Sequence[Point], trend: Trend) -> Plot | None:
    """Draws losses over parameters at equal compute by the law of parameters and tokens, and the least loss of each.

    The curves are of the law, at LEVELS amounts of compute inside of the data, as far as its parameters and tokens
    reach; None without such a law.
    """
    if trend.sizes is None:
        return None
    runs = [point for point in points if point.name == trend.name]
    ends = [sorted(values) for values in ({run.parameters for run in runs}, {run.rung.tokens for run in runs})]
    series: list[Series] = []
    best: list[tuple[float, float]] = []
    for number, flops in enumerate(_choose_levels(trend)):
        budget = flops / trend.per_token  # parameters times tokens
        low, high = max(ends[0][0], budget / ends[1][-1]), min(ends[0][-1], budget / ends[1][0])
        grid = np.geomspace(low, high, DRAWN).tolist() if low < high else []
        line = [(math.log10(size), trend.sizes.predict(size, budget / size)) for size in grid]
        series.append(Series(f"{flops:.2g} FLOPs", tuple(line), "line", number))
        size, tokens = find_optimum(trend.sizes, flops, trend.per_token)
        if low <= size <= high:
            best.append((math.log10(size), trend.sizes.predict(size, tokens)))
    if best:
        series.append(Series("least loss", tuple(best), "marked", None))
    return Plot(tuple(series), "log10 of parameters", "held-out loss")


def _choose_levels(trend: Trend) -> list[float]:
    return np.geomspace(trend.law.lowest[0], trend.law.highest[0], LEVELS + 2)[1:-1].tolist()


def describe_bias(points: Sequence[Point], trend: Trend) -> str:
    """Describes how far a parabola over the sizes of the ladder misses the law's own least loss."""
    sizes = sorted({point.parameters for point in points if point.name == trend.name})
    if trend.sizes is None or len(sizes) < 3:
        return ""
    flops = math.sqrt(trend.law.lowest[0] * trend.law.highest[0])
    bias = find_parabola_bias(trend.sizes, sizes, flops, trend.per_token)
    text = f"{trend.name}: a parabola through losses of all sizes at {flops:.2g} FLOPs"
    if not math.isfinite(bias):
        return f"{text} would have no minimum."
    return f"{text} would put the best size at {bias:.2f} times the law's, by the law's shape alone."


def draw_ladder(points: Sequence[Point], trends: Sequence[Trend]) -> dict[str, Plot]:
    """Draws the figures of a ladder by name."""
    figures = {"loss_over_compute": draw_laws(collect_runs(points), trends)} if trends else {}
    sizes = {f"loss_over_parameters_{trend.name}": draw_sizes(points, trend) for trend in trends}
    return figures | {name: plot for name, plot in sizes.items() if plot is not None}


def write_ladder_page(folder: Path, study: Study, points: Sequence[Point], trends: Sequence[Trend]) -> None:
    """Writes report.html, summary.json, tables, trials.csv and figures of a ladder."""
    sentences = [f"<p><strong>{html.escape(describe_trend(trend))}</strong></p>" for trend in trends]
    figures = draw_ladder(points, trends)
    captions = {
        "loss_over_compute": "points are runs; lines end where the interval of the loss is 2 % of it to each side, or"
        " one span of the data beyond it; a dashed line is the 95 % interval of a crossing"
    }
    drawn = {
        name: add_caption(captions.get(name, name.rpartition("_")[2] + SIZES), plot) for name, plot in figures.items()
    }
    biases = "".join(f"<p>{html.escape(text)}</p>" for trend in trends if (text := describe_bias(points, trend)))
    rows = make_rows(points)
    sections = {
        "How losses go on": "".join(sentences) or "<p>Fewer than three sizes: no law is fitted.</p>",
        "Loss over compute": drawn.pop("loss_over_compute", ""),
        "Sizes at equal compute": f'{biases}<div class="curves">{"".join(drawn.values())}</div>' if drawn else "",
        "Sizes": add_caption(f"differences are from the {BASELINE} of the size", Table(COLUMNS, tuple(rows))),
        "Study": f"<pre>{html.escape(json.dumps(study.record(), indent=1))}</pre>",
    }
    write_report(folder, make_page(folder.name, sections.items()), record_ladder(points, trends))
    write_tables(folder, COLUMNS, rows)
    with explain_failed_writes(folder), (folder / "trials.csv").open("w", newline="", encoding="utf-8") as file:
        lines = [(name, *run) for name, runs in collect_runs(points).items() for run in runs]
        csv.writer(file, lineterminator="\n").writerows([("variant", *Run._fields), *lines])
    write_figures(folder, figures)
