"""Time series forecasting data."""

import dataclasses
import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from models.contracts import Model, Tree
from models.words import join
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches, of_examples
from train.data.needs import need_forecasts
from train.data.notes import Notes
from train.data.readers.columns import read_numbers, read_steps, read_times
from train.data.readers.steps import find_step
from train.data.sources import Example, Split, find_cut, open_dataset, read, require_source
from train.errors import InputError

if TYPE_CHECKING:
    from holidays.holiday_base import HolidayBase

CALENDAR = 6  # sine and cosine of the hour of the day, of the day of the week, of the day of the year


@dataclasses.dataclass(frozen=True)
class Series:
    """Windows of series, `context` input steps and `horizon` steps to forecast, of a data set by name or user's tables.

    A row of the data is one step, or as many steps as its arrays are long.

    `values` are the columns to forecast (by default all that have no other use), `covariates` columns that are known in
    the context only, `time` a column of ISO 8601 timestamps, whose hour, weekday and day of the year are known in
    context and horizon; None, no calendar.  The step between timestamps is a duration, calendar days, days of the week
    (such as business days), or months (`train.data.readers.steps`).  `holidays` is a country (ISO 3166, such as "US")
    whose public holidays are added to the calendar, for a step and its lags.  The test part is the last fraction
    `holdout` of the time, or the file `test`; its windows see earlier values, but training uses none of its targets.  A
    `test` whose timestamps do not continue `path` is read by itself.  Test windows begin every `stride` steps.
    Values are normalised by their mean and standard deviation in the window's inputs (arXiv:2211.14730, section 3).
    `channels`: "each" makes every series an example of its own, "together" gives the model all series at once.  Missing
    values are refused, or interpolated linearly if at most `gaps` are in a row.

    `lags` adds to every step of context and horizon the values so many steps earlier (arXiv:1704.04110); a lag of at
    least the horizon is known ahead.

    A batch has `features` (b, (context + horizon) / patch, patch (n + n lags + k)), patches of values, of their lags,
    of covariates and calendar (k), values and covariates zero in the horizon; `values` (b, horizon, n); `mean`, `scale`
    (b, 1, n).
    """

    dataset: str = "traffic_occupancy"
    path: str | None = None
    test: str | None = None
    time: str | None = "time"
    values: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    holidays: str | None = None
    lags: tuple[int, ...] = ()
    context: int = 336
    horizon: int = 24
    patch: int = 12
    channels: Literal["each", "together"] = "each"
    holdout: float = 0.2
    stride: int = 1
    gaps: int = 0
    split: str = "hours"

    def __post_init__(self) -> None:
        if min(self.context, self.horizon, self.patch, self.stride) < 1 or self.gaps < 0:
            raise ValueError(
                f"Series has context {self.context}, horizon {self.horizon}, patch {self.patch}, stride"
                f" {self.stride} and gaps {self.gaps}; gaps is 0 or more, give 1 or more for the others."
            )
        if self.context % self.patch or self.horizon % self.patch:
            raise ValueError(
                f"Series.patch {self.patch} does not divide context {self.context} and horizon {self.horizon}; give"
                " another."
            )
        if min(self.lags, default=self.horizon) < self.horizon:
            raise ValueError(
                f"Series.lags is {self.lags} and horizon {self.horizon}; a lag must be known ahead: give no less."
            )
        if self.holidays is not None and (self.time is None or self.holidays not in _list_countries()):
            raise ValueError(
                f"Series has holidays {self.holidays!r} and time {self.time!r}; give a column of times, and a"
                " country such as US."
            )
        require_source(self, "time")

    @property
    def before(self) -> int:
        """The number of steps that a window needs before its horizon."""
        return self.context + max(self.lags, default=0)

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedSeries":
        """Opens the series.  Raises InputError for data that cannot be used."""
        opened = self.reader(classes)
        split = open_dataset(self.dataset, self.split) if self.path is None else read(self.path)
        table = self.table(split, classes, opened.notes)
        names, values, seen, _, opened.rows = table
        cut = first = find_cut(len(values), self.holdout, nearest=True)
        if self.test is not None and self.test == self.path:
            cut = first = 0  # all of it is the test part
        elif self.test is not None:
            later = self.table(read(self.test), names, opened.notes)
            cut = first = len(values)
            seen, values = np.concatenate([seen[:cut], later.seen]), np.concatenate([values, later.values])
            if table.times and not self.follows(table.times, later.times):
                first += self.before  # its first windows see no value of `path`
            opened.rows = [*opened.rows, *later.rows]
        opened.take(names, values, seen, (cut, first), split.origin, only)
        return opened

    def follows(self, times: Sequence[datetime.datetime], later: Sequence[datetime.datetime]) -> bool:
        """Tells if `test` continues `path`.  Raises InputError if they overlap, or if their steps differ."""
        if (times[0].tzinfo is None) != (later[0].tzinfo is None):
            raise InputError(
                f"{self.test} and {self.path} differ in whether times have an offset from UTC; give it in both, or"
                " in none."
            )
        step, test_step = find_step(times, str), find_step(later, str)
        if len(times) > 1 and not step.fits(later):
            raise InputError(
                f"{self.test} has a row every {test_step} and {self.path} every {step}; give both at equal steps."
            )
        if later[0] <= times[-1] and times[0] <= later[-1]:
            raise InputError(
                f"{self.test} begins at {later[0]} and {self.path} ends at {times[-1]}; a test must not hold what is"
                " trained on."
            )
        return len(times) > 1 and step.fits([times[-1], later[0]])

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedSeries":
        """The data set without examples, ready for series to continue."""
        return OpenedSeries(self, classes)

    def table(self, split: Split, names: tuple[str, ...] = (), notes: Notes | None = None) -> "Table":
        """The series of a split with their covariates and calendar; `notes` takes the reader's notes.

        Raises InputError, with the location, for data that cannot be used.
        """
        notes = Notes() if notes is None else notes
        notes.take(split.notes)
        rows = list(read_steps(split))
        if not rows:
            raise InputError(f"{split.origin} is empty; give a table with a row for each step of time.")
        if self.time is not None and self.time not in rows[0]:
            split.require_names({"time": self.time})
            raise InputError(
                f"{split.origin} has no column {self.time!r} of times; name it by data.time, or set data.time=none."
            )
        if not names and not self.values:
            split.require_names()
        used = {self.time, *self.covariates}
        names = names or self.values or tuple(name for name in rows[0] if name not in used)
        if not names:
            raise InputError(
                f"{split.origin} has no column of values beside {join(rows[0])}; add one, or change data.covariates."
            )
        for name in (*names, *self.covariates):
            if name not in rows[0]:
                raise InputError(
                    f"{split.origin} has no column {name!r}; it has {join(rows[0])}: set data.values and"
                    " data.covariates."
                )
        columns = [
            read_numbers([row.get(name) for row in rows], name, split, self.gaps, notes)
            for name in (*names, *self.covariates)
        ]
        numbers = np.stack(columns, axis=-1)
        covariates = np.pad(numbers[:, len(names) :], ((0, self.horizon), (0, 0)))
        times = read_times([row.get(self.time) for row in rows], split) if self.time is not None else []
        calendar = [self._make_calendar(times, split)] if times else []
        return Table(names, numbers[:, : len(names)], np.concatenate([covariates, *calendar], axis=-1), times, rows)

    def _make_calendar(self, times: list[datetime.datetime], split: Split) -> np.ndarray:
        step = find_step(times, split.where)
        reach = max(self.lags, default=0) if self.holidays is not None else 0
        try:
            earlier = [step.ahead(times[0], -lag) for lag in range(reach, 0, -1)]
            times = [*times, *(step.ahead(times[-1], ahead) for ahead in range(1, self.horizon + 1))]
        except (OverflowError, ValueError):
            raise InputError(
                f"{split.origin} has times near the first or the last year that there is; shift them."
            ) from None
        hours = np.array([time.hour + time.minute / 60 for time in times]) * math.tau / 24
        days = np.array([time.weekday() for time in times]) * math.tau / 7
        year = np.array([time.timetuple().tm_yday for time in times]) * math.tau / 366
        turns = np.stack([hours, days, year], axis=-1)
        calendar = np.stack([np.sin(turns), np.cos(turns)], axis=-1).reshape(len(turns), CALENDAR)
        if self.holidays is None:
            return calendar.astype(np.float32)
        free = _load_holidays(self.holidays)
        days = np.array([time in free for time in (*earlier, *times)])
        off = np.stack([days[reach - lag : len(days) - lag] for lag in (0, *self.lags)], axis=-1)
        return np.concatenate([calendar, off], axis=-1, dtype=np.float32)


