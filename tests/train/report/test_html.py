"""The page of a run: one file that needs no network, legible in light and dark, with the numbers of all it draws."""

import csv
import dataclasses
import html.parser
import io
import json
import re
from typing import Any
from urllib.parse import unquote

import pytest

from tests.configs import sentences
from train.baselines import Baseline, list_warnings
from train.charts import DEEPEST, Plot, Series, choose_ticks, thin, to_svg
from train.page import DARKEST, Figure, Piece, Sentence, Table
from train.report.console import format_summary
from train.report.html import write_report
from train.report.style import DARK, LIGHT, STYLE
from train.summary import Summary

LINES: list[dict[str, Any]] = [
    {"step": 2, "train/loss": 0.1 + 0.2, "train/rate": 1e-3, "train/tokens_per_second": 0.0},
    {"step": 4, "train/loss": 1 / 3, "train/rate": 5e-4, "train/tokens_per_second": 0.0},
    {"step": 4, "evaluation/loss": 0.7, "evaluation/accuracy": 0.0},
    {"step": 6, "train/loss": None},
]
SUMMARY: Summary = {
    "parameters": 5200,
    "flops_per_step": 44_500_000,
    "steps": 6,
    "seconds_to_first_step": None,
    "peak_memory_bytes": 2**28,
    "command": "morphax predict runs/<a> INPUT",
    "warnings": ["The rate <b> never reaches its peak."],
    "evaluation": {"loss": {"value": 0.7, "interval": 0.0123}, "accuracy": {"value": 0.0, "interval": None}},
    "review": {"mae_1": 173.21, "accuracy": 0.0},
    "baselines": {"mae_1": {"last value": 160.4, "24 steps before": 171.25}, "accuracy": {"majority class": 0.5}},
    "data": [{"said": "2 of 9 pictures are cut"}],
}
PICTURES: dict[str, Piece] = {
    "Words: <first>": Table(("word", "count"), (("a & b", "3"),)),
    "Pictures": Table(("example",), ((Figure(b"PNG", height=64),),)),
    "Film": Figure(b"GIF", "gif"),
    "A sentence": Sentence("1 < 2"),
}


class Page(html.parser.HTMLParser):
    """Elements of a page with their attributes, and its text; `unclosed` are those that are open at its end."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.unclosed: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (folder / "experiment.json").write_text('{"experiment": "<i>"}')
    write_report(folder, sentences.experiment(), SUMMARY, PICTURES)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_a_page_is_one_file_that_needs_no_network(source: str) -> None:
    page = Page(source)
    assert not page.unclosed
    assert not {"script", "link", "iframe", "object", "image"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        for name in {"src", "href", "xlink:href", "srcset", "poster"} & set(attributes):
            assert (attributes[name] or "").startswith("data:")
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import|<[bi]>", source)


def test_a_page_says_what_it_shows_to_who_does_not_see_it(source: str) -> None:
    page = Page(source)
    assert page.all("html") == [{"lang": "en"}]
    assert [tag for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)] == ["h1"] + ["h2"] * 7
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert [image["alt"] for image in page.all("img")] == ["example 1", "Film"]
    assert [chart["aria-label"] for chart in page.all("svg")] == ["loss", "accuracy", "rate"]
    assert all(chart["role"] == "img" for chart in page.all("svg"))
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))


def test_numbers_of_the_log_are_beside_their_curves(source: str) -> None:
    found = {link["download"]: unquote((link["href"] or "").partition(",")[2]) for link in Page(source).all("a")}
    assert set(found) == {"loss.csv", "accuracy.csv", "rate.csv", "words.csv"}
    for metric in ("loss", "accuracy", "rate"):
        header, *read = csv.reader(io.StringIO(found[f"{metric}.csv"]))
        assert header == ["series", "step", metric]
        logged = [
            (part, line["step"], line[f"{part}/{metric}"])
            for part in ("train", "evaluation")
            for line in LINES
            if line.get(f"{part}/{metric}") is not None
        ]
        assert [(part, int(step), float(value)) for part, step, value in read] == logged
    assert found["words.csv"] == "word,count\na & b,3\n"


def test_metrics_stand_beside_what_needs_no_model(source: str) -> None:
    assert '<th scope="row">mae_1</th><td>173.2</td><td>last value 160.4, 24 steps before 171.2</td>' in source
    assert '<th scope="row">accuracy</th><td>0.0000</td><td>majority class 0.5000</td>' in source
    assert "<td>0.7000&nbsp;±&nbsp;0.0123</td>" in source
    shown = format_summary(SUMMARY)
    assert ("mae_1", "173.2  (last value 160.4, 24 steps before 171.2)") in shown
    assert ("loss", "0.7000 ± 0.0123") in shown
    assert [name for name, _ in shown].count("accuracy") == 1
    assert not any("(" in value for _, value in format_summary({**SUMMARY, "baselines": {}}))


def test_a_model_worse_than_what_is_simple_is_warned_of_in_one_sentence() -> None:
    last, season = Baseline("last value", 160.4), Baseline("24 steps before", 171.0)
    expert, common = Baseline("expert", 0.0, simple=False), Baseline("majority class", 0.5, greater=True)
    beside = {"mae_1": (last, season), "collisions": (expert,), "accuracy": (common,)}
    advice = "train it longer, or with another rate or size."
    worse = {"mae_1": 165.0, "collisions": 0.5, "accuracy": 0.4}
    lost = "mae_1 165.0 (last value 160.4), accuracy 0.4000 (majority class 0.5000)"
    assert list_warnings(worse, beside) == [f"The model is worse than what needs no model: {lost}; {advice}"]
    assert not list_warnings({"mae_1": 160.0, "collisions": 0.5, "accuracy": 0.5}, beside)
    assert not list_warnings({}, beside)
    assert not list_warnings({"mae_1": float("nan")}, beside)


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance of a colour (0 to 255), WCAG 2.2."""
    shares = [value / 255 for value in colour]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_the_contrast_of_level_aa_in_light_and_in_dark(colours: dict[str, str]) -> None:
    rgb = {name: tuple(map(float, bytes.fromhex(value[1:]))) for name, value in colours.items()}

    def over(top: tuple[float, ...], opacity: float) -> tuple[float, ...]:
        pairs = zip(top, rgb["page"], strict=True)
        return tuple(opacity * above + (1 - opacity) * below for above, below in pairs)

    below = [rgb["page"], rgb["panel"], rgb["alarm-page"], over(rgb["heat"], DEEPEST), over((208, 84, 44), DARKEST)]
    assert min(contrast(rgb["text"], each) for each in below) >= 4.5
    assert contrast(rgb["alarm"], rgb["alarm-page"]) >= 4.5
    assert min(contrast(rgb[name], rgb["page"]) for name in ("soft", "link")) >= 4.5
    assert min(contrast(rgb[name], rgb["page"]) for name in colours if name.startswith("series")) >= 3  # graphics


