"""Pieces of a page: their HTML, and what is kept of a review reads back as it was."""

import csv
import io
import json
import re

import pytest

from train.charts import Matrix, Plot, Series
from train.page import Figure, Panels, Piece, Sentence, Shaded, Table, from_json, to_data, to_html, to_json

FIGURE = Figure(b"\x89PNG", height=64, alternative='a "dog"')
SHADE = "background: rgb(208 84 44 / 0.30)"  # half of the darkest
PETS = ("cat", "<dog>")
MATRIX = Matrix(((3.0, 0.0), (1.0, 2.0)), PETS, PETS, "predicted", "true", full=None, numbered=True)
PIECES: dict[str, Piece] = {
    "figure": FIGURE,
    "film": Figure(b"GIF89a", "gif"),
    "table": Table(("example", "<true>"), (("a & b", "dog"), (FIGURE, "cat"))),
    "sentence": Sentence("1 < 2"),
    "plot": Plot((Series("a<b", ((1.0, 2.0), (3.0, 4.0))),), "step", "loss"),
    "matrix": MATRIX,
    "panels": Panels((MATRIX, MATRIX)),
    "shaded": Shaded(((("a<", None), (" b", 3.0), (" c", 9.0)),), unit="nats", full=6.0),
}
HTML = {
    "figure": '<img alt="a &quot;dog&quot;" style="height: 64px; image-rendering: auto"',
    "film": '<img alt="a run" style="max-width: 100%" src="data:image/gif;base64,R0lGODlh">',
    "table": (
        '<div style="overflow-x: auto"><table><tr><th scope="col">example</th><th scope="col">&lt;true&gt;</th></tr>'
        "<tr><td>a &amp; b</td><td>dog</td>"
    ),
    "sentence": "1 &lt; 2",
    "plot": '<div style="overflow-x: auto"><svg viewBox="0 0 360 220" role="img" aria-label="a run"',
    "matrix": '<div style="overflow-x: auto"><svg viewBox="0 0 ',
    "panels": '<div style="display: grid;',
    "shaded": f'<pre style="white-space: pre-wrap">a&lt;<span title="3.00 nats" style="{SHADE}"> b</span>',
}


@pytest.mark.parametrize("name", PIECES)
def test_a_piece_has_its_html_and_reads_back(name: str) -> None:
    piece = PIECES[name]
    shown = to_html(piece, "a run")
    assert shown.startswith(HTML[name])
    assert not re.search("<(?!/?(?:div|svg|table|tr|th|td|img|pre|span|text|path|rect|polyline|circle)\\b)", shown)
    assert from_json(json.loads(json.dumps(to_json(piece)))) == piece


@pytest.mark.parametrize("values", [{}, {"piece": "script", "text": ""}, {"piece": "sentence", "words": ""}])
def test_anything_else_is_no_piece(values: dict[str, str]) -> None:
    with pytest.raises((ValueError, LookupError)):
        from_json(values)


def test_a_series_alone_is_no_piece_and_a_picture_is_of_a_known_kind() -> None:
    with pytest.raises(ValueError, match="part of a plot"):
        from_json(to_json(Series("a", ())))
    for wrong in ({"kind": 'png" onerror="x'}, {"height": '1" onerror="x'}):
        with pytest.raises(ValueError, match="give png or gif, and pixels"):
            from_json(to_json(FIGURE) | wrong)


def test_numbers_of_a_piece_are_csv_that_reads_back() -> None:
    values = (0.1 + 0.2, -1e-17, 3.0)
    plot = Plot((Series("a, b", tuple(enumerate(values))), Series("all", ((0.0, 1.0, 2.0),), "band")), "step", "loss")
    header, *rows = csv.reader(io.StringIO(to_data(plot)))
    assert header == ["series", "step", "loss", "high"]
    assert [(row[0], float(row[2])) for row in rows] == [*(("a, b", value) for value in values), ("all", 1.0)]
    assert rows[-1][3] == "2.0"
    cells = [["true", "predicted", "value"], ["cat", "cat", "3.0"], ["<dog>", "cat", "1.0"], ["<dog>", "<dog>", "2.0"]]
    assert list(csv.reader(io.StringIO(to_data(MATRIX)))) == cells
    panels = list(csv.reader(io.StringIO(to_data(Panels((MATRIX, MATRIX))))))
    assert (panels[0], len(panels)) == (["panel", *cells[0]], 7)
    assert to_data(Table(("a", "b"), (("x,y", "1"),))) == 'a,b\n"x,y",1\n'
    assert to_data(PIECES["table"]) is None  # of pictures
    assert to_data(FIGURE) is None
