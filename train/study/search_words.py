"""Searches in words: the plan before it starts, the table of candidates, and sentences on the winners."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import rich.box
import rich.table
import rich.text

from train.errors import Json
from train.report.console import format_duration
from train.study.candidates import Candidate, Gain, Standing
from train.study.grammar import write_edits
from train.study.rungs import Rung, count_rungs, count_steps, list_generations
from train.study.words import record
from train.variants import BASELINE, Search

SHOWN = 12  # candidates in a terminal


def describe_plan(search: Search, rungs: Sequence[Rung], flops: float) -> list[str]:
    """Describes what a search will do and cost; `flops` are those of a step of the baseline."""
    sizes = list(list_generations(search))
    counts = count_rungs(sizes[0], len(rungs), search.keep)
    steps, whole = count_steps(search, rungs), rungs[-1].steps
    trials = search.seeds * (sum(sum(count_rungs(size, len(rungs), search.keep)) for size in sizes) + len(rungs))
    ladder = ", ".join(f"{count} for {rung.name}" for count, rung in zip(counts, rungs, strict=True))
    budget = "at any budget" if search.budget == "none" else f"with the {search.budget} of the baseline"
    last = (search.winners + 1) * search.most
    return [
        f"search: {search.candidates} candidates {budget}, in {len(sizes)} generations of at most {sizes[0]}: {ladder}",
        f"search: {trials} trials, {steps:,} steps, the work of {steps / whole:.1f} trainings"
        f" ({steps * flops:.2g} FLOPs)",
        f"afterwards: at most {search.winners} winners and the baseline on up to {search.most} fresh seeds each, the"
        f" work of at most {last} trainings ({last * whole * flops:.2g} FLOPs)",
    ]


def describe_time(search: Search, rungs: Sequence[Rung], seconds: float, places: int) -> str:
    """Describes the time of a search and of its comparison by the `seconds` of a step of the baseline."""
    last = (search.winners + 1) * search.most * rungs[-1].steps
    both = [format_duration(count * seconds / places) for count in (count_steps(search, rungs), last)]
    return (
        f"by the baseline's speed {both[0]} for the search and at most {both[1]} for the comparison with"
        f" {places} side by side, beside checking and compiling candidates"
    )


def describe_edits(candidate: Candidate) -> str:
    """Describes a candidate by its edits, without the path that all of them have."""
    return " ".join(text.removeprefix("model.stack.block.") for text in write_edits(candidate.edits))


def make_standing_rows(standings: Sequence[Standing], rungs: Sequence[Rung]) -> list[tuple[str, ...]]:
    """Makes the cells of the table of candidates, the baseline first, then the best first."""
    if not standings:
        return []
    base, *others = standings
    rows: list[tuple[str, ...]] = []
    for standing in (base, *sorted(others, key=lambda other: other.rank)):
        candidate, losses = standing.candidate, standing.losses
        cells = [f"{loss:.4f}" if math.isfinite(loss) else "failed" for loss in losses]
        cells += [""] * (len(rungs) - len(losses))
        gain = find_gain(standing, base)
        seen = f"{gain:+.2%}" if gain is not None and candidate.name != BASELINE else ""
        generation = str(candidate.generation or "")
        rows.append((candidate.name, generation, *cells, seen, describe_edits(candidate)))
    return rows


def make_search_columns(rungs: Sequence[Rung]) -> tuple[str, ...]:
    """Makes the names of the columns of the table of candidates."""
    return "candidate", "generation", *(rung.name for rung in rungs), "gain seen", "edits"


def make_search_table(standings: Sequence[Standing], rungs: Sequence[Rung]) -> rich.table.Table:
    """Makes the table of the best candidates for a terminal."""
    table = rich.table.Table(*make_search_columns(rungs), box=rich.box.SIMPLE)
    for cells in make_standing_rows(standings, rungs)[: SHOWN + 1]:
        table.add_row(*map(rich.text.Text, cells))
    return table


def find_gain(standing: Standing, base: Standing) -> float | None:
    """Finds the gain that the search saw on the highest rung reached, as a share of the baseline's loss there."""
    if not standing.losses or not math.isfinite(standing.losses[-1]):
        return None
    return 1 - standing.losses[-1] / base.losses[len(standing.losses) - 1]


def describe_gain(gain: Gain) -> str:
    """Describes a winner: what the search saw, what fresh seeds confirm, and the difference."""
    candidate, verdict = gain.standing.candidate, gain.result.verdict
    text = f"{candidate.name} ({describe_edits(candidate)}): the search saw a gain of {gain.seen:.2%}"
    if verdict is None:
        return f"{text}; nothing was confirmed ({gain.result.entry.out or 'it was not measured'})"
    low, high = gain.interval
    ends = f"{low:+.2%} to {high:+.2%}" if math.isfinite(low) and math.isfinite(high) else "any"
    return (
        f"{text}; on {verdict.seeds} fresh seeds and the other part of the held-out data it is {gain.confirmed:+.2%}"
        f" ({ends}): {verdict.word}; winner's curse {gain.curse:+.2%}"
    )


def describe_end(gains: Sequence[Gain], standings: Sequence[Standing]) -> list[str]:
    """Describes the end of a search in sentences."""
    if not gains:
        return [f"none of {len(standings) - 1} candidates had a lower loss than the baseline on the last rung"]
    return [describe_gain(gain) for gain in gains]


def describe_dropped(dropped: Counter[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Describes what was dropped, in rows: how often, at which stage, and why."""
    return [(str(count), stage, reason) for (stage, reason), count in dropped.most_common()]


def record_search(
    standings: Sequence[Standing],
    rungs: Sequence[Rung],
    candidates: Sequence[Candidate],
    dropped: Counter[tuple[str, str]],
    gains: Sequence[Gain],
) -> dict[str, Json]:
    """Records a search as JSON values; what is not finite is null."""
    base, by_name = standings[0], {standing.candidate.name: standing for standing in standings}

    def list_losses(standing: Standing | None) -> Mapping[str, Json]:
        losses = standing.losses if standing is not None else ()
        return {rung.name: _number(loss) for rung, loss in zip(rungs, losses, strict=False)}

    rows: list[Json] = []
    for candidate in candidates:
        standing = by_name.get(candidate.name)
        gain = find_gain(standing, base) if standing is not None else None
        rows.append(candidate.record() | {"losses": list_losses(standing), "gain": gain})
    return {
        "baseline": list_losses(base),
        "candidates": rows,
        "dropped": [
            {"stage": stage, "reason": reason, "count": count} for (stage, reason), count in dropped.most_common()
        ],
        "winners": [
            {
                "name": gain.standing.candidate.name,
                "edits": list(write_edits(gain.standing.candidate.edits)),
                "seen": gain.seen,
                "confirmed": _number(gain.confirmed),
                "interval": [_number(end) for end in gain.interval],
                "curse": _number(gain.curse),
                "sentence": describe_gain(gain),
                "comparison": record(gain.result),
            }
            for gain in gains
        ],
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
