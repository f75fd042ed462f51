"""Files that every study leaves: report.html, a page that needs no network, and summary.json."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from train.disk import explain_failed_writes
from train.errors import Json
from train.study.records import to_latex, to_markdown


def write_report(folder: Path, page: str, summary: Json) -> None:
    """Writes the page, and the summary in one step, so that a reader never sees half of it."""
    with explain_failed_writes(folder):
        (folder / "report.html").write_text(page, encoding="utf-8")
        partial = folder / "summary.json.partial"
        partial.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, folder / "summary.json")


def write_tables(folder: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Writes a table as table.md and table.tex."""
    with explain_failed_writes(folder):
        (folder / "table.md").write_text(to_markdown(columns, rows), encoding="utf-8")
        (folder / "table.tex").write_text(to_latex(columns, rows), encoding="utf-8")
