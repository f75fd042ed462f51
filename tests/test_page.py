"""Pieces of a page: their HTML, and what is kept of a review reads back as it was."""

import json

import pytest

from train.page import Figure, Piece, Sentence, Shaded, Table, from_json, to_html, to_json

FIGURE = Figure(b"\x89PNG", height=64, alternative='a "dog"')
PIECES: dict[str, Piece] = {
    "figure": FIGURE,
    "film": Figure(b"GIF89a", "gif"),
    "table": Table(("example", "<true>"), (("a & b", "dog"), (FIGURE, "cat"))),
    "sentence": Sentence("1 < 2"),
    "shaded": Shaded(((("a<", None), (" b", 3.0), (" c", 9.0)),), unit="nats", full=6.0),
}
HTML = {
    "figure": '<img alt="a &quot;dog&quot;" style="height: 64px; image-rendering: auto"',
    "film": '<img alt="" style="max-width: 100%" src="data:image/gif;base64,R0lGODlh">',
    "table": "<table><tr><th>example</th><th>&lt;true&gt;</th></tr><tr><td>a &amp; b</td><td>dog</td></tr>",
    "sentence": "1 &lt; 2",
    "shaded": '<pre>a&lt;<span title="3.00 nats" style="background: rgb(208 84 44 / 0.50)"> b</span>',
}


@pytest.mark.parametrize("name", PIECES)
def test_a_piece_has_its_html_and_reads_back(name: str) -> None:
    piece = PIECES[name]
    assert to_html(piece).startswith(HTML[name])
    assert from_json(json.loads(json.dumps(to_json(piece)))) == piece


@pytest.mark.parametrize("values", [{}, {"piece": "script", "text": ""}, {"piece": "sentence", "words": ""}])
def test_anything_else_is_no_piece(values: dict[str, str]) -> None:
    with pytest.raises((ValueError, LookupError)):
        from_json(values)
