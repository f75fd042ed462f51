"""Charts as values, their numbers as CSV and their drawing as SVG in the colours of the page around it.

Colours are custom properties of CSS that a page may set (`--series-0`, `--heat`, `--rule`), each with a default.  Text
has the colour of the text around it, so a chart is legible on light and on dark pages.
"""

import base64
import csv
import dataclasses
import html
import io
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal
from urllib.parse import quote

COLOURS = ("#2f5fd0", "#b3401a", "#2c7a3f", "#7d4bb0", "#7c5a14", "#4d5661")  # legible as text on white
HEAT, RULE, GREY = "#2f5fd0", "#c9ced6", "#6b7280"
FAINTEST, DEEPEST = 0.05, 0.7  # opacities of shaded cells; text is legible on the deepest
WIDTH, HEIGHT, SQUARE = 360, 220, 320  # pixels of a plot at its natural size
TEXT, LETTER = 12, 6.6  # height of the text and mean width of a letter
MARGIN = 0.04  # of an axis, at each side of points
DRAWN = 500  # points of a line; more are thinned to their extremes
NUMBERED, NAMED = 20, 100  # most rows of a matrix whose cells show numbers, and whose sides have names
CELLS = 10_000  # most cells of a matrix that are drawn one by one

Point = tuple[float, ...]
Scale = Callable[[float], float]
Look = Literal["line", "marked", "dashed", "band", "points"]


@dataclasses.dataclass(frozen=True)
class Series:
    """Points (x, y) of a line, which may be marked; (x, low, high) of a band; (x, y) or (x, y, area) of points.

    An area is from 0 to 1.  `colour` is the number of a colour; None is grey.  A series without a name is not in the
    legend.
    """

    name: str
    points: tuple[Point, ...]
    look: Look = "line"
    colour: int | None = 0


@dataclasses.dataclass(frozen=True)
class Plot:
    """Series over the same axes, `across` and `up`; a square one has the same limits on both."""

    series: tuple[Series, ...]
    across: str = ""
    up: str = ""
    title: str = ""
    square: bool = False


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Cells (rows, columns) that are shaded by their share of `full`; of the sum of their row if it is None.

    With `numbered`, small matrices show the values of their cells, which are counts.
    """

    cells: tuple[tuple[float, ...], ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    across: str = ""
    up: str = ""
    title: str = ""
    full: float | None = 1.0
    numbered: bool = False


Chart = Plot | Matrix


def list_records(chart: Chart) -> tuple[list[str], list[list[str | float]]]:
    """Lists the numbers of a chart: names of columns, and rows; cells of a matrix that are 0 are left out."""
    if isinstance(chart, Matrix):
        rows: list[list[str | float]] = []
        for row, cells in zip(chart.rows, chart.cells, strict=True):
            rows += [[row, name, cell] for name, cell in zip(chart.columns, cells, strict=True) if cell]
        return [chart.up or "row", chart.across or "column", "value"], rows
    across, up = chart.across or "x", chart.up or "y"
    kinds = [name for look, name in (("band", "high"), ("points", "area")) if _has_third(chart, look)]
    points: list[list[str | float]] = []
    for series in chart.series:
        for x, y, *third in series.points:
            more = third[0] if third else ""
            kind = "high" if series.look == "band" else "area"
            points.append([series.name, x, y, *(more if name == kind else "" for name in kinds)])
    return ["series", across, up, *kinds], points


def _has_third(chart: Plot, look: str) -> bool:
    return any(series.look == look and any(len(point) > 2 for point in series.points) for series in chart.series)


def to_csv(columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """Converts a table to CSV; floats are written so that they read back unchanged."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def to_link(text: str) -> str:
    """Converts CSV to a data URL."""
    return f"data:text/csv;charset=utf-8,{quote(text)}"


