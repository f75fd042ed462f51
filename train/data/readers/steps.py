"""The step between timestamps of a series: a duration, calendar days, days of the week, or months."""

import calendar
import dataclasses
import datetime
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from train.errors import InputError

Time = datetime.datetime
DAY = datetime.timedelta(days=1)
SHORT = re.compile(r"(\d{4})(?:-?Q([1-4])|-(\d{2}))?")
CHANGES = (3, 4, 9, 10, 11)  # the months of daylight saving changes
UNREAD = "or set data.time=none to read the rows as equal steps without a calendar"


def parse_time(text: str) -> Time:
    """Parses ISO 8601, or a year, a quarter (2026Q1, 2026-Q1) or a month (2026-01) as its first day.

    Raises ValueError for other texts.
    """
    text = text.strip()
    if (short := SHORT.fullmatch(text)) is not None:
        year, quarter, month = short.groups()
        return Time(int(year), int(month or 3 * int(quarter or 1) - 2), 1)
    return Time.fromisoformat(text)


@dataclasses.dataclass(frozen=True)
class Step:
    """The time to the next row: `count` seconds, days at the same clock time, days among `weekdays`, or months.

    Steps of months fall on `day`, on the last day of shorter months, or on the first or last day from Monday to Friday.
    """

    unit: Literal["seconds", "days", "weekdays", "months"]
    count: float
    weekdays: frozenset[int] = frozenset()
    day: int | Literal["first", "last"] = 0

    def ahead(self, time: Time, count: int) -> Time:
        """The timestamp `count` steps later, or earlier if negative.  Raises OverflowError outside years 1 to 9999."""
        if self.unit == "seconds":
            return time + datetime.timedelta(seconds=self.count) * count
        if self.unit == "days":
            return time + self.count * DAY * count  # keeps the UTC offset, as the time zone is unknown
        if self.unit == "weekdays":
            for _ in range(abs(count)):
                time += DAY if count > 0 else -DAY
                while time.weekday() not in self.weekdays:
                    time += DAY if count > 0 else -DAY
            return time
        months = time.year * 12 + time.month - 1 + int(self.count) * count
        year, month = divmod(months, 12)
        if not datetime.MINYEAR <= year <= datetime.MAXYEAR:
            raise OverflowError(f"year {year}")
        return time.replace(year=year, month=month + 1, day=_find_day(year, month + 1, self.day))

    def fits(self, times: Sequence[Time]) -> bool:
        """Tells if each timestamp is one step after the previous."""
        if self.unit == "seconds":
            return all((later - before).total_seconds() == self.count for before, later in _pair_up(times))
        times = [time.replace(tzinfo=None) for time in times]
        return all(self.ahead(before, 1) == later for before, later in _pair_up(times))

    def __str__(self) -> str:
        if self.unit == "seconds":
            return str(datetime.timedelta(seconds=self.count))
        if self.unit == "weekdays":
            return "day of " + ", ".join(calendar.day_abbr[day] for day in sorted(self.weekdays))
        return f"{self.count:g} {self.unit}"


def _pair_up(times: Sequence[Time]) -> Iterator[tuple[Time, Time]]:
    return zip(times, times[1:], strict=False)


def _find_day(year: int, month: int, day: int | str) -> int:
    last = calendar.monthrange(year, month)[1]
    if day == "last":
        return last - max(datetime.date(year, month, last).weekday() - 4, 0)
    if day == "first":
        return 1 + (-datetime.date(year, month, 1).weekday() % 7 if datetime.date(year, month, 1).weekday() > 4 else 0)
    return min(int(day), last)


def find_step(times: Sequence[Time], where: Callable[[int], str]) -> Step:
    """Finds the step of ascending timestamps, an hour for a single one.

    Tries equal durations, calendar days, Monday to Friday, other days of the week (over two weeks or more), and months,
    in this order.  Raises InputError if none fits, with the location that `where(index)` names.
    """
    if len(times) < 2:
        return Step("seconds", 3600.0)
    passed = [(later - before).total_seconds() for before, later in _pair_up(times)]
    if len(set(passed)) == 1:
        return Step("seconds", passed[0])
    proposed = _propose_steps([time.replace(tzinfo=None) for time in times])
    if (step := next((step for step in proposed if step.fits(times)), None)) is not None:
        return step
    usual = Counter(passed).most_common(1)[0][0]
    irregular = next(index for index, gap in enumerate(passed, 1) if gap != usual)
    time = times[irregular]
    late, expected = (datetime.timedelta(seconds=gap) for gap in (passed[irregular - 1], usual))
    change = ""
    if time.tzinfo is None and time.weekday() == 6 and time.month in CHANGES and abs(late - expected) == DAY / 24:
        change = "; if clocks were changed then, give times with their offset from UTC, as 2026-03-29 03:00:00+02:00"
    raise InputError(
        f"{where(irregular)}, comes {late} after the row before and not {expected}{change}; add the rows between,"
        f" {UNREAD}."
    )


def _propose_steps(times: Sequence[Time]) -> Iterator[Step]:
    """Yields calendar steps that may fit timestamps without UTC offset."""
    by_clock = {later - before for before, later in _pair_up(times)}
    if len(by_clock) == 1 and not (only := by_clock.pop()) % DAY:
        yield Step("days", only / DAY)
    yield Step("weekdays", 1, weekdays=frozenset(range(5)))
    if times[-1] - times[0] >= 14 * DAY:
        yield Step("weekdays", 1, weekdays=frozenset(time.weekday() for time in times))
    months = {12 * (later.year - before.year) + later.month - before.month for before, later in _pair_up(times)}
    if len(months) == 1 and (count := months.pop()) > 0:
        at_ends = all(time.day == calendar.monthrange(time.year, time.month)[1] for time in times)
        latest = 31 if at_ends else max(time.day for time in times)
        days: tuple[int | Literal["first", "last"], ...] = (latest, "first", "last")
        for day in days:
            if _find_day(times[0].year, times[0].month, day) == times[0].day:
                yield Step("months", count, day=day)


def refuse_repeat(times: Sequence[Time], where: str, text: str) -> None:
    """Raises InputError for the last of the timestamps, which is not after the previous."""
    before, late = times[-2:]
    change = ""
    if (
        before - late <= datetime.timedelta(hours=1)
        and late.tzinfo is None
        and late.month in CHANGES
        and late.weekday() == 6
    ):
        change = "; if clocks were set back then, give times with their offset from UTC, as 2026-10-25 02:00:00+01:00"
    raise InputError(
        f"{where}, is at {text}, which is not after the row before{change}; sort the rows and drop repeats, {UNREAD}."
    )
