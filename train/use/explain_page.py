"""The page of an explanation, and its JSON."""

import html
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from models.words import join
from train.charts import Matrix, Plot, Series
from train.data.readers.pixels import join_frames, make_figure
from train.errors import Json
from train.page import PANELS, Figure, Panels, Piece, Sentence, Shaded, Table, add_caption
from train.report.html import make_page
from train.use.explain import Explanation
from train.use.explain_inputs import shade_frames
from train.use.training_examples import Examples

SHOWN = 40  # tokens of an attention map at most
ROWS = 30  # tokens of the table at most
PHONE = 340  # pixels


def write_explanation(path: Path, explained: Mapping[str, Explanation]) -> None:
    """Writes the page of explanations of one question by the names of their runs, side by side: one file."""
    sections = (
        (heading, _put_beside({run: _join(show(explanation)) for run, explanation in explained.items()}))
        for heading, show in SECTIONS.items()
    )
    runs = " and ".join(f"<code>{html.escape(run)}</code>" for run in explained)
    below = f"<p>{'An answer' if len(explained) == 1 else 'Answers'} of {runs}</p>"
    path.write_text(make_page(next(iter(explained.values())).question, sections, below), encoding="utf-8")


def _join(pieces: Iterator[tuple[str, Piece]]) -> str:
    return "".join(add_caption(caption, piece) for caption, piece in pieces)


def _put_beside(contents: Mapping[str, str]) -> str:
    """The contents of a section in columns below the names of their runs; of one run without its name."""
    if len(contents) == 1:
        return next(iter(contents.values()))
    columns = (
        f'<div style="min-width: 0"><h3>{html.escape(run)}</h3>{content}</div>' for run, content in contents.items()
    )
    return f'<div style="{PANELS}">{"".join(columns)}</div>'


def describe_attribution(explained: Explanation) -> str:
    """Describes what the attributions sum to, and how exactly, in a sentence."""
    change = explained.score - explained.baseline
    share = abs(explained.error / change) if change else 0.0
    return (
        f"{explained.words}: {explained.score:.3f}, and {explained.baseline:.3f} for {explained.emptied}; integrated"
        f" gradients sum to {change + explained.error:.3f} of {change:.3f}, an error of {share:.2%}"
    )


def rank_tokens(explained: Explanation, most: int) -> list[tuple[int, str, float]]:
    """Ranks tokens by the size of their integrated gradients: index, name, value."""
    values = explained.methods["integrated gradients"]
    order = np.argsort(-np.abs(values))[:most]
    return [(int(index), explained.names[index], float(values[index])) for index in order]


def show_token(name: str) -> str:
    """A token without the spaces around it, quoted if it is nothing else."""
    return name.strip() or repr(name)