def to_svg(chart: Chart, label: str = "") -> str:
    """Converts a chart to SVG inside HTML; `label` is its text for screen readers, in place of the title."""
    shown = dataclasses.replace(chart, up="") if chart.up == label else chart
    width, height, least, drawing = _draw_matrix(shown) if isinstance(shown, Matrix) else _draw_plot(shown)
    text = html.escape(label or chart.title or chart.up or "chart")
    title = ""
    if chart.title:
        x, anchor = (width / 2, "middle") if isinstance(chart, Plot) else (0, "start")
        title = _draw_text(x, -8, chart.title, anchor)
    top = 24 if chart.title else 0
    most = width if least else max(width, 1.4 * WIDTH)
    return (
        f'<svg viewBox="0 {-top} {width:.0f} {height + top:.0f}" role="img" aria-label="{text}" font-size="{TEXT}"'
        f' font-family="system-ui, sans-serif" style="width: 100%; max-width: {most:.0f}px; min-width: {least:.0f}px;'
        f' height: auto">{title}{drawing}</svg>'
    )


def css_colour(number: int | None) -> str:
    """Formats the CSS colour of a series by its number."""
    if number is None:
        return f"var(--series-none, {GREY})"
    number %= len(COLOURS)
    return f"var(--series-{number}, {COLOURS[number]})"


def choose_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Chooses about `most` round numbers (1, 2 or 5 times a power of ten apart) from low to high."""
    if not low < high:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    missing = (high - low) / most / step
    step *= 10 if missing >= 7 else 5 if missing >= 3.2 else 2 if missing >= 1.4 else 1
    return [count * step for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def format_tick(tick: float) -> str:
    """Formats a round number with its magnitude: 40M."""
    for least, size, letter in (
        (1e15, 1e15, "P"),
        (1e12, 1e12, "T"),
        (1e9, 1e9, "G"),
        (1e6, 1e6, "M"),
        (1e4, 1e3, "k"),
    ):
        if least <= abs(tick) < 1e18:
            return f"{tick / size:g}{letter}"
    return f"{tick:g}"


def truncate(text: str, most: int = 16) -> str:
    """Truncates a text to its first letters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _draw_text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="currentColor" text-anchor="{anchor}"{more}>{html.escape(text)}</text>'


def _measure_width(text: str) -> float:
    return LETTER * len(text)


def _draw_plot(chart: Plot) -> tuple[float, float, float, str]:
    """Draws a plot: width, height, least width in pixels, and SVG elements."""
    width, height = (SQUARE, SQUARE) if chart.square else (WIDTH, HEIGHT)
    points: list[Point] = []
    for series in chart.series:
        used = 3 if series.look == "band" else 2
        points += [point[:used] for point in series.points if all(map(math.isfinite, point[:used]))]
    if not points:
        return width, TEXT * 2, 0, _draw_text(0, TEXT, "no numbers")
    xs, ys = [point[0] for point in points], [y for point in points for y in point[1:]]
    (low_x, high_x), (low_y, high_y) = (min(xs), max(xs)), (min(ys), max(ys))
    if chart.square:
        low_x, high_x = low_y, high_y = min(low_x, low_y), max(high_x, high_y)
    if low_y == high_y:
        low_y, high_y = low_y - (abs(low_y) or 1) / 2, high_y + (abs(high_y) or 1) / 2
    if low_x == high_x:
        low_x, high_x = low_x - 1, high_x + 1
    elif not chart.square and any(series.look == "points" for series in chart.series):  # whole marks at the sides
        low_x, high_x = low_x - (high_x - low_x) * MARGIN, high_x + (high_x - low_x) * MARGIN
    below, beside = choose_ticks(low_x, high_x), choose_ticks(low_y, high_y)
    if all(float(x).is_integer() for x in xs):  # counts, such as seeds
        below = [tick for tick in below if float(tick).is_integer()]
    names = [format_tick(tick) for tick in beside]
    named = [series for series in chart.series if series.name]
    left = max(map(_measure_width, names)) + 12 + 18 * bool(chart.up)
    parts, lines = _draw_legend(named, left, width)
    top = 14 + 3 * bool(lines) + 17 * lines
    right, bottom = width - 14, height - 24 - 16 * bool(chart.across)

    def over(x: float) -> float:
        return left + (x - low_x) / (high_x - low_x) * (right - left)

    def down(y: float) -> float:
        return bottom - (y - low_y) / (high_y - low_y) * (bottom - top)

    rule = f'stroke="var(--rule, {RULE})" stroke-width="1"'
    for tick, name in zip(beside, names, strict=True):
        parts.append(f'<path d="M{left:.1f},{down(tick):.1f}H{right:.1f}" {rule}/>')
        parts.append(_draw_text(left - 6, down(tick) + 4, name, "end"))
    parts += [_draw_text(over(tick), bottom + 17, format_tick(tick), "middle") for tick in below]
    parts.append(f'<path d="M{left:.1f},{bottom:.1f}H{right:.1f}" stroke="currentColor" stroke-width="1"/>')
    for series in chart.series:
        parts += _draw_series(series, over, down)
    if chart.across:
        parts.append(_draw_text((left + right) / 2, height - 5, chart.across, "middle"))
    if chart.up:
        middle = (top + bottom) / 2
        parts.append(_draw_text(12, middle, chart.up, "middle", f' transform="rotate(-90 12 {middle:.1f})"'))
    return width, height, 0, "".join(parts)


