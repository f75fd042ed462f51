"""Charts as values, their numbers as CSV and their drawing as SVG, which takes the colours of the page around it.

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
FAINTEST, DEEPEST = 0.05, 0.7  # opacities of shades of cells; on the deepest text is still legible
WIDTH, HEIGHT, SQUARE = 360, 220, 320  # units of a plot, which are pixels at its natural size
TEXT, LETTER = 12, 6.6  # height of the text and mean width of a letter
DRAWN = 500  # points of a line, of which more are thinned to their extremes
NUMBERED, NAMED = 20, 100  # rows of a matrix whose cells show numbers, and whose sides have names
CELLS = 10_000  # of a matrix that are drawn one by one

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


def records(chart: Chart) -> tuple[list[str], list[list[str | float]]]:
    """Names of columns, and the numbers of a chart in rows; cells of a matrix that are 0 are left out."""
    if isinstance(chart, Matrix):
        rows: list[list[str | float]] = []
        for row, cells in zip(chart.rows, chart.cells, strict=True):
            rows += [[row, name, cell] for name, cell in zip(chart.columns, cells, strict=True) if cell]
        return [chart.up or "row", chart.across or "column", "value"], rows
    across, up = chart.across or "x", chart.up or "y"
    kinds = [name for look, name in (("band", "high"), ("points", "area")) if _has(chart, look)]
    found: list[list[str | float]] = []
    for series in chart.series:
        for x, y, *third in series.points:
            more = third[0] if third else ""
            kind = "high" if series.look == "band" else "area"
            found.append([series.name, x, y, *(more if name == kind else "" for name in kinds)])
    return ["series", across, up, *kinds], found


def _has(chart: Plot, look: str) -> bool:
    return any(series.look == look and any(len(point) > 2 for point in series.points) for series in chart.series)


def to_csv(columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """A table as CSV; floats are written so that they read back as they were."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def link(text: str) -> str:
    """CSV as an address that holds it."""
    return f"data:text/csv;charset=utf-8,{quote(text)}"


def to_svg(chart: Chart, label: str = "") -> str:
    """A chart as SVG inside HTML; `label` says what it shows to who does not see it, in place of the title."""
    shown = dataclasses.replace(chart, up="") if chart.up == label else chart
    width, height, least, drawn = _matrix(shown) if isinstance(shown, Matrix) else _plot(shown)
    said = html.escape(label or chart.title or chart.up or "chart")
    title = ""
    if chart.title:
        x, anchor = (width / 2, "middle") if isinstance(chart, Plot) else (0, "start")
        title = _text(x, -8, chart.title, anchor)
    top = 24 if chart.title else 0
    most = width if least else max(width, 1.4 * WIDTH)
    return (
        f'<svg viewBox="0 {-top} {width:.0f} {height + top:.0f}" role="img" aria-label="{said}" font-size="{TEXT}"'
        f' font-family="system-ui, sans-serif" style="width: 100%; max-width: {most:.0f}px; min-width: {least:.0f}px;'
        f' height: auto">{title}{drawn}</svg>'
    )


def colour(number: int | None) -> str:
    """A colour of a series by its number."""
    if number is None:
        return f"var(--series-none, {GREY})"
    number %= len(COLOURS)
    return f"var(--series-{number}, {COLOURS[number]})"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from low to high, about `most` of them."""
    if not low < high:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    missing = (high - low) / most / step
    step *= 10 if missing >= 7 else 5 if missing >= 3.2 else 2 if missing >= 1.4 else 1
    return [place * step for place in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(tick: float) -> str:
    """A round number with its magnitude: 40M."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if least <= abs(tick) < 1e12:
            return f"{tick / size:g}{letter}"
    return f"{tick:g}"


