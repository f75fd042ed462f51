"""Pieces of a page as values: figures, tables, sentences, shaded text; their HTML is made here alone."""

import base64
import dataclasses
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture as the bytes of its file, `height` pixels high unless it is None; `alternative` is its text."""

    data: bytes
    kind: Literal["png", "gif"] = "png"
    height: int | None = None
    alternative: str = ""


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


Piece = Figure | Table | Sentence | Shaded
KINDS: dict[str, type] = {"figure": Figure, "table": Table, "sentence": Sentence, "shaded": Shaded}


def to_html(piece: Piece) -> str:
    """A piece as HTML that needs nothing else."""
    match piece:
        case Figure(data, kind, height, alternative):
            style = "max-width: 100%" if height is None else f"height: {height}px; image-rendering: auto"
            source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            return f'<img alt="{html.escape(alternative)}" style="{style}" src="{source}">'
        case Table(columns, rows):
            head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
            body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            return f"<table><tr>{head}</tr>{body}</table>"
        case Sentence(text):
            return html.escape(text)
        case Shaded(lines, unit, full):
            texts = ("".join(_shaded(word, amount, unit, full) for word, amount in line) for line in lines)
            return "".join(f"<pre>{text}</pre>" for text in texts)


def _cell(cell: str | Figure) -> str:
    return html.escape(cell) if isinstance(cell, str) else to_html(cell)


def _shaded(word: str, amount: float | None, unit: str, full: float) -> str:
    if amount is None:
        return html.escape(word)
    style = f"background: rgb(208 84 44 / {min(amount / full, 1):.2f})"
    return f'<span title="{amount:.2f} {unit}" style="{style}">{html.escape(word)}</span>'


def to_json(piece: Piece) -> dict[str, Any]:
    """A piece as JSON values, for `from_json`."""
    kind = next(name for name, owner in KINDS.items() if isinstance(piece, owner))
    values = {field.name: _encoded(getattr(piece, field.name)) for field in dataclasses.fields(piece)}
    return {"piece": kind, **values}


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple):
        return [_encoded(item) for item in value]
    return to_json(value) if isinstance(value, Figure) else value


def from_json(values: Mapping[str, Any]) -> Piece:
    """The piece that `to_json` wrote.  Raises ValueError or LookupError for anything else."""
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
    return from_json(value) if isinstance(value, dict) else value


def drawn(figure: Any) -> Figure:
    """A figure of matplotlib."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=144, bbox_inches="tight")
    return Figure(data.getvalue())


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Figure]]) -> Table:
    """A table of any sequences."""
    return Table(tuple(columns), tuple(tuple(row) for row in rows))
