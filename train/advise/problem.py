"""The task of a user's file or folder, read off its columns and files."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from models.words import join
from train.advise.terms import Limits
from train.data.readers.columns import read_times
from train.data.readers.steps import Step, find_step, parse_time
from train.data.readers.videos import KINDS as VIDEOS
from train.data.sources import Split, find_format, read
from train.errors import InputError

LOOKED_AT = 2000  # rows by which columns are told apart
MOST_CLASSES = 100
HELD_OUT = 600  # examples that are held out of little data, by which methods are told apart
BEGINNING = 2**24  # bytes of a file by which COCO is known
LABELS = ("label", "class", "target", "category", "sentiment", "topic", "stars", "rating", "score", "y")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
HOUR, DAY = 3600.0, 86400.0  # seconds

Task = Literal["text classes", "text values", "image classes", "video classes", "forecasts", "table", "language"]
Kind = Literal["text", "classes", "numbers", "times", "names", "empty"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A task on a user's data: the config of its models with overrides, and the metric that decides.

    `seen` are sentences about what the task was read off.  `config` is empty for a table of numbers, of which `target`
    is the column to predict and `features` are those to predict it from; of forecasts they are all series.  `limits`
    say which methods are tried.
    """

    task: Task
    path: str
    config: str
    overrides: tuple[str, ...]
    metric: str
    greater: bool
    seen: tuple[str, ...]
    target: str = ""
    features: tuple[str, ...] = ()
    limits: Limits = Limits()


@dataclasses.dataclass(frozen=True)
class Wishes:
    """Settings that the user gave instead of a guess: columns, the steps to forecast."""

    text: str | None = None
    target: str | None = None
    horizon: int | None = None


def find_problem(path: str, wishes: Wishes = Wishes()) -> Problem:
    """Finds the task of a file or folder.  Raises InputError if it has none, or several and `wishes` choose none."""
    location = Path(path).expanduser()
    if not location.exists():
        raise InputError(f"There is no {path}; give a file or a folder of data.")
    if (boxes := _find_boxes(location)) is not None:
        raise InputError(
            f"{path} has pictures with boxes, which is detection, and advise measures no method of it: train one with"
            f" `morphax train detect_cells data.path={boxes}`, and compare its mean average precision with that of the"
            " connected regions that are unlike the background, a box each of the most frequent class."
        )
    if location.is_dir() and find_format(path) is None:
        return _find_in_folder(path, location)
    if location.suffix.lower() == ".txt":
        return _model_language(path, f"{path} is plain text")
    return _find_in_table(path, wishes)


