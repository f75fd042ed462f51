"""Pieces of a page as values: images, charts, tables, sentences, shaded text; their HTML is made here alone."""

import base64
import dataclasses
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from train.charts import Chart, Matrix, Plot, Series, list_records, to_csv, to_link, to_svg
from train.errors import Json

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

DARKEST = 0.6  # opacity of the darkest shade on which a word is legible
PANELS = "display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr))"


@dataclasses.dataclass(frozen=True)
class Figure:
    """An image as the bytes of its file, `height` pixels high unless that is None; `alternative` is its alt text."""

    data: bytes
    kind: Literal["png", "gif"] = "png"
    height: int | None = None
    alternative: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("png", "gif") or not isinstance(self.height, int | None):
            raise ValueError(f"a figure has kind {self.kind!r} and height {self.height!r}; give png or gif, and pixels")


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of plain text and figures, below the names of columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | Figure, ...], ...]


@dataclasses.dataclass(frozen=True)
class Sentence:
    """Plain text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Shaded:
    """Lines of words, each shaded by its number up to `full` to both sides of 0, or not shaded if that is None."""

    lines: tuple[tuple[tuple[str, float | None], ...], ...]
    unit: str
    full: float = 1.0


@dataclasses.dataclass(frozen=True)
class Panels:
    """Charts of one kind beside each other, as many in a row as fit."""

    charts: tuple[Chart, ...]


Piece = Figure | Table | Sentence | Shaded | Panels | Chart
KINDS: dict[str, type] = {
    "figure": Figure,
    "table": Table,
    "sentence": Sentence,
    "shaded": Shaded,
    "panels": Panels,
    "plot": Plot,
    "matrix": Matrix,
    "series": Series,  # a part of a plot
}


def to_html(piece: Piece, caption: str = "") -> str:
    """Converts a piece to self-contained HTML; the caption is the alt text of a figure or chart that has none."""
    match piece:
        case Figure(data, kind, height, alternative):
            style = "max-width: 100%" if height is None else f"height: {height}px; image-rendering: auto"
            source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            return f'<img alt="{html.escape(alternative or caption)}" style="{style}" src="{source}">'
        case Table(columns, rows):
            head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
            body = "".join(f"<tr>{_format_cells(columns, row, number)}</tr>" for number, row in enumerate(rows, 1))
            return f'<div style="overflow-x: auto"><table><tr>{head}</tr>{body}</table></div>'
        case Sentence(text):
            return html.escape(text)
        case Shaded(lines, unit, full):
            texts = ("".join(_format_word(word, amount, unit, full) for word, amount in line) for line in lines)
            return "".join(f'<pre style="white-space: pre-wrap">{text}</pre>' for text in texts)
        case Panels(charts):
            drawings = (to_svg(chart, chart.title and f"{caption}: {chart.title}") for chart in charts)
            return f'<div style="{PANELS}">{"".join(map(_wrap_scrolling, drawings))}</div>'
        case Plot() | Matrix():
            return _wrap_scrolling(to_svg(piece, piece.title or caption))


def _wrap_scrolling(svg: str) -> str:
    return f'<div style="overflow-x: auto">{svg}</div>'


def to_data(piece: Piece) -> str | None:
    """Converts the numbers of a piece to CSV; None if it has none."""
    if isinstance(piece, Panels) and piece.charts:
        tables = [list_records(chart) for chart in piece.charts]
        rows = [
            [chart.title, *row] for chart, (_, records) in zip(piece.charts, tables, strict=True) for row in records
        ]
        return to_csv(["panel", *tables[0][0]], rows)
    if isinstance(piece, Plot | Matrix):
        return to_csv(*list_records(piece))
    if isinstance(piece, Table) and all(isinstance(cell, str) for row in piece.rows for cell in row):
        return to_csv(piece.columns, [[cell for cell in row if isinstance(cell, str)] for row in piece.rows])
    return None


def add_caption(caption: str, piece: Piece) -> str:
    """Adds a caption to a piece's HTML, and a link to download its numbers."""
    data = to_data(piece)
    name = "".join(letter if letter.isalnum() else "-" for letter in caption.partition(":")[0].lower())[:60].strip("-")
    text = html.escape(caption)
    link = f' <a href="{to_link(data)}" download="{name}.csv" aria-label="Numbers of: {text}">CSV</a>' if data else ""
    return f"<figure><figcaption>{text}{link}</figcaption>{to_html(piece, caption)}</figure>"


def _format_cells(columns: Sequence[str], row: Sequence[str | Figure], number: int) -> str:
    """Formats the cells of a row; the alt text of a figure is its column and the number of the row."""
    shown = (
        escape_cell(cell) if isinstance(cell, str) else to_html(cell, f"{column} {number}")
        for column, cell in zip(columns, row, strict=False)
    )
    return "".join(f"<td>{cell}</td>" for cell in shown)


def escape_cell(text: str) -> str:
    """Escapes a cell of a table for HTML, with a number and its interval on one line."""
    return html.escape(text).replace(" ± ", "&nbsp;±&nbsp;")


def _format_word(word: str, amount: float | None, unit: str, full: float) -> str:
    if amount is None:
        return html.escape(word)
    colour = "208 84 44" if amount >= 0 else "47 95 208"
    style = f"background: rgb({colour} / {DARKEST * min(abs(amount) / full, 1):.2f})"
    return f'<span title="{amount:.2f} {html.escape(unit)}" style="{style}">{html.escape(word)}</span>'


def to_json(piece: Piece | Series) -> dict[str, Json]:
    """Converts a piece to JSON values, for `from_json`."""
    kind = next(name for name, owner in KINDS.items() if isinstance(piece, owner))
    values = {field.name: _encode(getattr(piece, field.name)) for field in dataclasses.fields(piece)}
    return {"piece": kind, **values}


def _encode(value: object) -> Json:
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case tuple() | list():
            return [_encode(item) for item in value]
        case Figure() | Plot() | Matrix() | Series():
            return to_json(value)
        case str() | int() | float() | None:
            return value
        case _:
            raise TypeError(f"a piece holds no {type(value).__name__}")


def from_json(values: Mapping[str, Json]) -> Piece:
    """Reads the piece that `to_json` wrote.  Raises ValueError or LookupError for anything else."""
    piece = _build(values)
    if not isinstance(piece, Piece):
        raise ValueError("a series is a part of a plot")
    return piece


def _build(values: Mapping[str, Json]) -> object:
    fields = {name: _decode(value) for name, value in values.items() if name != "piece"}
    if "data" in fields:
        fields["data"] = base64.b64decode(str(fields["data"]))
    try:
        return KINDS[str(values["piece"])](**fields)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _decode(value: Json) -> object:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    return _build(value) if isinstance(value, dict) else value


def to_figure(figure: "Canvas") -> Figure:
    """Converts a figure of matplotlib."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=144, bbox_inches="tight")
    return Figure(data.getvalue())


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str | Figure]]) -> Table:
    """Makes a table of any sequences."""
    return Table(tuple(columns), tuple(tuple(row) for row in rows))