def test_the_style_serves_light_dark_and_paper() -> None:
    assert set(DARK) == set(LIGHT)
    assert "@media screen and (prefers-color-scheme: dark)" in STYLE  # paper is light
    assert "@media print" in STYLE
    assert set(re.findall(r"var\(--([\w-]+)", STYLE)) <= set(LIGHT)


def test_ticks_are_round_and_inside() -> None:
    assert choose_ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert choose_ticks(-3.0, 1234.0) == pytest.approx([0, 200, 400, 600, 800, 1000, 1200])
    assert choose_ticks(5.0, 5.0) == [5.0]


def test_long_lines_are_thinned_to_their_extremes() -> None:
    points = [(float(step), float(step % 7)) for step in range(10_000)]
    points[4321] = (4321.0, 99.0)
    kept = thin(points)
    assert len(kept) <= 502
    assert {points[0], points[4321], points[-1]} <= set(kept)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


@pytest.mark.parametrize("points", [(), ((1.0, 2.0),), ((1.0, float("nan")),), ((0.0, 1e-9), (1.0, 1e12))])
def test_any_numbers_are_drawn(points: tuple[tuple[float, float], ...]) -> None:
    drawn = to_svg(Plot((Series("", points),)), "any")
    assert not re.search(r"nan|inf", drawn)
    assert drawn.endswith("</svg>")


def test_names_of_many_series_are_all_in_the_legend_and_inside() -> None:
    named = tuple(Series(f"series {number}", ((0.0, 1e6), (1.0, 4e6)), colour=number) for number in range(8))
    drawn = to_svg(Plot(named), "many")
    places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>series \d</text>', drawn)
    assert len(places) == 8
    assert len({y for _, y in places}) > 1
    assert max(float(x) for x, _ in places) < 300
    assert ">2M</text>" in drawn


def test_a_plot_of_a_named_axis_says_it_once() -> None:
    plot = Plot((Series("train", ((0.0, 1.0), (1.0, 2.0))),), "step", "loss")
    assert ">loss</text>" in to_svg(plot)
    assert ">loss</text>" not in to_svg(plot, "loss")
    assert dataclasses.replace(plot, up="") != plot
