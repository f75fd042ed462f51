"""Files of pictures with boxes: COCO and Pascal VOC."""

import dataclasses
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.data.notes import Note
from train.data.readers.formats import content
from train.data.readers.pixels import below, readable, sizes
from train.errors import InputError


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture (its file, or its place in a data set), its name, boxes (n, 4) by left, top, right, bottom in shares,
    labels and crowds; whether it is turned as its EXIF orientation says.
    """

    source: Any
    name: str
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    turned: bool = False


@dataclasses.dataclass(frozen=True)
class Scenes:
    """The pictures of a part, the classes that their labels count, where they come from, and what the reader says of
    them.

    `listed` are the files of pictures that are named there, `present` all files where these are.
    """

    scenes: list[Scene]
    classes: tuple[str, ...]
    origin: str
    notes: tuple[Note, ...] = ()
    listed: frozenset[Path] = frozenset()
    present: frozenset[Path] = frozenset()


class Object(NamedTuple):
    """A class, a box by left, top, right, bottom in shares of the picture, whether it is a crowd, and what the file
    calls the object.
    """

    kind: str
    box: list[float]
    crowd: bool
    name: str


class Listed(NamedTuple):
    """What a file says of a picture: where it is, its columns and rows, and its objects."""

    path: Path
    size: tuple[float, float]
    objects: list[Object]


def _sound(
    found: Sequence[Listed], classes: tuple[str, ...] | None, origin: str, present: Sequence[Path], advice: str
) -> Scenes:
    """Pictures that can be read with boxes cut to them; notes name boxes that reach beyond, or have no area.

    Raises InputError where no picture can be read, with the `advice`.
    """
    said: dict[Path, set[tuple[float, float]]] = {}
    for path, size, _ in found:
        said.setdefault(path, set()).add(size)

    def stored(path: Path) -> tuple[int, int]:
        both = sizes(path)
        for size in said[path].difference(both):
            raise ValueError(f"it has {both[0][0]} x {both[0][1]} pixels, and {size[0]:g} x {size[1]:g} are listed")
        return both[0]

    usable, left = readable(said, origin, stored, things="pictures")
    names = classes if classes is not None else tuple(sorted({one.kind for listed in found for one in listed.objects}))
    scenes: list[Scene] = []
    cut: list[str] = []
    empty: list[str] = []
    count = 0
    for path, size, objects in found:
        if path not in usable:
            continue
        turned, count = size != usable[path], count + len(objects)
        boxes = np.array([one.box for one in objects], np.float64).reshape(-1, 4)
        inside = boxes.clip(0, 1).astype(np.float32)
        some = ((inside[:, 2:] - inside[:, :2]) > 0).all(-1) if len(boxes) else np.zeros(0, bool)
        beyond = np.abs(inside - boxes).max(-1, initial=0) > 1e-3
        cut += [objects[place].name for place in np.flatnonzero(beyond & some)]
        empty += [objects[place].name for place in np.flatnonzero(~some)]
        labels = np.array([names.index(one.kind) for one in objects], np.int32)
        crowd = np.array([one.crowd for one in objects], bool)
        scenes.append(Scene(path, path.name, inside[some], labels[some], crowd[some], turned))
    if not scenes:
        raise InputError(f"{origin} has no picture that can be used {advice}{''.join(f': {note}' for note in left)}.")
    notes = [*left]
    for done, some in (("reach beyond their pictures and are cut", cut), ("have no area and are left out", empty)):
        notes += [Note(origin, done, "boxes", tuple(some), count)] if some else []
    return Scenes(scenes, names, origin, tuple(notes), frozenset(said), frozenset(present))


def unlisted(parts: Sequence[Scenes]) -> tuple[Note, ...]:
    """A note of the files among the pictures that no part lists."""
    listed, present = (
        {path.resolve() for part in parts for path in some(part)}
        for some in (lambda one: one.listed, lambda one: one.present)
    )
    left = tuple(map(str, sorted(present - listed)))
    return (Note(parts[0].origin, "are listed nowhere and are left out", "files", left, len(present)),) if left else ()


def voc(folder: Path) -> Scenes:
    """A Pascal VOC folder.  Raises InputError, naming the file, for what is not in its format."""
    inside = sorted((folder / "Annotations").glob("*"))
    files = [file for file in inside if file.suffix.lower() == ".xml"]
    if not files:
        raise InputError(
            f"{folder} has no Annotations/*.xml; give a Pascal VOC folder, or a COCO file ending in .json."
        )
    pictures = folder / "JPEGImages"
    found = _sound(
        [voc_file(file) for file in files], None, str(folder), below(pictures), f"in {pictures}; put them there"
    )
    others = tuple(str(file) for file in inside if file not in files)
    note = Note(str(folder / "Annotations"), "do not end in .xml and are left out", "files", others, len(inside))
    return dataclasses.replace(found, notes=(*found.notes, note)) if others else found


def voc_file(file: Path) -> Listed:
    """What a Pascal VOC annotation says of its picture.  Raises InputError where the file is not in that format."""
    try:
        root = ET.parse(file).getroot()
        columns, rows = (float(root.findtext(f"size/{side}") or "") for side in ("width", "height"))
        if not (0 < columns < math.inf and 0 < rows < math.inf):
            raise ValueError(f"a picture of {columns:g} x {rows:g}")
        objects: list[Object] = []
        for number, item in enumerate(root.iter("object"), 1):
            sides = {side: (item.findtext(f"bndbox/{side}") or "").strip() for side in ("xmin", "ymin", "xmax", "ymax")}
            for side, text in sides.items():
                if not text:
                    raise ValueError(f"object {number} has no {side}")
            left, top, right, bottom = map(float, sides.values())
            # pixels count from 1, and the last one belongs to the box
            box = [(left - 1) / columns, (top - 1) / rows, right / columns, bottom / rows]
            if not all(map(math.isfinite, box)):
                raise ValueError(f"a box of {left:g}, {top:g}, {right:g}, {bottom:g}")
            objects.append(
                Object((item.findtext("name") or "").strip() or "object", box, False, f"object {number} of {file.name}")
            )
    except (OSError, ET.ParseError, ValueError, LookupError) as error:  # the last of an encoding that nobody knows
        raise InputError(
            f"{file} is not a Pascal VOC annotation ({error}); each needs a size and boxes of four numbers."
        ) from None
    return Listed(
        file.parent.parent / "JPEGImages" / (root.findtext("filename") or f"{file.stem}.jpg"), (columns, rows), objects
    )


def coco(path: Path, images: Path | None, setting: str) -> Scenes:
    """A COCO file with the folder of its pictures, which a setting names.

    Raises InputError for what is not in its format, naming the image, the category or the annotation.
    """
    try:
        data = json.loads(content(str(path)))
        classes, notes = _categories(path, data["categories"], data["annotations"])
        listed = _by_id(path, "image", data["images"])
        sides = {
            key: (_length(path, key, entry, "width"), _length(path, key, entry, "height"))
            for key, entry in listed.items()
        }
        objects: dict[Any, list[Object]] = {key: [] for key in listed}
        for place, entry in enumerate(data["annotations"]):
            name = f"annotation {entry['id']}" if "id" in entry else f"annotation number {place + 1}"
            for key, known, of in (("category_id", classes, "categories"), ("image_id", listed, "images")):
                _refuse_unknown(f"{path}: {name}", entry, key, known, of)
            columns, rows = sides[entry["image_id"]]
            box = _box(f"{path}: {name}", entry, columns, rows)
            crowd = entry.get("iscrowd", 0)
            if crowd not in (0, 1, None):
                raise InputError(f"{path}: {name} has iscrowd {crowd!r}; give 0 or 1.")
            objects[entry["image_id"]].append(Object(classes[entry["category_id"]], box, bool(crowd), name))
        folder = images or next(
            (place for place in (path.parent / "images", path.parent) if place.is_dir()), path.parent
        )
        found = [
            Listed(folder / _file_name(path, key, entry), sides[key], objects[key]) for key, entry in listed.items()
        ]
    except (json.JSONDecodeError, RecursionError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"{path} is not a COCO file ({type(error).__name__}: {error}); it needs images, annotations and categories."
        ) from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a COCO file ({error}); a bbox is left, top, width and height.") from None
    # Beside the file there may be anything: there only the folders of what it lists are looked into.
    present = (
        below(folder)
        if folder != path.parent
        else [one for place in {one.path.parent for one in found} for one in place.glob("*")]
    )
    present = [one for one in present if one.is_file() and one.suffix.lower() != ".json"]
    sound = _sound(
        found, tuple(dict.fromkeys(classes.values())), str(path), present, f"in {folder}; set {setting} to their folder"
    )
    return dataclasses.replace(sound, notes=(*notes, *sound.notes))


def _by_id(path: Path, kind: str, entries: Sequence[Any]) -> dict[Any, Any]:
    """Entries by their ids.  Raises InputError for one without an id, or with that of another."""
    found: dict[Any, Any] = {}
    for place, entry in enumerate(entries):
        key = entry.get("id")
        if isinstance(key, bool) or not isinstance(key, int | str):
            raise InputError(f"{path}: {kind} number {place + 1} has the id {key!r}; give a whole number.")
        if key in found:
            raise InputError(f"{path}: two entries of {kind} have the id {key!r}; give each one of its own.")
        found[key] = entry
    return found


def _categories(path: Path, entries: Sequence[Any], annotations: Sequence[Any]) -> tuple[dict[Any, str], list[Note]]:
    """The names of classes by the ids of their categories, and a note of names that several have.

    Raises InputError where annotations use more than one category of a name.
    """
    found = _by_id(path, "category", entries)
    names: dict[str, list[Any]] = {}
    for key, entry in found.items():
        name = entry.get("name")
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            raise InputError(f"{path}: category {key} has the name {name!r}; give it one.")
        names.setdefault(str(name), []).append(key)
    used = {str(entry.get("category_id")) for entry in annotations}
    notes: list[Note] = []
    for name, keys in names.items():
        if len(both := [key for key in keys if str(key) in used]) > 1:
            raise InputError(
                f"{path}: the categories {' and '.join(map(str, both))} are both called {name!r}; rename one, or"
                " give both one id."
            )
        if len(keys) > 1:
            notes.append(
                Note(str(path), f"the categories {', '.join(map(str, keys))} are all called {name!r} and are one class")
            )
    return {key: str(entry["name"]) for key, entry in found.items()}, notes


def _refuse_unknown(name: str, entry: Any, key: str, known: dict[Any, Any], of: str) -> None:
    """Raises InputError where an annotation's `key` is none of the known ids."""
    noun = key.removesuffix("_id")
    if key not in entry:
        raise InputError(f"{name} has no {key}; give the id of its {noun}.")
    value = entry[key]
    if isinstance(value, int | str) and not isinstance(value, bool) and value in known:
        return
    other = next((one for one in known if str(one) == str(value)), None)
    if other is not None:
        raise InputError(
            f"{name} has the {noun} {value!r} and {of} has {other!r}; write both as whole numbers, without quotation"
            " marks."
        )
    verb = "has the category" if noun == "category" else "is of the image"
    raise InputError(f"{name} {verb} {value!r}, which {of} lacks.")