def format_short(answer: Mapping[str, object]) -> str:
    """Formats the most probable part of an answer."""
    name, value = next(iter(answer.items()))
    if isinstance(value, str):
        probabilities = answer.get("probabilities")
        chance = probabilities.get(value) if isinstance(probabilities, dict) else None
        return value if chance is None else f"{value} {chance:.3f}"
    if isinstance(value, dict):
        key, inner = next(iter(value.items()))
        if isinstance(inner, float):
            return f"{key!r} {inner:.3f}"
        middle = list(value)[len(value) // 2]
        return f"{name} {middle}: {_format_value(value[middle][:1])}, ..."
    return name if isinstance(value, str) else f"{name} {_format_value(value)}"


def _show_answer(explained: Explanation) -> Iterator[tuple[str, Piece]]:
    rows: list[tuple[str, str]] = []
    for name, value in explained.answer.items():
        if isinstance(value, dict):
            rows += [(f"{name}: {show_token(str(key))}", _format_value(inner)) for key, inner in value.items()]
        else:
            rows.append((name, _format_value(value)))
    yield "", Table(("answer", "value"), tuple(rows))


def _format_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return join([_format_value(item) for item in value], room=200)
    return str(value)


def _show_attributions(explained: Explanation) -> Iterator[tuple[str, Piece]]:
    values = explained.methods["integrated gradients"]
    full = float(np.abs(values).max()) or 1.0
    yield "", Sentence(f"{describe_attribution(explained)}.")
    if explained.grid:
        yield from _show_grid(explained, full)
    elif all(name.isdecimal() for name in explained.names):
        points = tuple((float(name), float(value)) for name, value in zip(explained.names, values, strict=True))
        yield "integrated gradients by step", Plot((Series("", points, "marked"),), "step", explained.words)
    else:
        words = tuple((name, float(value)) for name, value in zip(explained.names, values, strict=True))
        yield "red speaks for the answer, blue against it", Shaded((words,), explained.words, full)
    yield from _show_observations(explained)
    rows = tuple(
        (show_token(name), *(f"{numbers[index]:+.4f}" for numbers in explained.methods.values()))
        for index, name, _ in rank_tokens(explained, ROWS)
    )
    caption = (
        "the largest first; gradient x input is the slope alone, occlusion what the score loses without the token"
        if len(rows) == len(values)
        else f"the {len(rows)} largest of {len(values)}; gradient x input is the slope alone, occlusion what the score"
        " loses without the token"
    )
    yield caption, Table(("token", *explained.methods), rows)


def _show_grid(explained: Explanation, full: float) -> Iterator[tuple[str, Piece]]:
    """The picture and its cells for and against the answer, or the cells alone; of a video frame by frame."""
    cells = explained.methods["integrated gradients"][explained.registers :].reshape(explained.grid)
    frames = cells.reshape(-1, *cells.shape[-2:]) / full
    pictures = explained.pictures
    if pictures is not None:
        for caption, images in (
            ("as the model reads it", pictures),
            ("red speaks for the answer, blue against it", shade_frames(pictures, frames)),
        ):
            yield caption, _draw(images, caption)
    if explained.frames is not None:
        first = [1.0 + number * explained.span for number in range(len(frames))]
        losses, totals = map(float, explained.frames), (float(frame.sum() * full) for frame in frames)
        lines = (
            Series("occlusion", tuple(zip(first, losses, strict=True)), "marked"),
            Series("integrated gradients", tuple(zip(first, totals, strict=True)), "marked", 1),
        )
        caption = "what the score loses without all cells of a frame, and the sum of their integrated gradients"
        yield caption, Plot(lines, "frame", explained.words)
    if pictures is None:
        for words, side in (("for", np.maximum(frames, 0)), ("against", np.maximum(-frames, 0))):
            titles = [f"frame {number}" if len(frames) > 1 else "" for number in range(1, len(frames) + 1)]
            charts = tuple(map(_make_matrix, side, titles))
            yield f"cells that speak {words} the answer, over the largest attribution", Panels(charts)


def _draw(images: np.ndarray, alternative: str) -> Figure:
    """Frames (n, rows, columns, 3) in rows as wide as a telephone, enlarged so that their pixels can be seen."""
    high = 160 if len(images) == 1 else 80
    enlarged = images.repeat(max(1, high // images.shape[1]), 1).repeat(max(1, high // images.shape[1]), 2)
    wide = enlarged.shape[2] * high / enlarged.shape[1]  # on the page
    across = max(1, min(len(images), int(PHONE // wide)))
    white = np.full((-len(images) % across, *enlarged.shape[1:]), 255, np.uint8)
    rows = np.split(np.concatenate([enlarged, white]), (len(images) + len(white)) // across)
    joined = join_frames([join_frames(list(row), 4).swapaxes(0, 1) for row in rows], 4).swapaxes(0, 1)
    return make_figure(joined, round(joined.shape[0] * high / enlarged.shape[1]), alternative)


def _make_matrix(
    cells: np.ndarray, title: str, rows: tuple[str, ...] = (), up: str = "row", across: str = "column"
) -> Matrix:
    """Cells (rows, columns) from 0 to 1; counted from 1 unless the rows have names."""
    counted, columns = (tuple(str(index + 1) for index in range(size)) for size in cells.shape)
    return Matrix(tuple(tuple(map(float, row)) for row in cells), rows or counted, columns, across, up, title=title)


def _show_observations(explained: Explanation) -> Iterator[tuple[str, Piece]]:
    """The features of each step for and against the answer."""
    if explained.observations is None:
        return
    steps = explained.names[:: len(explained.names) // len(explained.observations)][-SHOWN:]
    rows = tuple(name.rpartition(" ")[2] for name in steps)
    values = explained.observations[-SHOWN:, :SHOWN]
    full = float(np.abs(values).max()) or 1.0
    sides = {"for": np.maximum(values, 0) / full, "against": np.maximum(-values, 0) / full}
    charts = tuple(_make_matrix(side, words, rows, "step", "feature") for words, side in sides.items())
    caption = f"features of the steps that speak for and against the answer, over the largest attribution, {full:.3g}"
    yield caption, Panels(charts)


def _show_depth(explained: Explanation) -> Iterator[tuple[str, Piece]]:
    if not explained.depth:
        yield "", Sentence(f"The logit lens cannot be taken: {explained.missing.get('depth', 'there is one block')}.")
        return
    points = tuple((float(index), score) for index, (score, _) in enumerate(explained.depth.values()))
    caption = "the answer if the model ended after each block (logit lens); 0 is the embedding"
    yield caption, Plot((Series("", points, "marked"),), "block", explained.words)
    rows = tuple((path, f"{score:.3f}", format_short(answer)) for path, (score, answer) in explained.depth.items())
    yield "", Table(("after", explained.words, "answer"), rows)


def _show_heads(explained: Explanation) -> Iterator[tuple[str, Piece]]:
    for name, reason in explained.missing.items():
        if name != "depth":
            yield "", Sentence(f"Left out: {name}, because {reason}.")
    shown = tuple(map(show_token, explained.names[:SHOWN]))
    charts = tuple(
        Matrix(
            tuple(tuple(map(float, row[:SHOWN])) for row in weights[:SHOWN]),
            shown,
            shown,
            "looked at",
            "token",
            path,
            full=None,
        )
        for path, weights in explained.attention.items()
    )
    if charts:
        cut = "" if len(explained.names) <= SHOWN else f"; the first {SHOWN} of {len(explained.names)} tokens"
        yield f"attention, the mean over the heads of each layer{cut}", Panels(charts)
    if explained.heads:
        most = max(len(values) for values in explained.heads.values())
        rows = tuple(
            (path, *(f"{value:+.3f}" for value in values), *("" for _ in range(most - len(values))))
            for path, values in explained.heads.items()
        )
        caption = f"what the score ({explained.words}) loses without the attention of each head"
        yield caption, Table(("layer", *(f"head {index}" for index in range(most))), rows)


def _show_neighbours(explained: Explanation) -> Iterator[tuple[str, Piece]]:
    among = _describe_compared(explained.neighbours)
    caption = f"by the cosine of mean last hidden vectors, among {among}"
    yield from _show_examples(explained.neighbours, "cosine", caption, ".3f")


def _show_influential(explained: Explanation) -> Iterator[tuple[str, Piece]]:
    examples = explained.influential
    steps = (
        f"the checkpoint of step {examples.checkpoints[0]}"
        if len(examples.checkpoints) == 1
        else (f"the checkpoints of steps {join(map(str, examples.checkpoints))}")
    )
    caption = (
        f"what a step of gradient descent on the example adds to the score ({explained.words}), summed over {steps}"
        f" (TracIn), among {_describe_compared(examples)}; above 0 for what speaks for the answer"
    )
    yield from _show_examples(examples, "influence", caption, "+.3g")


def _describe_compared(examples: Examples) -> str:
    return f"{'all' if examples.whole else 'the first'} {examples.compared} training examples"


def _show_examples(examples: Examples, name: str, caption: str, form: str) -> Iterator[tuple[str, Piece]]:
    if examples.missing:
        yield "", Sentence(f"Left out: {examples.missing}.")
        return
    rows = tuple((format(example.value, form), example.label, example.example) for example in examples.first)
    yield caption, Table((name, "label", "example"), rows)


SECTIONS: Mapping[str, Callable[[Explanation], Iterator[tuple[str, Piece]]]] = {
    "Answer": _show_answer,
    "What it read": _show_attributions,
    "Over depth": _show_depth,
    "Heads": _show_heads,
    "Nearest training examples": _show_neighbours,
    "Most influential training examples": _show_influential,
}


def record_explanation(explained: Explanation) -> dict[str, Json]:
    """Records an explanation as JSON values."""
    tokens: list[Json] = [
        {"token": name, **{method: float(values[index]) for method, values in explained.methods.items()}}
        for index, name in enumerate(explained.names)
    ]
    return {
        "question": explained.question,
        "score": explained.score,
        "score_of": explained.words,
        "baseline": explained.baseline,
        "baseline_input": explained.emptied,
        "error": explained.error,
        "tokens": tokens,
        "frames": None if explained.frames is None else explained.frames.tolist(),
        "observations": None if explained.observations is None else explained.observations.tolist(),
        "depth": {path: score for path, (score, _) in explained.depth.items()},
        "heads": {path: list(map(float, values)) for path, values in explained.heads.items()},
        "nearest": _record_examples(explained.neighbours),
        "influential": _record_examples(explained.influential),
        "left_out": dict(explained.missing),
    }


def _record_examples(examples: Examples) -> dict[str, Json]:
    """Records examples as JSON values; those that are pictures without their content."""
    shown: list[Json] = [
        {
            "value": example.value,
            "label": example.label,
            "example": example.example if isinstance(example.example, str) else None,
        }
        for example in examples.first
    ]
    return {"examples": shown, "compared": examples.compared, "missing": examples.missing or None}
