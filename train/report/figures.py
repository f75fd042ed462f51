"""Figures of a report as files for a paper: SVG and PDF of a column's width, and their numbers as CSV.

Letters are outlines in SVG and embedded in PDF; series differ by colour and by marker, so that
a copy in grey is legible.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from train.charts import COLOURS, GREY, Chart, Matrix, Plot, Series, compute_share, format_tick, list_records, to_csv
from train.disk import explain_failed_writes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "figures"
WIDTH, HEIGHT, SQUARE = 3.35, 2.35, 3.0  # inches; a column of a page of two
MARKERS = ("o", "s", "^", "D", "v", "P")
LETTERS = 58  # of a line of the legend
SHADES = ("#ffffff", "#7b9ae2")  # of a matrix, from 0 to its full


def write_figures(folder: Path, figures: Mapping[str, Chart]) -> None:
    """Writes figures/NAME.svg, NAME.pdf and NAME.csv below a folder, and removes those of an earlier report."""
    target = folder / FOLDER
    with explain_failed_writes(folder):
        for old in target.glob("*"):
            if old.suffix in (".svg", ".pdf", ".csv") and old.stem not in figures:
                old.unlink()
        target.mkdir(exist_ok=True)
        for name, chart in figures.items():
            (target / f"{name}.csv").write_text(to_csv(*list_records(chart)), encoding="utf-8")
            with _use_style():
                figure = draw_figure(chart)
                figure.savefig(target / f"{name}.svg", metadata={"Date": None})
                figure.savefig(target / f"{name}.pdf", metadata={"CreationDate": None})


def _use_style() -> contextlib.AbstractContextManager[None]:
    """Gives the context in which matplotlib draws for a column of a paper."""
    import matplotlib as mpl

    return mpl.rc_context(
        {
            "font.size": 7,
            "axes.labelsize": 7,
            "xtick.labelsize": 6.5,
            "ytick.labelsize": 6.5,
            "legend.fontsize": 6.5,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.0,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "font.family": "DejaVu Sans",  # matplotlib ships it, so that figures look the same everywhere
            "text.parse_math": False,
            "pdf.fonttype": 42,  # TrueType, embedded
            "svg.fonttype": "path",
            "svg.hashsalt": "morphax",  # the same figure is the same file
        }
    )


def draw_figure(chart: Chart) -> "Figure":
    """Draws a chart by matplotlib, on white."""
    from matplotlib.figure import Figure

    height = SQUARE if isinstance(chart, Matrix) or chart.square else HEIGHT
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    if isinstance(chart, Matrix):
        _draw_cells(axes, chart)
    else:
        _draw_plot(figure, axes, chart)
    return figure


def _draw_plot(figure: "Figure", axes: "Axes", chart: Plot) -> None:
    for series in chart.series:
        _draw_series(axes, series)
    if any(series.name for series in chart.series):
        names = [series.name for series in chart.series if series.name]
        figure.legend(
            loc="outside upper left", frameon=False, ncols=_count_columns(names), columnspacing=1.2, handlelength=1.6
        )
    axes.grid(axis="y", color="#e3e6ea", linewidth=0.5)
    axes.ticklabel_format(useOffset=False, style="plain", axis="y")
    axes.xaxis.set_major_formatter(lambda tick, _: format_tick(float(f"{tick:.6g}")))
    if all(float(x).is_integer() for x, *_ in _list_points(chart)) and len({x for x, *_ in _list_points(chart)}) <= 30:
        axes.locator_params(axis="x", integer=True)
    if chart.title:
        axes.set_title(chart.title, fontsize=7)
    axes.set_xlabel(chart.across)
    axes.set_ylabel(chart.up)
    if chart.square:
        low, high = min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")


def _list_points(chart: Plot) -> Iterator[tuple[float, ...]]:
    return (point for series in chart.series for point in series.points)


def _count_columns(names: list[str]) -> int:
    longest = max(map(len, names)) + 5  # the symbol and the gap
    return max(1, min(len(names), LETTERS // longest))


def _draw_series(axes: "Axes", series: Series) -> None:
    colour = GREY if series.colour is None else COLOURS[series.colour % len(COLOURS)]
    marker = MARKERS[(series.colour or 0) % len(MARKERS)]
    label = series.name or None
    columns = list(zip(*series.points, strict=True))
    if not columns:
        return
    if series.look == "band":
        axes.fill_between(columns[0], columns[1], columns[2], color=colour, alpha=0.22, linewidth=0, label=label)
        return
    if series.look == "points":
        sizes = [4 + 60 * area for area in columns[2]] if len(columns) > 2 else [14.0] * len(columns[0])
        axes.scatter(
            columns[0], columns[1], s=sizes, c=colour, marker=marker, alpha=0.75, linewidths=0, label=label, zorder=3
        )
        return
    is_marked = series.look == "marked" or (len(series.points) == 1 and series.look != "dashed")
    axes.plot(
        columns[0],
        columns[1],
        color=colour,
        linewidth=1.1,
        linestyle="--" if series.look == "dashed" else "-",
        marker=marker if is_marked else None,
        markersize=2.6,
        label=label,
    )


def _draw_cells(axes: "Axes", chart: Matrix) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shares = [[compute_share(chart, cells, cell) for cell in cells] for cells in chart.cells]
    axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("heat", SHADES), vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(chart.columns)), chart.columns, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(chart.rows)), chart.rows)
    if len(chart.rows) * len(chart.columns) <= 400:
        for row, cells in enumerate(chart.cells):
            for column, cell in enumerate(cells):
                text = f"{cell:,.0f}" if chart.numbered else f"{cell:.2f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=6)
    axes.set_xlabel(chart.across)
    axes.set_ylabel(chart.up)
    axes.spines[:].set_visible(False)