def _draw_legend(named: Sequence[Series], left: float, width: float) -> tuple[list[str], int]:
    """Draws the names of series beside their symbols; also returns the number of lines."""
    parts: list[str] = []
    x, line = left, 0
    for series in named:
        name = truncate(series.name, max(int((width - left - 24) / LETTER), 4))
        if x > left and x + _measure_width(name) + 24 > width:
            x, line = left, line + 1
        y, paint = 10 + 17 * line, css_colour(series.colour)
        if series.look == "points":
            parts.append(f'<circle cx="{x + 7:.1f}" cy="{y}" r="4" fill="{paint}" fill-opacity="0.7"/>')
        else:
            look = ' stroke-dasharray="4 3"' if series.look == "dashed" else ""
            thick = '9" stroke-opacity="0.35' if series.look == "band" else "2"
            parts.append(f'<path d="M{x:.1f},{y}h14" stroke="{paint}" stroke-width="{thick}"{look}/>')
        parts.append(_draw_text(x + 19, y + 4, name))
        x += _measure_width(name) + 36
    return parts, (line + 1) * bool(named)


def _draw_series(series: Series, over: Scale, down: Scale) -> Iterator[str]:
    points = [point for point in series.points if all(map(math.isfinite, point))]
    paint = css_colour(series.colour)
    if series.look == "band":
        edge = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in reversed(points)]
        yield f'<polygon fill="{paint}" fill-opacity="0.25" points="{_format_points(edge, over, down)}"/>'
        return
    if series.look != "points":
        dashed = ' stroke-dasharray="4 3"' if series.look == "dashed" else ""
        line = f'fill="none" stroke="{paint}" stroke-width="1.8" stroke-linejoin="round"{dashed}'
        yield f'<polyline {line} points="{_format_points(thin(points), over, down)}"/>'
    for x, y, *area in points if series.look in ("points", "marked") or len(points) == 1 else ():
        radius = 2.5 if not area else 2 + 8 * math.sqrt(area[0])
        faint = ' fill-opacity="0.7"' if area or series.look == "points" else ""
        yield f'<circle cx="{over(x):.1f}" cy="{down(y):.1f}" r="{radius:.1f}" fill="{paint}"{faint}/>'


def _format_points(points: Sequence[Point], over: Scale, down: Scale) -> str:
    return " ".join(f"{over(x):.1f},{down(y):.1f}" for x, y, *_ in points)