def short(text: str, most: int = 16) -> str:
    """A text cut to its first letters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="currentColor" text-anchor="{anchor}"{more}>{html.escape(text)}</text>'


def _wide(text: str) -> float:
    return LETTER * len(text)


def _plot(chart: Plot) -> tuple[float, float, float, str]:
    """Width, height, least width in pixels, and what is drawn."""
    width, height = (SQUARE, SQUARE) if chart.square else (WIDTH, HEIGHT)
    points: list[Point] = []
    for series in chart.series:
        used = 3 if series.look == "band" else 2
        points += [point[:used] for point in series.points if all(map(math.isfinite, point[:used]))]
    if not points:
        return width, TEXT * 2, 0, _text(0, TEXT, "no numbers")
    xs, ys = [point[0] for point in points], [y for point in points for y in point[1:]]
    (low_x, high_x), (low_y, high_y) = (min(xs), max(xs)), (min(ys), max(ys))
    if chart.square:
        low_x, high_x = low_y, high_y = min(low_x, low_y), max(high_x, high_y)
    if low_y == high_y:
        low_y, high_y = low_y - (abs(low_y) or 1) / 2, high_y + (abs(high_y) or 1) / 2
    if low_x == high_x:
        low_x, high_x = low_x - 1, high_x + 1
    below, beside = ticks(low_x, high_x), ticks(low_y, high_y)
    names = [_number(tick) for tick in beside]
    named = [series for series in chart.series if series.name]
    left = max(map(_wide, names)) + 12 + 18 * bool(chart.up)
    parts, lines = _legend(named, left, width)
    top = 14 + 3 * bool(lines) + 17 * lines
    right, bottom = width - 14, height - 24 - 16 * bool(chart.across)

    def over(x: float) -> float:
        return left + (x - low_x) / (high_x - low_x) * (right - left)

    def down(y: float) -> float:
        return bottom - (y - low_y) / (high_y - low_y) * (bottom - top)

    rule = f'stroke="var(--rule, {RULE})" stroke-width="1"'
    for tick, name in zip(beside, names, strict=True):
        parts.append(f'<path d="M{left:.1f},{down(tick):.1f}H{right:.1f}" {rule}/>')
        parts.append(_text(left - 6, down(tick) + 4, name, "end"))
    parts += [_text(over(tick), bottom + 17, _number(tick), "middle") for tick in below]
    parts.append(f'<path d="M{left:.1f},{bottom:.1f}H{right:.1f}" stroke="currentColor" stroke-width="1"/>')
    for series in chart.series:
        parts += _drawn(series, over, down)
    if chart.across:
        parts.append(_text((left + right) / 2, height - 5, chart.across, "middle"))
    if chart.up:
        middle = (top + bottom) / 2
        parts.append(_text(12, middle, chart.up, "middle", f' transform="rotate(-90 12 {middle:.1f})"'))
    return width, height, 0, "".join(parts)


def _legend(named: Sequence[Series], left: float, width: float) -> tuple[list[str], int]:
    """Names of series beside what they are drawn with, and the number of lines that these need."""
    parts: list[str] = []
    x, line = left, 0
    for series in named:
        name = short(series.name, max(int((width - left - 24) / LETTER), 4))
        if x > left and x + _wide(name) + 24 > width:
            x, line = left, line + 1
        y, paint = 10 + 17 * line, colour(series.colour)
        if series.look == "points":
            parts.append(f'<circle cx="{x + 7:.1f}" cy="{y}" r="4" fill="{paint}" fill-opacity="0.7"/>')
        else:
            look = ' stroke-dasharray="4 3"' if series.look == "dashed" else ""
            thick = '9" stroke-opacity="0.35' if series.look == "band" else "2"
            parts.append(f'<path d="M{x:.1f},{y}h14" stroke="{paint}" stroke-width="{thick}"{look}/>')
        parts.append(_text(x + 19, y + 4, name))
        x += _wide(name) + 36
    return parts, (line + 1) * bool(named)


def _drawn(series: Series, over: Scale, down: Scale) -> Iterator[str]:
    points = [point for point in series.points if all(map(math.isfinite, point))]
    paint = colour(series.colour)
    if series.look == "band":
        edge = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in reversed(points)]
        yield f'<polygon fill="{paint}" fill-opacity="0.25" points="{_places(edge, over, down)}"/>'
        return
    if series.look != "points":
        dashed = ' stroke-dasharray="4 3"' if series.look == "dashed" else ""
        line = f'fill="none" stroke="{paint}" stroke-width="1.8" stroke-linejoin="round"{dashed}'
        yield f'<polyline {line} points="{_places(thinned(points), over, down)}"/>'
    for x, y, *area in points if series.look in ("points", "marked") or len(points) == 1 else ():
        radius = 2.5 if not area else 2 + 8 * math.sqrt(area[0])
        faint = ' fill-opacity="0.7"' if area or series.look == "points" else ""
        yield f'<circle cx="{over(x):.1f}" cy="{down(y):.1f}" r="{radius:.1f}" fill="{paint}"{faint}/>'


def _places(points: Sequence[Point], over: Scale, down: Scale) -> str:
    return " ".join(f"{over(x):.1f},{down(y):.1f}" for x, y, *_ in points)


def thinned(points: Sequence[Point], most: int = DRAWN) -> Sequence[Point]:
    """The lowest and the highest point of each of many stretches of a long line, and its ends."""
    if len(points) <= most:
        return points
    size = -(-len(points) // (most // 2))
    kept: list[Point] = [points[0]]
    for first in range(0, len(points), size):
        part = points[first : first + size]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return [*kept, points[-1]]


def _matrix(chart: Matrix) -> tuple[float, float, float, str]:
    """Width, height, least width in pixels, and what is drawn."""
    rows, columns = len(chart.rows), len(chart.columns)
    words = [f"{cell:,.0f}" for cells in chart.cells for cell in cells]
    numbered = chart.numbered and max(rows, columns) <= NUMBERED
    named = max(rows, columns) <= NAMED
    size = 16.0 if named else max(WIDTH / max(rows, columns, 1), 0.5)
    if numbered:
        size = max(30.0, max(map(_wide, words), default=0) + 10)
    beside = max((_wide(short(name)) for name in chart.rows), default=0) + 10 if named else 4.0
    above = max((_wide(short(name)) for name in chart.columns), default=0) + 4 if named else 4.0
    tilted = named and above + 6 > size
    left, top = beside + 18 * bool(chart.up), (0.71 * above + 12 if tilted else 20.0 * named) + 18 * bool(chart.across)
    parts = []
    if rows * columns > CELLS:
        parts.append(_raster(chart, left, top, size))
    else:
        for row, cells in enumerate(chart.cells):
            for column, cell in enumerate(cells):
                x, y = left + column * size, top + row * size
                shade = FAINTEST + (DEEPEST - FAINTEST) * share(chart, cells, cell)
                if cell:
                    place = f'x="{x:.1f}" y="{y:.1f}" width="{size:.1f}" height="{size:.1f}"'
                    parts.append(f'<rect {place} fill="var(--heat, {HEAT})" fill-opacity="{shade:.3f}"/>')
                if numbered and cell:
                    parts.append(_text(x + size / 2, y + size / 2 + 4, f"{cell:,.0f}", "middle"))
    if named:
        for row, name in enumerate(chart.rows):
            parts.append(_text(left - 6, top + (row + 0.5) * size + 4, short(name), "end"))
        for column, name in enumerate(chart.columns):
            x, y = left + (column + 0.5) * size, top - 6
            turn = f' transform="rotate(-45 {x:.1f} {y:.1f})"' if tilted else ""
            parts.append(_text(x, y, short(name), "start" if tilted else "middle", turn))
    frame = f'x="{left:.1f}" y="{top:.1f}" width="{columns * size:.1f}" height="{rows * size:.1f}"'
    parts.append(f'<rect {frame} fill="none" stroke="var(--rule, {RULE})"/>')
    if chart.across:
        parts.append(_text(left + columns * size / 2, 12, chart.across, "middle"))
    if chart.up:
        middle = top + rows * size / 2
        parts.append(_text(12, middle, chart.up, "middle", f' transform="rotate(-90 12 {middle:.1f})"'))
    width = left + columns * size + (0.71 * above if tilted else 2)
    return width, top + rows * size + 2, 0.85 * width if width > WIDTH else 0.6 * width, "".join(parts)


def share(chart: Matrix, cells: Sequence[float], cell: float) -> float:
    """A cell's share of what is full, from 0 to 1."""
    full = sum(cells) if chart.full is None else chart.full
    return min(max(cell / full, 0), 1) if full and math.isfinite(cell) else 0.0


def _raster(chart: Matrix, left: float, top: float, size: float) -> str:
    """Cells as a picture of as many pixels, for a matrix of very many."""
    from PIL import Image

    picture = Image.new("RGBA", (len(chart.columns), len(chart.rows)))
    rgb = tuple(bytes.fromhex(HEAT[1:]))
    shades = [round(255 * DEEPEST * share(chart, cells, cell) ** 0.5) for cells in chart.cells for cell in cells]
    picture.putdata([(*rgb, shade) for shade in shades])
    data = io.BytesIO()
    picture.save(data, format="PNG", optimize=True)
    width, height = len(chart.columns) * size, len(chart.rows) * size
    place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    return f'<image {place} preserveAspectRatio="none" style="image-rendering: pixelated" href="{source}"/>'
