"""Words, JSON and the page of a counterfactual audit."""

import html
from collections.abc import Iterator
from pathlib import Path

from models.words import join
from train.errors import Json
from train.page import Piece, Sentence, Table, add_caption
from train.report.html import make_page
from train.use.bias.swap import Change, Share, Swaps
from train.use.bias.words import format_range


def describe_change(change: Change, tests: int) -> str:
    """Describes a change in a sentence."""
    return (
        f"{change.kind}: {change.number} is {change.first:.4f} in the first texts and {change.second:.4f} in the"
        f" second, {format_range(change.difference, change.low, change.high)} (corrected for {tests}), over"
        f" {change.count} examples"
    )


def describe_share(share: Share) -> str:
    """Describes a share in a sentence."""
    return f"{share.kind}: {share.words}: {share.value:.4f} [{share.low:.4f}, {share.high:.4f}] of {share.count}"


def describe_swaps(swaps: Swaps) -> str:
    """Describes what was found in a sentence."""
    if not swaps.changes:
        return f"no kind has {swaps.least} examples, so nothing is compared: give more texts, or a smaller --least"
    return (
        f"{len(swaps.found)} of {len(swaps.changes)} changes are more than chance explains; the chance of any false one"
        " is at most about 5 % (Bonferroni)"
    )


def write_swaps(path: Path, run: str, swaps: Swaps) -> None:
    """Writes the page of a counterfactual audit, one file."""
    sections = [
        (heading, "".join(add_caption(caption, piece) for caption, piece in show(swaps)))
        for heading, show in (("What was found", _show_found), ("Shares", _show_shares), ("Examples", _show_examples))
    ]
    below = f"<p>Predictions of <code>{html.escape(run)}</code>, step {swaps.step}, for pairs of texts</p>"
    path.write_text(make_page(f"Substituted terms: {Path(run).name}", sections, below), encoding="utf-8")


def _show_found(swaps: Swaps) -> Iterator[tuple[str, Piece]]:
    said = describe_swaps(swaps)
    yield "", Sentence(f"{said[:1].upper()}{said[1:]}.")
    if swaps.small:
        yield "", Sentence(f"Too few examples to say (below {swaps.least}): {join(swaps.small, 600)}.")
    if swaps.unread:
        yield "", Sentence(f"{len(swaps.unread)} texts were left out: {join(swaps.unread, 300)}")
    rows = tuple(
        (
            change.kind,
            change.number,
            str(change.count),
            f"{change.first:.4f}",
            f"{change.second:.4f}",
            format_range(change.difference, change.low, change.high),
            "found" if change.found else "",
        )
        for change in swaps.changes
    )
    columns = ("kind", "number", "examples", "first texts", "second texts", "change", "more than chance")
    yield "mean change from the first to the second text, with its interval corrected for all", Table(columns, rows)


def _show_shares(swaps: Swaps) -> Iterator[tuple[str, Piece]]:
    rows = tuple(
        (share.kind, share.words, str(share.count), f"{share.value:.4f} [{share.low:.4f}, {share.high:.4f}]")
        for share in swaps.shares
    )
    if rows:
        yield "shares of pairs, each with its 95 % interval", Table(("kind", "share", "of", "value"), rows)


def _show_examples(swaps: Swaps) -> Iterator[tuple[str, Piece]]:
    rows = tuple((pair.kind, pair.first, pair.second, f"{value:+.4f}") for pair, _, value in swaps.examples)
    name = swaps.examples[0][1]
    yield f"pairs with the largest changes of {name}", Table(("kind", "first", "second", "change"), rows)


def record_swaps(swaps: Swaps) -> dict[str, Json]:
    """Records a counterfactual audit as JSON values."""
    return {
        "step": swaps.step,
        "least": swaps.least,
        "correction": "Bonferroni",
        "changes": [
            {
                "kind": change.kind,
                "number": change.number,
                "examples": change.count,
                "first": change.first,
                "second": change.second,
                "change": change.difference,
                "interval": [change.low, change.high],
                "found": change.found,
            }
            for change in swaps.changes
        ],
        "shares": [
            {
                "kind": share.kind,
                "share": share.words,
                "of": share.count,
                "value": share.value,
                "interval": [share.low, share.high],
            }
            for share in swaps.shares
        ],
        "small": list(swaps.small),
        "left_out": len(swaps.unread),
    }