class Table(NamedTuple):
    """Series by name: `values` (t, n), the inputs `seen` beside them (t + horizon, k), timestamps, if any, and rows.

    `seen` are covariates, which are unknown in the horizon, and the calendar, which is known.
    """

    names: tuple[str, ...]
    values: np.ndarray
    seen: np.ndarray
    times: list[datetime.datetime]
    rows: list[Example]


class OpenedSeries:
    """The opened data set of `Series`, a `train.contracts.Dataset`; `classes` are the names of the series."""

    vocab = 0

    def __init__(self, spec: Series, classes: tuple[str, ...]) -> None:
        self.spec = spec
        self.classes = classes
        self.notes = Notes()
        self.values = np.zeros((0, 0), np.float32)
        self.seen = np.zeros((0, 0), np.float32)
        self.origins: dict[str, np.ndarray] = {}
        self.rows: list[Example] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the series in answers."""
        return self.classes

    @property
    def together(self) -> bool:
        """True if an example has all series."""
        return self.spec.channels == "together"

    def take(
        self,
        names: tuple[str, ...],
        values: np.ndarray,
        seen: np.ndarray,
        cuts: tuple[int, int],
        origin: str,
        only: PART | None = None,
    ) -> None:
        """Takes series; `cuts` are the steps at which the training part ends and the first test forecast begins.

        Only the part that is asked for must be long enough.
        """
        context, horizon = self.spec.context, self.spec.horizon
        self.classes, self.values, self.seen = names, values, seen
        before, (cut, first) = self.spec.before, cuts
        lags = f" with lags of {max(self.spec.lags)}" if self.spec.lags else ""
        self.origins = {
            "train": np.arange(before, cut - horizon + 1),
            "test": np.arange(max(first, before), len(values) - horizon + 1, self.spec.stride),
        }
        for part, origins in self.origins.items():
            if not len(origins) and only in (None, part):
                steps = cut if part == "train" else len(values) - cut
                raise InputError(
                    f"{origin} has {len(values)} steps, {steps} of them for the {part} part, too few for a context of"
                    f" {context}{lags} and a horizon of {horizon}; give a longer series, or lower data.context or"
                    " data.horizon."
                )

    def count(self, part: PART) -> int:
        """The number of examples of a part."""
        return len(self.origins[part]) * (1 if self.together else self.values.shape[1])

    def window(self, part: PART, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The past values (context and the steps that lags reach, n) and the target (horizon, n), in original units."""
        origin, series = self._find_window(part, index)
        return self.values[origin - self.spec.before : origin, series], self.values[
            origin : origin + self.spec.horizon, series
        ]

    def _find_window(self, part: PART, index: int) -> tuple[int, slice]:
        if self.together:
            return int(self.origins[part][index]), slice(None)
        origin, series = divmod(index, self.values.shape[1])
        return int(self.origins[part][origin]), slice(series, series + 1)

    def read_column(self, part: PART, name: str) -> list[object]:
        """The cell of a column at the first step that each window forecasts.  Raises InputError if there is none."""
        if not self.rows or name not in self.rows[0]:
            raise InputError(
                f"The series have no column {name!r}; they have {join(self.rows[0] if self.rows else ())}."
            )
        return [self.rows[self._find_window(part, index)[0]].get(name) for index in range(self.count(part))]

    def show_example(self, part: PART, index: int) -> str:
        """The series and the first step of the window."""
        origin, series = self._find_window(part, index)
        return f"{', '.join(self.classes[series])} from step {origin + 1}"

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Requires positions for the patches of a window, and outputs for all values to forecast."""
        spec, series = self.spec, len(self.classes) if self.together else 1
        return need_forecasts(spec.context, spec.horizon, spec.patch, series, model, objective)

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of windows: the arrays of `Series`."""
        spec = self.spec

        def make_example(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            origin, series = self._find_window(part, index)
            past = self.values[origin - spec.before : origin, series]
            future = self.values[origin : origin + spec.horizon, series]
            known = self.seen[origin - spec.context : origin + spec.horizon]
            example = self._make_example(past, known)
            return example | {"values": (future - example["mean"]) / example["scale"]}

        return of_examples(self.count(part), make_example, batch_size, multiple, seed)

    def _make_example(self, past: np.ndarray, known: np.ndarray) -> Arrays:
        """Makes the inputs of a window from its past values (before, n) and from `seen` (context + horizon, k)."""
        spec, covariates = self.spec, len(self.spec.covariates)
        mean, scale = _measure_spread(past)
        past = np.pad((past - mean) / scale, ((0, spec.horizon), (0, 0)))
        steps = spec.context + spec.horizon
        lagged = [past[len(past) - steps - lag : len(past) - lag] for lag in spec.lags]
        beside, calendar = known[:, :covariates].copy(), known[:, covariates:]  # the calendar is known ahead
        centre, spread = _measure_spread(beside[: spec.context])
        beside = (beside - centre) / spread
        beside[spec.context :] = 0
        rows = np.concatenate([past[-steps:], *lagged, beside, calendar], axis=-1, dtype=np.float32)
        return {"features": rows.reshape(-1, spec.patch * rows.shape[1]), "mean": mean, "scale": scale}

    def restored(self, output: Tree, example: Arrays) -> Tree:
        """Maps the outputs of an example (horizon n q,) to original units: (horizon, n, q)."""
        series = example["mean"].shape[-1]
        shaped = output.reshape(self.spec.horizon, series, -1)
        return shaped * example["scale"][..., None] + example["mean"][..., None]

    def make_blank(self) -> Arrays:
        """The arrays of a series of zeros."""
        spec = self.spec
        calendar = 0 if spec.time is None else CALENDAR + (spec.holidays is not None) * (1 + len(spec.lags))
        past = np.zeros((spec.before, len(self.classes) if self.together else 1), np.float32)
        known = np.zeros((spec.context + spec.horizon, len(spec.covariates) + calendar), np.float32)
        return self._make_example(past, known)

    def list_questions(self, inputs: Sequence[str]) -> list[str]:
        """A question for each series of each file, or one for each file if an example has all series."""
        names = ("",) if self.together else self.classes
        return [f"{name}:{series}" if series else name for name in inputs for series in names]

    def _split_question(self, question: str) -> tuple[str, str]:
        """Splits a question into file and series, the longest known name: both may contain colons."""
        name = "" if self.together else max((name for name in self.classes if question.endswith(f":{name}")), key=len)
        return question.removesuffix(f":{name}") if name else question, name

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Batches of series to continue: the last `context` rows of files."""
        spec = self.spec
        tables: dict[str, tuple[np.ndarray, np.ndarray]] = {}

        def make_example(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            path, name = self._split_question(asked[index])
            if path not in tables:
                _, values, seen, *_ = spec.table(read(str(Path(path).expanduser())), self.classes, self.notes)
                if len(values) < spec.before:
                    raise InputError(
                        f"{path} has {len(values)} rows and the model sees {spec.before}; give at least as many."
                    )
                tables[path] = values[-spec.before :], seen[-spec.context - spec.horizon :]
            values, known = tables[path]
            series = slice(None) if self.together else slice(self.classes.index(name), self.classes.index(name) + 1)
            return self._make_example(values[:, series], known)

        return of_examples(len(asked), make_example, batch_size, multiple)


def _list_countries() -> tuple[str, ...]:
    import holidays

    return tuple(holidays.list_supported_countries())


def _load_holidays(country: str) -> "HolidayBase":
    """Loads the public holidays of a country, a container of days."""
    import holidays

    return holidays.country_holidays(country)


def _measure_spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and standard deviation of each column, (1, n); 1 instead for a nearly constant column."""
    mean, scale = values.mean(0, keepdims=True), values.std(0, keepdims=True)
    return mean, np.where(scale > 1e-6 * (1 + np.abs(mean)), scale, 1.0).astype(np.float32)
