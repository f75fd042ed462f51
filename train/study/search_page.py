"""The page of a search: winners and their curse, the curve of the best loss, rungs, and every candidate."""

import html
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from train.charts import Plot, Series
from train.page import Table, add_caption
from train.report.html import make_page
from train.study.candidates import Candidate, Gain, Standing
from train.study.files import write_report
from train.study.grammar import write_edits
from train.study.rungs import Rung
from train.study.search_words import (
    describe_dropped,
    describe_end,
    make_search_columns,
    make_standing_rows,
    record_search,
)
from train.variants import BASELINE, Search


def draw_curve(standings: Sequence[Standing], rungs: Sequence[Rung]) -> Plot:
    """Draws losses on the last rung over trials there, the best so far as a line, with the baseline's loss."""
    base, *others = standings
    losses = [standing.losses[-1] for standing in others if len(standing.losses) == len(rungs)]
    level = base.losses[-1]
    best = [min(losses[: number + 1]) for number in range(len(losses))]
    over = tuple((float(number), level) for number in (0, max(len(losses), 1)))
    return Plot(
        (
            Series(BASELINE, over, "dashed", None),
            Series("best so far", tuple((number + 1.0, loss) for number, loss in enumerate(best)), "line", 0),
            Series("candidates", tuple((number + 1.0, loss) for number, loss in enumerate(losses)), "points", 1),
        ),
        "candidates on the last rung, in the order of draws",
        "loss on the tuning part",
    )


def write_command(search: Search, candidate: Candidate) -> str:
    """Writes the command that compares a candidate with the baseline."""
    words = ["morphax", "compare", search.config, *search.overrides]
    for file in search.files:
        words += ["--with", file]
    for text in write_edits(candidate.edits):
        words += ["--vary", f"{candidate.name}={text}"]
    if search.budget != "flops":
        words += ["--match", search.budget]
    for path in search.free:
        words += ["--free", path]
    return shlex.join(words)


def _make_tree(standings: Sequence[Standing], candidates: Sequence[Candidate]) -> Table:
    """The tree of candidates, in the order of draws: generation, parents, edits, the stage or the rungs reached."""
    rungs = {standing.candidate.name: len(standing.losses) for standing in standings}
    rows = tuple(
        (
            candidate.name,
            str(candidate.generation),
            ", ".join(candidate.parents),
            " ".join(write_edits(candidate.edits)),
            " ".join(candidate.entry.moved),
            candidate.stage if candidate.entry.out is not None else f"rung {rungs.get(candidate.name, 0)}",
        )
        for candidate in candidates
    )
    return Table(("candidate", "generation", "parents", "edits", "matched by", "reached"), rows)


def _make_winner_table(gains: Sequence[Gain]) -> Table:
    rows: list[tuple[str, ...]] = []
    for gain in gains:
        verdict = gain.result.verdict
        ends = " to ".join(f"{end:+.2%}" for end in gain.interval)
        cells = (f"{gain.confirmed:+.2%}", ends, f"{gain.curse:+.2%}", verdict.word) if verdict else ("", "", "", "out")
        rows.append((gain.standing.candidate.name, f"{gain.seen:+.2%}", *cells))
    return Table(("winner", "gain seen", "gain confirmed", "interval", "winner's curse", "verdict"), tuple(rows))


def write_search_page(
    folder: Path,
    search: Search,
    rungs: Sequence[Rung],
    standings: Sequence[Standing],
    candidates: Sequence[Candidate],
    dropped: Counter[tuple[str, str]],
    gains: Sequence[Gain],
) -> None:
    """Writes report.html and summary.json of a search."""
    end = describe_end(gains, standings)
    commands = "\n".join(write_command(search, gain.standing.candidate) for gain in gains)
    sections = {
        "Winners": "".join(f"<p><strong>{html.escape(text)}</strong></p>" for text in end)
        + (add_caption("shares of the baseline's loss; no gain of the search counts", _make_winner_table(gains)))
        + (f"<pre>{html.escape(commands)}</pre>" if commands else ""),
        "The search's curve": add_caption(
            "losses on the search's own seeds, lower than what the structures give", draw_curve(standings, rungs)
        ),
        "Rungs": add_caption(
            "held-out losses of the tuning part, the best candidates first",
            Table(make_search_columns(rungs), tuple(make_standing_rows(standings, rungs))),
        ),
        "Candidates": add_caption("every structure that was drawn", _make_tree(standings, candidates)),
        "Dropped": add_caption(
            "candidates that were not trained", Table(("count", "stage", "reason"), tuple(describe_dropped(dropped)))
        ),
        "Search": f"<pre>{html.escape(json.dumps(search.record(), indent=1))}</pre>",
    }
    write_report(
        folder,
        make_page(folder.name, sections.items()),
        record_search(standings, rungs, candidates, dropped, gains),
    )
