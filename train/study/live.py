"""The table of a study or a search while it runs: on a terminal it changes in its place, elsewhere lines are added."""

import contextlib
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import rich.console
import rich.live
import rich.text

from train.report.console import Console, format_duration
from train.study.candidates import Progress
from train.study.compare import Result
from train.study.power import describe_plans
from train.study.rungs import Rung
from train.study.search_words import make_search_table
from train.study.words import describe, make_table
from train.variants import BASELINE, FIRST, Study


class Screen:
    """A part of the terminal that changes in its place, where there is a terminal; a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.began, self.last = time.monotonic(), ""
        self.live = rich.live.Live(console=console.rich, refresh_per_second=2) if console.rich.is_terminal else None

    def __enter__(self) -> Self:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            with contextlib.suppress(Exception):
                self.live.stop()


class Live(Screen):
    """Shows results as trials end."""

    def __init__(self, console: Console, study: Study) -> None:
        super().__init__(console)
        self.study = study
        self.seeds = 0
        self.planned = {BASELINE}

    def update(self, results: Sequence[Result], done: int, planned: int) -> None:
        """Shows results after `done` trials; without results the study is tuning, and `planned` are its trials."""
        spent = format_duration(time.monotonic() - self.began)
        if not results:
            self._show(rich.text.Text(f"tuning: {done} of {planned} trials, {spent}"), f"tuning: {done} of {planned}")
            return
        seeds = len(results[0].losses)
        self._say_plans(results)
        said = f"{done} trials, {seeds} seeds of the baseline, {spent}"
        lines = [describe(result) for result in results if result.entry.name != BASELINE and result.losses]
        group = rich.console.Group(make_table(results), rich.text.Text(said))
        decided = seeds >= 2 and seeds > self.seeds
        self.seeds = max(seeds, self.seeds)
        self._show(group, "\n".join([said, *lines]) if decided else "")

    def _say_plans(self, results: Sequence[Result]) -> None:
        """Says once how many seeds each variant needs: before the first seed if the tuning tells, or after three."""
        for result in results:
            if len(result.pilot) >= FIRST and result.entry.name not in self.planned:
                self.planned.add(result.entry.name)
                for text in describe_plans(self.study, results, result.entry.name):
                    self.console.say(text)

    def _show(self, shown: rich.console.RenderableType, line: str) -> None:
        if self.live is not None:
            self.live.update(shown)
        elif line and line != self.last:
            self.console.say(line)
            self.last = line


class Countdown:
    """The time left by the share of the work that is done, at the pace of the later half of the looks.

    What a ledger held took no time, and first trials are mostly compilation.
    """

    def __init__(self) -> None:
        self.looks: list[tuple[float, float]] = []  # seconds and share

    def describe(self, share: float) -> str:
        """Describes the share that is done and the time left, if that can be told."""
        self.looks.append((time.monotonic(), share))
        (began, first), now = self.looks[len(self.looks) // 2 - 1], self.looks[-1][0]
        made = share - first
        left = (
            f", about {format_duration((now - began) * (1 - share) / made)} left" if made > 0.02 and share < 1 else ""
        )
        return f"{share:.0%} of the training{left}"


class LiveSearch(Screen):
    """Shows the best candidates of a search as trials end, with the time left."""

    def __init__(self, console: Console, rungs: Sequence[Rung]) -> None:
        super().__init__(console)
        self.rungs = rungs
        self.countdown = Countdown()

    def update(self, progress: Progress) -> None:
        """Shows a look at the search: on a terminal the best candidates, otherwise a line when a rung begins."""
        line = f"{progress.said}, {self.countdown.describe(progress.share)}"
        if self.live is not None:
            table = make_search_table(progress.standings, self.rungs)
            self.live.update(rich.console.Group(table, rich.text.Text(line)))
        elif (stage := progress.said.partition(":")[0]) != self.last:
            self.console.say(line)
            self.last = stage