def thin(points: Sequence[Point], most: int = DRAWN) -> Sequence[Point]:
    """Thins a long line to the lowest and the highest point of each of many parts, and its ends."""
    if len(points) <= most:
        return points
    size = -(-len(points) // (most // 2))
    kept: list[Point] = [points[0]]
    for first in range(0, len(points), size):
        part = points[first : first + size]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return [*kept, points[-1]]


def _draw_matrix(chart: Matrix) -> tuple[float, float, float, str]:
    """Draws a matrix: width, height, least width in pixels, and SVG elements."""
    rows, columns = len(chart.rows), len(chart.columns)
    words = [f"{cell:,.0f}" for cells in chart.cells for cell in cells]
    numbered = chart.numbered and max(rows, columns) <= NUMBERED
    named = max(rows, columns) <= NAMED
    size = 16.0 if named else max(WIDTH / max(rows, columns, 1), 0.5)
    if numbered:
        size = max(30.0, max(map(_measure_width, words), default=0) + 10)
    beside = max((_measure_width(truncate(name)) for name in chart.rows), default=0) + 10 if named else 4.0
    above = max((_measure_width(truncate(name)) for name in chart.columns), default=0) + 4 if named else 4.0
    tilted = named and above + 6 > size
    left = beside + 18 * bool(chart.up)
    top = (0.71 * above + 12 if tilted else 20.0 * named) + 18 * bool(chart.across)
    parts = []
    if rows * columns > CELLS:
        parts.append(_draw_raster(chart, left, top, size))
    else:
        for row, cells in enumerate(chart.cells):
            for column, cell in enumerate(cells):
                x, y = left + column * size, top + row * size
                shade = FAINTEST + (DEEPEST - FAINTEST) * compute_share(chart, cells, cell)
                if cell:
                    box = f'x="{x:.1f}" y="{y:.1f}" width="{size:.1f}" height="{size:.1f}"'
                    parts.append(f'<rect {box} fill="var(--heat, {HEAT})" fill-opacity="{shade:.3f}"/>')
                if numbered and cell:
                    parts.append(_draw_text(x + size / 2, y + size / 2 + 4, f"{cell:,.0f}", "middle"))
    if named:
        for row, name in enumerate(chart.rows):
            parts.append(_draw_text(left - 6, top + (row + 0.5) * size + 4, truncate(name), "end"))
        for column, name in enumerate(chart.columns):
            x, y = left + (column + 0.5) * size, top - 6
            turn = f' transform="rotate(-45 {x:.1f} {y:.1f})"' if tilted else ""
            parts.append(_draw_text(x, y, truncate(name), "start" if tilted else "middle", turn))
    frame = f'x="{left:.1f}" y="{top:.1f}" width="{columns * size:.1f}" height="{rows * size:.1f}"'
    parts.append(f'<rect {frame} fill="none" stroke="var(--rule, {RULE})"/>')
    if chart.across:
        parts.append(_draw_text(left + columns * size / 2, 12, chart.across, "middle"))
    if chart.up:
        middle = top + rows * size / 2
        parts.append(_draw_text(12, middle, chart.up, "middle", f' transform="rotate(-90 12 {middle:.1f})"'))
    width = left + columns * size + (0.71 * above if tilted else 2)
    return width, top + rows * size + 2, 0.85 * width if width > WIDTH else 0.6 * width, "".join(parts)


def compute_share(chart: Matrix, cells: Sequence[float], cell: float) -> float:
    """Computes a cell's share of `full`, or of its row, from 0 to 1."""
    full = sum(cells) if chart.full is None else chart.full
    return min(max(cell / full, 0), 1) if full and math.isfinite(cell) else 0.0


def _draw_raster(chart: Matrix, left: float, top: float, size: float) -> str:
    """Draws the cells of a very large matrix as the pixels of an image."""
    from PIL import Image

    image = Image.new("RGBA", (len(chart.columns), len(chart.rows)))
    rgb = tuple(bytes.fromhex(HEAT[1:]))
    shares = [compute_share(chart, cells, cell) for cells in chart.cells for cell in cells]
    image.putdata([(*rgb, round(255 * DEEPEST * share**0.5)) for share in shares])
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True)
    width, height = len(chart.columns) * size, len(chart.rows) * size
    box = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    return f'<image {box} preserveAspectRatio="none" style="image-rendering: pixelated" href="{source}"/>'
