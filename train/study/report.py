"""report.html: what a run was, its curves and its numbers, in one file that needs nothing else."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.console import rows
from train.experiment import Experiment
from train.page import Piece, to_html
from train.sinks.json_lines import read_metrics

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
svg { width: 100%; height: auto; } pre { background: #f6f6f6; padding: 1rem; overflow: auto; font-size: 13px; } figure { margin: 1.5rem 0; }
figcaption { font-weight: 600; margin-bottom: .4rem; } td img { max-width: 42rem; height: auto; }
"""
WIDTH, HEIGHT, LEFT, BOTTOM = 720, 240, 64, 28


def write_report(folder: Path, experiment: Experiment, summary: dict[str, Any], pictures: Mapping[str, Piece]) -> None:
    """Writes report.html from the run's metrics and summary, and pieces of a page by their captions."""
    lines = read_metrics(folder)
    names = sorted({name for line in lines for name in line if name != "step"}, key=lambda name: (name.split("/")[1], name))
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in names:
        part, metric = name.split("/")
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        if points:
            groups.setdefault(metric, {})[part] = points
    first = ["loss", "accuracy"]
    order = [name for name in first if name in groups] + [name for name in groups if name not in first]
    figures = "".join(f"<figure><figcaption>{html.escape(name)}</figcaption>{curve(groups[name])}</figure>" for name in order)
    drawn = {html.escape(caption): to_html(piece) for caption, piece in pictures.items()}
    seen = "".join(f"<figure><figcaption>{caption}</figcaption>{piece}</figure>" for caption, piece in drawn.items())
    table = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows(summary))
    recorded = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
    title = html.escape(folder.name)
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
        f"<h1>{title}</h1><table>{table}</table>"
        f"{seen}{figures}<h2>Model</h2><pre>{html.escape(str(experiment.model))}</pre>"
        f"<h2>Experiment</h2><pre>{html.escape(json.dumps(recorded, indent=1))}</pre></html>\n"
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def curve(series: dict[str, list[tuple[float, float]]]) -> str:
    """An SVG of values over steps, a line for each series."""
    points = [point for line in series.values() for point in line]
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = min(y for _, y in points), max(y for _, y in points)
    span_x, span_y = (high_x - low_x) or 1, (high_y - low_y) or 1

    def place(x: float, y: float) -> str:
        left = LEFT + (x - low_x) / span_x * (WIDTH - LEFT - 10)
        return f"{left:.1f},{10 + (high_y - y) / span_y * (HEIGHT - BOTTOM - 10):.1f}"

    colours = {"train": "#4269d0", "evaluation": "#d0542c"}
    drawn = ""
    for row, (name, line) in enumerate(series.items()):
        colour = colours.get(name, "#3a8a4d")
        drawn += f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{" ".join(place(x, y) for x, y in line)}"/>'
        if len(line) < 30:
            drawn += "".join(
                f'<circle cx="{place(x, y).split(",")[0]}" cy="{place(x, y).split(",")[1]}" r="3" fill="{colour}"/>' for x, y in line
            )
        drawn += f'<text x="{WIDTH / 2 - 80 + 90 * row}" y="{HEIGHT - 6}" fill="{colour}">{html.escape(name)}</text>'
    labels = f'<text x="4" y="18">{high_y:.4g}</text><text x="4" y="{HEIGHT - BOTTOM}">{low_y:.4g}</text>'
    labels += f'<text x="{LEFT}" y="{HEIGHT - 6}">step {low_x:.0f}</text><text x="{WIDTH - 60}" y="{HEIGHT - 6}">{high_x:.0f}</text>'
    frame = f'<path d="M{LEFT},10V{HEIGHT - BOTTOM}H{WIDTH - 10}" stroke="#999" fill="none"/>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" font-size="12" role="img">{frame}{drawn}{labels}</svg>'