def _length(path: Path, key: Any, entry: Any, side: str) -> float:
    value = entry.get(side)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{path}: image {key} has the {side} {value!r}; give its number of pixels.")
    return float(value)


def _file_name(path: Path, key: Any, entry: Any) -> str:
    value = entry.get("file_name")
    if not isinstance(value, str) or not value:
        raise InputError(f"{path}: image {key} has the file_name {value!r}; name its file.")
    return value


def _box(name: str, entry: Any, columns: float, rows: float) -> list[float]:
    """The box of an annotation by left, top, right, bottom in shares.  Raises InputError, with its name, where it is
    none.
    """
    given = entry.get("bbox")
    if (
        not isinstance(given, list)
        or len(given) != 4
        or any(isinstance(side, bool) or not isinstance(side, int | float) for side in given)
    ):
        told = f"the bbox {json.dumps(given, default=str)[:60]}" if "bbox" in entry else "no bbox"
        raise InputError(
            f"{name} has {told}; a bbox is left, top, width and height: give four numbers of pixels, or remove the"
            " annotation."
        )
    try:
        left, top, width, height = map(float, given)
    except OverflowError:
        left = top = width = height = math.inf
    box = [left / columns, top / rows, (left + width) / columns, (top + height) / rows]
    if not all(map(math.isfinite, box)):
        told = f"the bbox {str(given)[:60]} in a picture of {columns:g} x {rows:g}"
        raise InputError(f"{name} has {told}; give finite numbers of pixels.")
    return box
