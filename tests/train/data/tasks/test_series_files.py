"""Tables of series: what is refused, what is filled in, and files to test on."""

import csv
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.data.tasks.hours import HOURS, cells, spec, write
from train.data.tasks.series import Series
from train.errors import InputError
from train.objectives import Quantiles
from train.review.forecasts import Forecasts


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write(tmp_path / "series.csv", cells())


def edited(edit: Callable[[list[list[str]]], Any]) -> Callable[[Path], Any]:
    def spoil(path: Path) -> None:
        rows = cells()
        edit(rows)
        write(path, rows)

    return spoil


def late(rows: list[list[str]]) -> None:
    last = datetime.datetime(9999, 12, 31, 23)
    for place, row in enumerate(reversed(rows)):
        row[0] = str(last - datetime.timedelta(hours=place))


CASES: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "empty": (lambda path: path.write_text(""), {}, "has no examples"),
    "header alone": (edited(lambda rows: rows.clear()), {}, "has no examples"),
    "no column of times": (
        edited(lambda rows: None),
        {"time": "when"},
        "no column .when. of times; name it by data.time",
    ),
    "no such column": (
        edited(lambda rows: None),
        {"values": ("east",)},
        "no column 'east'; it has time, north, south, rain",
    ),
    "words": (
        edited(lambda rows: rows[7].__setitem__(1, "many")),
        {},
        "example 8, has 'many' in 'north', .* name the columns to forecast",
    ),
    "a gap": (
        edited(lambda rows: [row.__setitem__(2, "") for row in rows[30:33]]),
        {},
        "example 31, lacks 3 values .*data.gaps=3",
    ),
    "nan": (edited(lambda rows: rows[9].__setitem__(1, "NaN")), {}, "example 10, lacks 1 values"),
    "nothing at the end": (
        edited(lambda rows: rows[-1].__setitem__(1, "")),
        {"gaps": 9},
        "example 240, lacks 1 .* leave out these rows",
    ),
    "nothing at all": (
        edited(lambda rows: [row.__setitem__(1, "") for row in rows]),
        {"gaps": 999},
        "lacks 240 .* leave out these rows",
    ),
    "beyond all numbers": (
        edited(lambda rows: rows[6].__setitem__(1, "1e39")),
        {},
        "example 7, has '1e39' in 'north', which is too large",
    ),
    "many digits": (
        edited(lambda rows: rows[6].__setitem__(1, "9" * 400)),
        {},
        "example 7, has '9{20}' in 'north', which is too large",
    ),
    "covariates alone": (
        edited(lambda rows: None),
        {"covariates": ("rain", "north", "south")},
        "no column of values beside time, north",
    ),
    "an offset in the middle": (
        edited(lambda rows: rows[4].__setitem__(0, rows[4][0] + "+00:00")),
        {},
        "example 5, .* give all times with",
    ),
    "the end of time": (edited(lambda rows: late(rows)), {}, "times near the first or the last year"),
    "lists of lists": (
        lambda path: path.write_text('{"north": [[1], [1, 2]]}\n'),
        {"time": None},
        "lists that differ in length",
    ),
    "nothing at the start": (edited(lambda rows: rows[0].__setitem__(1, "")), {"gaps": 9}, "example 1, lacks 1 values"),
    "unequal rows": (edited(lambda rows: rows[3].pop()), {}, "line 5, has 3 fields and the first row names 4"),
    "no time": (edited(lambda rows: rows[5].__setitem__(0, "noon")), {}, "example 6, has 'noon' for a time"),
    "repeated time": (edited(lambda rows: rows.insert(4, rows[4])), {}, "example 6, is at .* not after the row before"),
    "a missing hour": (
        edited(lambda rows: rows.pop(20)),
        {},
        "example 21, comes 2:00:00 after the row before and not 1:00:00",
    ),
    "too short": (
        edited(lambda rows: rows.__delitem__(slice(50, None))),
        {},
        "too few for a context of 48 and a horizon of 12",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_tables_that_cannot_be_used_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    spoil, settings, sentence = CASES[name]
    path = tmp_path / ("series.jsonl" if name == "lists of lists" else "series.csv")
    spoil(path)
    with pytest.raises(InputError, match=sentence):
        spec(str(path), **settings).open()


def test_a_file_to_test_on_goes_on_where_training_ends_or_stands_alone(tmp_path: Path) -> None:
    rows = cells()
    before, later = write(tmp_path / "before.csv", rows[:150]), write(tmp_path / "later.csv", rows[150:])
    going_on = spec(before, test=later).open()
    assert going_on.origins["test"].tolist() == list(range(150, HOURS - 12 + 1))
    apart = spec(before, test=write(tmp_path / "apart.csv", rows[151:])).open()
    assert apart.origins["test"].tolist() == list(range(150 + 48, HOURS - 1 - 12 + 1))
    assert spec(write(tmp_path / "a.csv", rows[100:]), test=write(tmp_path / "b.csv", rows[:90])).open().count(
        "test"
    ) == 2 * (90 - 48 - 11)
    for wrong, sentence in (
        (rows[100:], "begins at 2026-01-09 04:00:00 and .* ends at 2026-01-11 05:00:00; a test must not hold"),
        (rows[150::2], "later.csv has a row every 2:00:00 and .*before.csv every 1:00:00"),
        ([[row[0] + "+00:00", *row[1:]] for row in rows[150:]], "differ in whether times have an offset"),
    ):
        write(tmp_path / "later.csv", wrong)
        with pytest.raises(InputError, match=sentence):
            spec(before, test=later).open()


def test_a_series_and_a_file_may_have_colons_in_their_names(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    path = str(tmp_path / "a:b" / "c:d.csv")
    rows = [["time", "speed", "road:speed", "speed:road"], *([row[0], *row[1:3], row[1]] for row in cells())]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    opened = spec(path, values=("speed", "road:speed", "speed:road"), covariates=()).open()
    asked = opened.list_questions([path])
    assert asked == [f"{path}:speed", f"{path}:road:speed", f"{path}:speed:road"]
    batch = opened.questions(asked, 3, 1)[0]
    np.testing.assert_allclose(batch["mean"][:, 0, 0], opened.values[-opened.spec.before :].mean(0), rtol=1e-5)


def test_gaps_between_values_are_filled_in_a_straight_line(tmp_path: Path) -> None:
    rows = cells()
    for row in rows[30:33]:
        row[1] = ""
    opened = spec(write(tmp_path / "series.csv", rows, "\r\n", "\ufeff"), gaps=3).open()
    before, after = float(rows[29][1]), float(rows[33][1])
    np.testing.assert_allclose(opened.values[30:33, 0], before + (after - before) * np.arange(1, 4) / 4, rtol=1e-5)
    (note,) = opened.notes
    assert str(note).startswith("3 of 240 values of 'north' of ")
    assert str(note).endswith("were missing and are filled in a straight line: example 31, example 32, example 33")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Series(context=0),
        lambda: Series(patch=7),
        lambda: Series(holdout=1.0),
        lambda: Series(test="a.csv"),
        lambda: Quantiles((0.5, 0.1)),
        lambda: Forecasts(horizons=()),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="give|count from"):
        wrong()
