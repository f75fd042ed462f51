"""Series of numbers at equal steps of time, to be continued."""

import dataclasses
import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from models.contracts import Model
from models.words import join
from train.contracts import PART, Objective, Requirement
from train.data.batches import Arrays, Batches, of_examples
from train.data.needs import forecasts
from train.data.notes import Notes
from train.data.readers.columns import read_numbers, read_steps, read_times
from train.data.readers.steps import step
from train.data.source import Split, dataset, read
from train.errors import InputError

CALENDAR = 6  # sine and cosine of the hour of the day, of the day of the week, of the day of the year


@dataclasses.dataclass(frozen=True)
class Series:
    """Windows of series: `context` steps that are seen and `horizon` steps that follow, from a data set by name or a
    user's CSV or TSV.

    An example of the data is a step, or as many as its arrays are long.

    `values` are the columns to forecast (none: all that are not used otherwise), `covariates` columns that are seen in
    the context alone, `time` a column of ISO 8601 times, whose hour, weekday and day of the year are seen in context
    and horizon; none, no calendar.  Times follow each other by a fixed time, by days of the clock or of the week (as
    business days), or by months (`train.data.readers.steps`). `holidays` is a country (ISO 3166, such as "US") whose
    public holidays are seen with them, of a step and of its lags. The last part `holdout` of the time is for testing,
    or the file `test`; windows of the test part see earlier values but none of its targets is trained on, and a `test`
    that by its times does not go on where `path` ends is seen by itself.  Test windows begin every `stride` steps.
    Values are normalised by the mean and standard deviation of what their window sees of them (arXiv:2211.14730,
    section 3).  `channels`: "each" makes every series an example of its own, "together" gives the model all of them at
    once.  Missing values are refused, or filled in a straight line where at most `gaps` follow each other.

    `lags` gives the model, beside every step of context and horizon, the values so many steps before it
    (arXiv:1704.04110); a lag of at least the horizon is known ahead.

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
        if self.holidays is not None and (self.time is None or self.holidays not in _countries()):
            raise ValueError(
                f"Series has holidays {self.holidays!r} and time {self.time!r}; give a column of times, and a"
                " country such as US."
            )
        if not 0 < self.holdout < 1:
            raise ValueError(f"Series.holdout is {self.holdout}; give a part of the time between 0 and 1.")
        if self.test and not self.path:
            raise ValueError("Series.test is given without path; give the training file too.")

    @property
    def before(self) -> int:
        """How many steps before its horizon a window needs."""
        return self.context + max(self.lags, default=0)

    def open(self, classes: tuple[str, ...] = (), only: PART | None = None) -> "OpenedSeries":
        """The series, read and checked.  Raises InputError for what cannot be used."""
        opened = self.reader(classes)
        split = dataset(self.dataset, self.split) if self.path is None else read(self.path)
        table = self.table(split, classes, opened.notes)
        names, values, seen, _ = table
        cut = first = len(values) - round(self.holdout * len(values))
        if self.test is not None and self.test == self.path:
            cut = first = 0  # all of it is to test on
        elif self.test is not None:
            later = self.table(read(self.test), names, opened.notes)
            cut = first = len(values)
            seen, values = np.concatenate([seen[:cut], later.seen]), np.concatenate([values, later.values])
            if table.times and not self.follows(table.times, later.times):
                first += self.before  # its first windows see nothing but itself
        opened.take(names, values, seen, (cut, first), split.origin, only)
        return opened

    def follows(self, times: Sequence[datetime.datetime], later: Sequence[datetime.datetime]) -> bool:
        """Whether `test` goes on where `path` ends.  Raises InputError where they overlap, or their steps differ."""
        if (times[0].tzinfo is None) != (later[0].tzinfo is None):
            raise InputError(
                f"{self.test} and {self.path} differ in whether times have an offset from UTC; give it in both, or"
                " in none."
            )
        every, own = step(times, str), step(later, str)
        if len(times) > 1 and not every.fits(later):
            raise InputError(
                f"{self.test} has a row every {own} and {self.path} every {every}; give both at equal steps."
            )
        if later[0] <= times[-1] and times[0] <= later[-1]:
            raise InputError(
                f"{self.test} begins at {later[0]} and {self.path} ends at {times[-1]}; a test must not hold what is"
                " trained on."
            )
        return len(times) > 1 and every.fits([times[-1], later[0]])

    def reader(self, classes: tuple[str, ...] = ()) -> "OpenedSeries":
        """Ready for series to continue, without the data."""
        return OpenedSeries(self, classes)

    def table(self, split: Split, names: tuple[str, ...] = (), notes: Notes | None = None) -> "Table":
        """The series of a split and what is seen beside them; `notes` takes what the reader says.

        Raises InputError, with the place, for what cannot be used.
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
        found = np.stack(columns, axis=-1)
        covariates = np.pad(found[:, len(names) :], ((0, self.horizon), (0, 0)))
        times = read_times([row.get(self.time) for row in rows], split) if self.time is not None else []
        calendar = [self._calendar(times, split)] if times else []
        return Table(names, found[:, : len(names)], np.concatenate([covariates, *calendar], axis=-1), times)

    def _calendar(self, times: list[datetime.datetime], split: Split) -> np.ndarray:
        every, reach = step(times, split.where), max(self.lags, default=0) if self.holidays is not None else 0
        try:
            earlier = [every.ahead(times[0], -lag) for lag in range(reach, 0, -1)]
            times = [*times, *(every.ahead(times[-1], ahead) for ahead in range(1, self.horizon + 1))]
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
        free = _public(self.holidays)
        days = np.array([time in free for time in (*earlier, *times)])
        off = np.stack([days[reach - lag : len(days) - lag] for lag in (0, *self.lags)], axis=-1)
        return np.concatenate([calendar, off], axis=-1, dtype=np.float32)


