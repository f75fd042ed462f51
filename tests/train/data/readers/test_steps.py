"""Steps of time: what the calendar gives, against dateutil-free arithmetic of the calendar itself, and the series that
have them.
"""

import calendar
import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from train.data.readers.steps import find_step, parse_time
from train.data.tasks.series import Series
from train.errors import InputError

Date = datetime.datetime
DAYS = [Date(2025, 11, 3) + datetime.timedelta(days=number) for number in range(400)]  # from a Monday
MONTHS = [(2024 + number // 12, number % 12 + 1) for number in range(40)]
LAST = [calendar.monthrange(*month)[1] for month in MONTHS]
BERLIN = ZoneInfo("Europe/Berlin")
RULES: dict[str, list[Date]] = {
    "hours": [Date(2026, 1, 1) + datetime.timedelta(hours=number) for number in range(30)],
    "days": DAYS[:30],
    "business days": [day for day in DAYS if day.weekday() < 5],
    "business days of two weeks": [day for day in DAYS if day.weekday() < 5][1:15],
    "Sunday to Thursday": [day for day in DAYS if day.weekday() not in (4, 5)],
    "Tuesday and Thursday": [day for day in DAYS if day.weekday() in (1, 3)],
    "starts of months": [Date(*month, 1) for month in MONTHS],
    "ends of months": [Date(*month, last) for month, last in zip(MONTHS, LAST, strict=True)],
    "the 30th": [Date(*month, min(30, last), 12) for month, last in zip(MONTHS, LAST, strict=True)],
    "quarters": [Date(*month, 1) for month in MONTHS[::3]],
    "ends of quarters": [Date(*month, last) for month, last in list(zip(MONTHS, LAST, strict=True))[2::3]],
    "years": [Date(year, 1, 1) for year in range(1990, 2026)],
    "leap days": [Date(year, 2, 28 + calendar.isleap(year)) for year in range(1990, 2026)],
    "last business days of months": [max(day for day in DAYS if day.weekday() < 5 and (day.year, day.month) == month)
                                     for month in sorted({(day.year, day.month) for day in DAYS})[:-1]],
    "first business days of months": [min(day for day in DAYS if day.weekday() < 5 and (day.year, day.month) == month)
                                      for month in sorted({(day.year, day.month) for day in DAYS})],
    "days with their offset": [Date(2026, 3, 20, tzinfo=BERLIN) + datetime.timedelta(days=n) for n in range(20)],
    "hours with their offset": [
        (Date(2026, 3, 28, 20, tzinfo=datetime.UTC) + datetime.timedelta(hours=n)).astimezone(BERLIN) for n in range(20)
    ],
}  # fmt: skip


def fixed(times: list[Date]) -> list[Date]:
    """Times as a file has them: with an offset and no zone."""
    return [Date.fromisoformat(time.isoformat()) for time in times]


@pytest.mark.parametrize("name", RULES)
def test_steps_are_found_and_go_on_in_both_directions(name: str) -> None:
    times = fixed(RULES[name])
    found = find_step(times[3:-3], str)
    after = [found.ahead(times[-4], count) for count in (1, 2, 3)]
    assert [time.replace(tzinfo=None) for time in after] == [time.replace(tzinfo=None) for time in times[-3:]]
    before = [found.ahead(times[3], -count) for count in (1, 2, 3)]
    assert [time.replace(tzinfo=None) for time in before] == [time.replace(tzinfo=None) for time in times[2::-1]]
    assert found.fits(times)
    assert not found.fits([*times[:5], *times[6:]])


@pytest.mark.parametrize("name", RULES)
def test_a_row_that_is_missing_is_told_with_the_ways_out(name: str) -> None:
    times = fixed(RULES[name])
    if name == "business days of two weeks":
        times = times[:1] + times[2:]
    else:
        del times[len(times) // 2]
    with pytest.raises(
        InputError, match=r"^row \d+, comes .* after .* and not .*; add the rows between, or set data\.time=none"
    ):
        find_step(times, lambda place: f"row {place + 1}")


def table(path: Path, times: list[str]) -> str:
    path.write_text(
        "time,north\n" + "".join(f"{time},{number}\n" for number, time in enumerate(times)), encoding="utf-8"
    )
    return str(path)


WRITTEN = {
    "months": [f"{year}-{month:02d}" for year, month in MONTHS],
    "quarters": [f"{2000 + number // 4}Q{number % 4 + 1}" for number in range(40)],
    "quarters with a dash": [f"{2000 + number // 4}-Q{number % 4 + 1}" for number in range(40)],
    "years": [str(1980 + number) for number in range(40)],
    "business days": [str(day.date()) for day in RULES["business days"][:40]],
}


@pytest.mark.parametrize("name", WRITTEN)
def test_series_at_steps_of_the_calendar_are_read_and_their_horizon_is_the_calendars(name: str, tmp_path: Path) -> None:
    times = WRITTEN[name]
    spec = Series(path=table(tmp_path / "all.csv", times), context=12, horizon=4, patch=4, holdout=0.5)
    whole = spec.open()
    shorter = Series(path=table(tmp_path / "some.csv", times[:-4]), context=12, horizon=4, patch=4, holdout=0.5).open()
    np.testing.assert_allclose(shorter.seen, whole.seen[:-4])  # what lies ahead of one is what the other has
    later = table(tmp_path / "later.csv", times[20:])
    both = Series(path=table(tmp_path / "first.csv", times[:20]), test=later, context=12, horizon=4, patch=4).open()
    assert both.origins["test"].tolist() == list(range(20, 40 - 4 + 1))  # it goes on where the first ends


def test_holidays_of_lags_follow_the_steps_of_the_calendar(tmp_path: Path) -> None:
    """On business days a lag of one is the day before, over a weekend too: Monday after Independence Day, a Friday."""
    days = [str(day.date()) for day in DAYS if day.weekday() < 5 and day >= Date(2026, 6, 22)][:30]
    opened = Series(
        path=table(tmp_path / "a.csv", days), context=4, horizon=1, patch=1, lags=(1,), holidays="US"
    ).open()
    friday = days.index("2026-07-03")
    assert np.nonzero(opened.seen[:, -2])[0].tolist() == [friday]
    # 19 June, a Friday too, is before the first row
    assert np.nonzero(opened.seen[:, -1])[0].tolist() == [0, friday + 1]


def test_changes_of_clocks_are_told_with_the_way_out(tmp_path: Path) -> None:
    spring = [str(Date(2026, 3, 28) + datetime.timedelta(hours=hour)) for hour in range(60) if hour != 26]
    with pytest.raises(
        InputError,
        match=r"example 27, comes 2:00:00 after .*; if clocks were changed then, give times with their offset",
    ):
        Series(path=table(tmp_path / "a.csv", spring)).open()
    autumn = [str(Date(2026, 10, 24) + datetime.timedelta(hours=hour)) for hour in range(60)]
    autumn.insert(27, autumn[26])
    with pytest.raises(
        InputError,
        match=r"example 28, is at .* not after the row before; if clocks were set back then, give times with",
    ):
        Series(path=table(tmp_path / "a.csv", autumn)).open()
    told = [time.isoformat() for time in RULES["hours with their offset"]]
    for times, settings in ((told, {}), (autumn, {"time": None, "values": ("north",)})):
        assert len(
            Series(path=table(tmp_path / "a.csv", times), context=8, horizon=1, patch=1, **settings).open().values
        ) == len(times)


@pytest.mark.parametrize("wrong", ["2026-13", "2026Q5", "26", "2026-1", "noon", ""])
def test_what_is_no_time_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"month|Invalid|format|range|string"):
        parse_time(wrong)
