"""Pieces of a page as values: pictures, charts, tables, sentences, shaded text; their HTML is made here alone."""

import base64
import dataclasses
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from train.charts import Chart, Matrix, Plot, Series, link, records, to_csv, to_svg

DARKEST = 0.6  # opacity of the darkest shade of a word, on which it is still legible
PANELS = "display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr))"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture as the bytes of its file, `height` pixels high unless it is None; `alternative` is its text."""

    data: bytes
    kind: Literal["png", "gif"] = "png"
    height: int | None = None
    alternative: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("png", "gif") or not isinstance(self.height, int | None):
            raise ValueError(f"a figure has kind {self.kind!r} and height {self.height!r}; give png or gif, and pixels")


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of plain text and figures below the names of their columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | Figure, ...], ...]


@dataclasses.dataclass(frozen=True)
class Sentence:
    """Plain text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Shaded:
    """Lines of words, each with a number by which it is shaded, from 0 to `full`; None for a word without one."""

    lines: tuple[tuple[tuple[str, float | None], ...], ...]
    unit: str
    full: float = 1.0


@dataclasses.dataclass(frozen=True)
class Panels:
    """Charts of a kind beside each other, as many as there is room for."""

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
NESTED = (Figure, Plot, Matrix, Series)


def to_html(piece: Piece, caption: str = "") -> str:
    """A piece as HTML that needs nothing else; what is drawn is called by the caption unless it says what it is."""
    match piece:
        case Figure(data, kind, height, alternative):
            style = "max-width: 100%" if height is None else f"height: {height}px; image-rendering: auto"
            source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            return f'<img alt="{html.escape(alternative or caption)}" style="{style}" src="{source}">'
        case Table(columns, rows):
            head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
            body = "".join(f"<tr>{_cells(columns, row, number)}</tr>" for number, row in enumerate(rows, 1))
            return f'<div style="overflow-x: auto"><table><tr>{head}</tr>{body}</table></div>'
        case Sentence(text):
            return html.escape(text)
        case Shaded(lines, unit, full):
            texts = ("".join(_shaded(word, amount, unit, full) for word, amount in line) for line in lines)
            return "".join(f'<pre style="white-space: pre-wrap">{text}</pre>' for text in texts)
        case Panels(charts):
            inside = "".join(_scrolled(to_svg(chart, chart.title and f"{caption}: {chart.title}")) for chart in charts)
            return f'<div style="{PANELS}">{inside}</div>'
        case Plot() | Matrix():
            return _scrolled(to_svg(piece, piece.title or caption))


def _scrolled(svg: str) -> str:
    return f'<div style="overflow-x: auto">{svg}</div>'


def data_of(piece: Piece) -> str | None:
    """The numbers of a piece as CSV; None for one that has none."""
    if isinstance(piece, Panels) and piece.charts:
        tables = [records(chart) for chart in piece.charts]
        rows = [[chart.title, *row] for chart, (_, own) in zip(piece.charts, tables, strict=True) for row in own]
        return to_csv(["panel", *tables[0][0]], rows)
    if isinstance(piece, Plot | Matrix):
        return to_csv(*records(piece))
    if isinstance(piece, Table) and all(isinstance(cell, str) for row in piece.rows for cell in row):
        return to_csv(piece.columns, [[cell for cell in row if isinstance(cell, str)] for row in piece.rows])
    return None


def captioned(caption: str, piece: Piece) -> str:
    """A piece with its caption, and its numbers to download."""
    data = data_of(piece)
    name = "".join(letter if letter.isalnum() else "-" for letter in caption.partition(":")[0].lower())[:60].strip("-")
    said = html.escape(caption)
    given = f' <a href="{link(data)}" download="{name}.csv" aria-label="Numbers of: {said}">CSV</a>' if data else ""
    return f"<figure><figcaption>{said}{given}</figcaption>{to_html(piece, caption)}</figure>"


def _cells(columns: Sequence[str], row: Sequence[str | Figure], number: int) -> str:
    """Cells of a row, whose pictures are called by their column and the number of the row."""
    shown = (
        html.escape(cell) if isinstance(cell, str) else to_html(cell, f"{column} {number}")
        for column, cell in zip(columns, row, strict=False)
    )
    return "".join(f"<td>{cell}</td>" for cell in shown)


def _shaded(word: str, amount: float | None, unit: str, full: float) -> str:
    if amount is None:
        return html.escape(word)
    style = f"background: rgb(208 84 44 / {DARKEST * min(max(amount / full, 0), 1):.2f})"
    return f'<span title="{amount:.2f} {html.escape(unit)}" style="{style}">{html.escape(word)}</span>'


def to_json(piece: Piece | Series) -> dict[str, Any]:
    """A piece as JSON values, for `from_json`."""
    kind = next(name for name, owner in KINDS.items() if isinstance(piece, owner))
    values = {field.name: _encoded(getattr(piece, field.name)) for field in dataclasses.fields(piece)}
    return {"piece": kind, **values}


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple):
        return [_encoded(item) for item in value]
    return to_json(value) if isinstance(value, NESTED) else value


def from_json(values: Mapping[str, Any]) -> Piece:
    """The piece that `to_json` wrote.  Raises ValueError or LookupError for anything else."""
    piece = _built(values)
    if isinstance(piece, Series):
        raise ValueError("a series is a part of a plot")
    return piece


def _built(values: Mapping[str, Any]) -> Any:
    fields = {name: _decoded(value) for name, value in values.items() if name != "piece"}
    if "data" in fields:
        fields["data"] = base64.b64decode(fields["data"])
    try:
        return KINDS[values["piece"]](**fields)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(item) for item in value)
    return _built(value) if isinstance(value, dict) else value


def drawn(figure: Any) -> Figure:
    """A figure of matplotlib."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=144, bbox_inches="tight")
    return Figure(data.getvalue())


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Figure]]) -> Table:
    """A table of any sequences."""
    return Table(tuple(columns), tuple(tuple(row) for row in rows))