class Table(NamedTuple):
    """The names of values, the values (t, n), and what is seen beside them (t + horizon, k): covariates, which nobody
    knows ahead, and the calendar, which goes on; and the times of the rows, where they have some.
    """

    names: tuple[str, ...]
    values: np.ndarray
    seen: np.ndarray
    times: list[datetime.datetime]


class OpenedSeries:
    """See `train.contracts.Dataset`; `classes` are the names of the series."""

    vocab = 0

    def __init__(self, spec: Series, classes: tuple[str, ...]) -> None:
        self.spec, self.classes, self.notes = spec, classes, Notes()
        self.values, self.seen = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)
        self.origins: dict[str, np.ndarray] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The series, which an answer is about."""
        return self.classes

    @property
    def together(self) -> bool:
        """Whether an example has all series."""
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
        """Takes in series: where what is to train on ends, and where the first forecast that is tested begins.

        A part that is not asked for may be too short.
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
        """How many examples a part has."""
        return len(self.origins[part]) * (1 if self.together else self.values.shape[1])

    def window(self, part: PART, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What lies before (context and the steps that lags reach, n) and what follows (horizon, n), in the units of
        the data.
        """
        origin, series = self._place(part, index)
        return self.values[origin - self.spec.before : origin, series], self.values[
            origin : origin + self.spec.horizon, series
        ]

    def _place(self, part: PART, index: int) -> tuple[int, slice]:
        if self.together:
            return int(self.origins[part][index]), slice(None)
        origin, series = divmod(index, self.values.shape[1])
        return int(self.origins[part][origin]), slice(series, series + 1)

    def shown(self, part: PART, index: int) -> str:
        """Which window it is."""
        origin, series = self._place(part, index)
        return f"{', '.join(self.classes[series])} from step {origin + 1}"

    def requires(self, model: Model, objective: Objective) -> dict[str, Requirement]:
        """Positions for the patches of a window, and outputs for all that is to be forecast."""
        spec, series = self.spec, len(self.classes) if self.together else 1
        return forecasts(spec.context, spec.horizon, spec.patch, series, model, objective)

    def batches(self, part: PART, batch_size: int, multiple: int, seed: int | None) -> Batches:
        """Batches of windows, as `Series` says."""
        spec = self.spec

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            origin, series = self._place(part, index)
            past, future = (
                self.values[origin - spec.before : origin, series],
                self.values[origin : origin + spec.horizon, series],
            )
            known = self.seen[origin - spec.context : origin + spec.horizon]
            example = self._example(past, known)
            return example | {"values": (future - example["mean"]) / example["scale"]}

        return of_examples(self.count(part), one, batch_size, multiple, seed)

    def _example(self, past: np.ndarray, known: np.ndarray) -> Arrays:
        """What is seen of the values (before, n) and of what stands beside them (context + horizon, k)."""
        spec, covariates = self.spec, len(self.spec.covariates)
        mean, scale = _spread(past)
        past = np.pad((past - mean) / scale, ((0, spec.horizon), (0, 0)))
        steps = spec.context + spec.horizon
        lagged = [past[len(past) - steps - lag : len(past) - lag] for lag in spec.lags]
        own, calendar = known[:, :covariates].copy(), known[:, covariates:]  # the calendar is known ahead
        middle, spread = _spread(own[: spec.context])
        own = (own - middle) / spread
        own[spec.context :] = 0
        rows = np.concatenate([past[-steps:], *lagged, own, calendar], axis=-1, dtype=np.float32)
        return {"features": rows.reshape(-1, spec.patch * rows.shape[1]), "mean": mean, "scale": scale}

    def restored(self, output: np.ndarray, example: Arrays) -> np.ndarray:
        """What a model gives for an example, (horizon n q,), in the units of the data: (horizon, n, q)."""
        series = example["mean"].shape[-1]
        shaped = output.reshape(self.spec.horizon, series, -1)
        return shaped * example["scale"][..., None] + example["mean"][..., None]

    def asked(self, given: Sequence[str]) -> list[str]:
        """A question for each series of each file, or one for each file where they are seen together."""
        names = ("",) if self.together else self.classes
        return [f"{name}:{series}" if series else name for name in given for series in names]

    def _named(self, question: str) -> tuple[str, str]:
        """The file and the series of a question; both may have colons, and the longest known series is meant."""
        name = "" if self.together else max((name for name in self.classes if question.endswith(f":{name}")), key=len)
        return question.removesuffix(f":{name}") if name else question, name

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Series to continue: the last `context` rows of files."""
        spec, tables = self.spec, dict[str, tuple[np.ndarray, np.ndarray]]()

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            path, name = self._named(asked[index])
            if path not in tables:
                _, values, seen, _ = spec.table(read(str(Path(path).expanduser())), self.classes, self.notes)
                if len(values) < spec.before:
                    raise InputError(
                        f"{path} has {len(values)} rows and the model sees {spec.before}; give at least as many."
                    )
                tables[path] = values[-spec.before :], seen[-spec.context - spec.horizon :]
            values, known = tables[path]
            series = slice(None) if self.together else slice(self.classes.index(name), self.classes.index(name) + 1)
            return self._example(values[:, series], known)

        return of_examples(len(asked), one, batch_size, multiple)


def _countries() -> tuple[str, ...]:
    import holidays

    return tuple(holidays.list_supported_countries())


def _public(country: str) -> Any:
    """The public holidays of a country, as a container of days."""
    import holidays

    return holidays.country_holidays(country)


def _spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, (1, n); 1 for a column that hardly changes."""
    mean, scale = values.mean(0, keepdims=True), values.std(0, keepdims=True)
    return mean, np.where(scale > 1e-6 * (1 + np.abs(mean)), scale, 1.0).astype(np.float32)
