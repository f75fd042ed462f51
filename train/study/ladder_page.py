"""The table and the page of a ladder."""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rich.box
import rich.table
import rich.text

from train.charts import Plot, Series
from train.page import Table, add_caption
from train.report.html import make_page
from train.study.files import write_report
from train.study.ladder import Point, Trend, describe_trend, record_ladder
from train.variants import BASELINE, Study

COLUMNS = ("size", "variant", "width", "parameters", "tokens", "FLOPs", "loss", "difference", "verdict")
DRAWN = 40  # points of a fitted curve


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


def draw_laws(points: Sequence[Point], trends: Sequence[Trend]) -> Plot:
    """Draws losses over compute: runs as points, laws as lines up to their reach, their 95 % intervals as bands."""
    series: list[Series] = []
    for number, trend in enumerate(trends):
        grid = np.geomspace(trend.law.lowest[0], trend.reach, DRAWN).tolist()
        band = [(math.log10(flops), *trend.law.predict_interval(flops)) for flops in grid]
        line = [(math.log10(flops), trend.law.predict(flops)) for flops in grid]
        runs = [
            (math.log10(point.flops), loss)
            for point in points
            if point.name == trend.name
            for loss in point.result.losses
            if math.isfinite(loss)
        ]
        series += [
            Series("", tuple(band), "band", number),
            Series(trend.name, tuple(line), "line", number),
            Series("", tuple(runs), "points", number),
        ]
    return Plot(tuple(series), "log10 of training FLOPs", "held-out loss")


def write_ladder_page(folder: Path, study: Study, points: Sequence[Point], trends: Sequence[Trend]) -> None:
    """Writes report.html and summary.json of a ladder."""
    sentences = [f"<p><strong>{html.escape(describe_trend(trend))}</strong></p>" for trend in trends]
    sections = {
        "How losses go on": "".join(sentences) or "<p>Fewer than three sizes: no law is fitted.</p>",
        "Loss over compute": add_caption(
            "lines end where the interval of the loss is 2 % of it to each side, or one span of the data beyond it",
            draw_laws(points, trends),
        )
        if trends
        else "",
        "Sizes": add_caption(
            f"differences are from the {BASELINE} of the size", Table(COLUMNS, tuple(make_rows(points)))
        ),
        "Study": f"<pre>{html.escape(json.dumps(study.record(), indent=1))}</pre>",
    }
    write_report(folder, make_page(folder.name, sections.items()), record_ladder(points, trends))