def _find_in_folder(path: str, folder_path: Path) -> Problem:
    suffixes = collections.Counter(file.suffix.lower() for file in folder_path.rglob("*") if file.is_file())
    if suffixes[".npz"]:
        raise InputError(
            f"{path} has trajectories, which is control, and advise measures no method of it: train one with"
            f" `morphax train drive_highway data.path={path} review=none`, and compare its error with that of the mean"
            " action and of a linear regression of actions on what is seen."
        )
    folders = [folder for folder in folder_path.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    pictures, videos = (sum(suffixes[kind] for kind in kinds) for kinds in (PICTURES, VIDEOS))
    if len(folders) < 2 or not pictures + videos:
        raise InputError(
            f"{path} is neither a table nor two folders or more of pictures or videos, one a class; it has"
            f" {len(folders)} folders, {pictures} pictures and {videos} videos."
        )
    overrides = f"data.path={path}", choose_holdout(max(videos, pictures))
    if videos > pictures:
        said = f"{path} has {len(folders)} folders with {videos} videos: a class each"
        return Problem("video classes", path, "video_motion", overrides, "accuracy", True, (said,))
    said = f"{path} has {len(folders)} folders with {pictures} pictures: a class each"
    return Problem("image classes", path, "images_vit", overrides, "accuracy", True, (said,))


def choose_holdout(count: int) -> str:
    """Chooses the share of examples that is held out, as an override: 600 examples, but a tenth to 0.3 of them."""
    return f"data.holdout={min(0.3, max(0.1, HELD_OUT / max(1, count))):.2g}"


def _find_boxes(location: Path) -> Path | None:
    """Finds a folder of Pascal VOC, or a file of COCO, itself or in a folder; None if there are no boxes."""
    if (location / "Annotations").is_dir():
        return location
    files = sorted(location.glob("*.json")) if location.is_dir() else [location]
    return next((file for file in files if file.suffix.lower() == ".json" and _is_coco(file)), None)


def _is_coco(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(BEGINNING)
    return head.lstrip().startswith(b"{") and b'"annotations"' in head and b'"images"' in head


def _model_language(path: str, said: str, *overrides: str) -> Problem:
    return Problem("language", path, "tiny_lm", (f"data.path={path}", *overrides), "loss", False, (said,))


def describe_columns(examples: Sequence[Mapping[str, object]]) -> dict[str, Kind]:
    """Describes each column by its cells: long texts, few classes, numbers, timestamps, or names."""
    return {name: _describe_column([row.get(name) for row in examples]) for name in examples[0]}


def _describe_column(cells: Sequence[object]) -> Kind:
    known = [cell.decode() if isinstance(cell, bytes) else cell for cell in cells]
    texts = [str(cell).strip() for cell in known if cell is not None and str(cell).strip()]
    if not texts:
        return "empty"
    distinct = len(set(texts))
    few = 2 <= distinct <= min(MOST_CLASSES, max(2, len(texts) // 4))
    if all(map(is_number, texts)):
        whole = all(float(text).is_integer() for text in texts)
        return "classes" if few and whole and distinct <= 20 else "numbers"
    if all(map(_is_time, texts)):
        return "times"
    if few:
        return "classes"
    return "text" if sum(len(text.split()) for text in texts) / len(texts) >= 3 else "names"


def is_number(text: str) -> bool:
    """Tells if a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_time(text: str) -> bool:
    try:
        parse_time(text)
    except ValueError:
        return False
    return True


def _find_in_table(path: str, wishes: Wishes) -> Problem:
    split = read(path)
    some = [split.examples[index] for index in range(min(len(split.examples), LOOKED_AT))]
    kinds = describe_columns(some)
    for setting, name in (("--text", wishes.text), ("--target", wishes.target)):
        if name is not None and name not in kinds:
            raise InputError(f"{path} has no column {name!r} for {setting}; it has {join(kinds)}.")
    said = f"{path} has the columns {join(f'{name} ({kind})' for name, kind in kinds.items())}"
    texts = [name for name, kind in kinds.items() if kind == "text"]
    times = [name for name, kind in kinds.items() if kind == "times"]
    if wishes.text is None and not texts and times:
        return _forecast(path, split, times[0], kinds, said, wishes)
    text = wishes.text or (texts[0] if texts else None)
    if len(texts) > 1 and wishes.text is None:
        if {"source", "target"} <= set(texts):
            raise InputError(
                f"{path} has pairs of sentences, which is translation, and advise measures no method of it: train one"
                f" with `morphax train translate_multi30k data.path={path}`, and compare its BLEU with that of each"
                " word replaced by the one of the other language that is most often beside it."
            )
        raise InputError(f"{path} has several columns of texts, {join(texts)}; choose one with --text.")
    target = wishes.target or _guess_target(path, kinds, text)
    if text is None:
        return _predict_table(path, target, kinds, said)
    if target is None:
        return _model_language(path, f"{said}: no column is a class or a value of the texts", f"data.text={text}")
    held_out = choose_holdout(len(split.examples))
    columns = f"data.path={path}", f"data.text={text}", f"data.target={target}", held_out
    chosen = f"{said}: {target} is predicted from {text}"
    if kinds[target] == "numbers":
        return Problem(
            "text values", path, "sentiment_score_sgd", columns, "mean_absolute_error", False, (chosen,), target
        )
    return Problem("text classes", path, "sentiment_bert", columns, "accuracy", True, (chosen,), target)


def _guess_target(path: str, kinds: dict[str, Kind], text: str | None) -> str | None:
    """Guesses the column to predict: the one with a usual name, or the only one of classes, or else of numbers."""
    for kind in ("classes", "numbers"):
        several = [name for name, other in kinds.items() if other == kind and name != text]
        named = [name for name in several if name.lower() in LABELS]
        if len(named) == 1 or len(several) == 1:
            return (named or several)[0]
        if several and (kind == "classes" or text is None):
            raise InputError(f"{path} may be about any of {join(several)}; choose the column with --target.")
    return None


def _predict_table(path: str, target: str | None, kinds: dict[str, Kind], said: str) -> Problem:
    features = tuple(name for name, kind in kinds.items() if kind in ("classes", "numbers") and name != target)
    if target is None or not features:
        raise InputError(f"{said}; there is nothing to predict from the others: name a column with --target.")
    greater = kinds[target] != "numbers"
    metric = "accuracy" if greater else "mean_absolute_error"
    chosen = f"{said}: {target} is predicted from {join(features)}"
    return Problem("table", path, "", (), metric, greater, (chosen,), target, features)


def _forecast(path: str, split: Split, time: str, kinds: dict[str, Kind], said: str, wishes: Wishes) -> Problem:
    values = (wishes.target,) if wishes.target else tuple(name for name, kind in kinds.items() if kind == "numbers")
    if not values:
        raise InputError(f"{said}, and no column of numbers to forecast; name one with --target.")
    if wishes.target and kinds[wishes.target] not in ("numbers", "classes"):
        raise InputError(f"{path} has {kinds[wishes.target]} in {wishes.target!r}; --target of a series is a number.")
    times = read_times([example[time] for example in split.examples], split)
    horizon, lags = _choose_window(find_step(times, split.where), len(times), wishes.horizon)
    patch = next(size for size in (4, 3, 2, 1) if horizon % size == 0)
    used = f"with lags of {join(map(str, lags))}" if lags else "without lags"
    chosen = f"{said}: the next {horizon} steps of {join(values)} are forecast, {used}"
    overrides = (
        f"data.path={path}",
        f"data.time={time}",
        f"data.values={values!r}",
        f"data.horizon={horizon}",
        f"data.context={2 * horizon}",
        f"data.patch={patch}",
        f"data.lags={lags!r}",
        "review=none",
    )
    return Problem(
        "forecasts", path, "traffic_occupancy", overrides, "mean_absolute_error", False, (chosen,), values[0], values
    )


def _choose_window(step: Step, count: int, horizon: int | None) -> tuple[int, tuple[int, ...]]:
    """Chooses the steps to forecast, if not given, and the lags of a day, a week and a year that the rows allow."""
    if step.unit == "seconds" and step.count < DAY:
        day = DAY / step.count
        usual, seasons = (round(day) if step.count >= HOUR else round(HOUR / step.count)), (day, 7 * day, 14 * day)
    elif step.unit == "months":
        usual, seasons = round(12 / step.count), (12 / step.count,)
    else:
        week = len(step.weekdays) or max(1, round(7 * DAY / step.count if step.unit == "seconds" else 7 / step.count))
        usual, seasons = 2 * week, (2 * week, 4 * week, 52 * week)
    steps = horizon or max(1, usual)
    lags = dict.fromkeys(round(season) for season in seasons if season == round(season))
    return steps, tuple(lag for lag in lags if lag >= steps and 6 * lag <= count)
