"""Steps of time: a fixed time, days by the clock, some days of the week, or months, found in the times of a series."""

import calendar
import dataclasses
import datetime
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from train.errors import InputError

Time = datetime.datetime
DAY = datetime.timedelta(days=1)
SHORT = re.compile(r"(\d{4})(?:-?Q([1-4])|-(\d{2}))?")
CHANGES = (3, 4, 9, 10, 11)  # the months in which clocks are changed
UNREAD = "or set data.time=none to read the rows as equal steps without a calendar"


def parse(text: str) -> Time:
    """A time in ISO 8601, or the first day of a year, a quarter (2026Q1, 2026-Q1) or a month (2026-01).  Raises
    ValueError for others.
    """
    text = text.strip()
    if (short := SHORT.fullmatch(text)) is not None:
        year, quarter, month = short.groups()
        return Time(int(year), int(month or 3 * int(quarter or 1) - 2), 1)
    return Time.fromisoformat(text)


@dataclasses.dataclass(frozen=True)
class Step:
    """From a time to the next: `count` seconds, days at the same time of the clock, days among `weekdays`, or months.

    A month's day is `day` or the month's last one if that is earlier; or its first or last day from Monday to Friday.
    """

    unit: Literal["seconds", "days", "weekdays", "months"]
    count: float
    weekdays: frozenset[int] = frozenset()
    day: int | Literal["first", "last"] = 0

    def ahead(self, time: Time, count: int) -> Time:
        """The time `count` steps later, or before it if `count` is negative.  Raises OverflowError beyond the years
        that there are.
        """
        if self.unit == "seconds":
            return time + datetime.timedelta(seconds=self.count) * count
        if self.unit == "days":
            return time + self.count * DAY * count  # the offset stays: nobody knows when clocks are changed
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
        return time.replace(year=year, month=month + 1, day=_day(year, month + 1, self.day))

    def fits(self, times: Sequence[Time]) -> bool:
        """Whether each of the times is a step after the one before it."""
        if self.unit == "seconds":
            return all((later - before).total_seconds() == self.count for before, later in _both(times))
        times = [time.replace(tzinfo=None) for time in times]
        return all(self.ahead(before, 1) == later for before, later in _both(times))

    def __str__(self) -> str:
        if self.unit == "seconds":
            return str(datetime.timedelta(seconds=self.count))
        if self.unit == "weekdays":
            return "day of " + ", ".join(calendar.day_abbr[day] for day in sorted(self.weekdays))
        return f"{self.count:g} {self.unit}"


def _both(times: Sequence[Time]) -> Iterator[tuple[Time, Time]]:
    return zip(times, times[1:], strict=False)


def _day(year: int, month: int, day: int | str) -> int:
    last = calendar.monthrange(year, month)[1]
    if day == "last":
        return last - max(datetime.date(year, month, last).weekday() - 4, 0)
    if day == "first":
        return 1 + (-datetime.date(year, month, 1).weekday() % 7 if datetime.date(year, month, 1).weekday() > 4 else 0)
    return min(int(day), last)


def step(times: Sequence[Time], where: Callable[[int], str]) -> Step:
    """The step of times in ascending order, an hour for a single one.  Raises InputError, with the place, if there is
    none.

    `where` says where a time is.  Equal times come first, then days by the clock, Monday to Friday, other days of the
    week over two weeks or more, and months.
    """
    if len(times) < 2:
        return Step("seconds", 3600.0)
    passed = [(later - before).total_seconds() for before, later in _both(times)]
    if len(set(passed)) == 1:
        return Step("seconds", passed[0])
    found = next((one for one in _calendar([time.replace(tzinfo=None) for time in times]) if one.fits(times)), None)
    if found is not None:
        return found
    usual = Counter(passed).most_common(1)[0][0]
    place = next(index for index, gap in enumerate(passed, 1) if gap != usual)
    late, expected = (datetime.timedelta(seconds=gap) for gap in (passed[place - 1], usual))
    change = ""
    if (
        times[place].tzinfo is None
        and times[place].weekday() == 6
        and times[place].month in CHANGES
        and abs(late - expected) == DAY / 24
    ):
        change = "; if clocks were changed then, give times with their offset from UTC, as 2026-03-29 03:00:00+02:00"
    raise InputError(
        f"{where(place)}, comes {late} after the row before and not {expected}{change}; add the rows between, {UNREAD}."
    )


def _calendar(times: Sequence[Time]) -> Iterator[Step]:
    """Steps that may be those of times by the clock."""
    by_clock = {later - before for before, later in _both(times)}
    if len(by_clock) == 1 and not (only := by_clock.pop()) % DAY:
        yield Step("days", only / DAY)
    yield Step("weekdays", 1, weekdays=frozenset(range(5)))
    if times[-1] - times[0] >= 14 * DAY:
        yield Step("weekdays", 1, weekdays=frozenset(time.weekday() for time in times))
    months = {12 * (later.year - before.year) + later.month - before.month for before, later in _both(times)}
    if len(months) == 1 and (count := months.pop()) > 0:
        ends: Any = (
            31
            if all(time.day == calendar.monthrange(time.year, time.month)[1] for time in times)
            else max(t.day for t in times)
        )
        for day in (ends, "first", "last"):
            if _day(times[0].year, times[0].month, day) == times[0].day:
                yield Step("months", count, day=day)


def refuse_repeat(times: Sequence[Time], where: str, text: str) -> None:
    """Raises InputError for the last of the times, which is not after the one before it."""
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
