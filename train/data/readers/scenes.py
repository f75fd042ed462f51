"""Object detection data: COCO files and Pascal VOC folders."""

import dataclasses
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.data.notes import Note
from train.data.readers.pixels import list_files, read_all, read_sizes
from train.data.sources import Example
from train.data.sources.text_files import read_text
from train.errors import InputError

Id = int | str
Entry = Mapping[str, object]  # an image, a category or an annotation of a COCO file


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image with its boxes (n, 4): left, top, right, bottom in fractions of the image, their labels and crowd flags.

    `source` is its file, or the examples of a data set and an index.  `turned` images are seen in EXIF orientation.
    """

    source: Path | tuple[Sequence[Example], int]
    name: str
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    turned: bool = False


@dataclasses.dataclass(frozen=True)
class Scenes:
    """The images of a part, the class names of their labels, their origin, and the reader's notes.

    `listed` are the image files that the annotations name, `present` all files in the folders of these.
    """

    scenes: list[Scene]
    classes: tuple[str, ...]
    origin: str
    notes: tuple[Note, ...] = ()
    listed: frozenset[Path] = frozenset()
    present: frozenset[Path] = frozenset()


class Object(NamedTuple):
    """A class, a box (left, top, right, bottom in fractions of the image), a crowd flag, and a name for messages."""

    kind: str
    box: list[float]
    crowd: bool
    name: str


class Listed(NamedTuple):
    """An image that annotations list: its path, its columns and rows, and its objects."""

    path: Path
    size: tuple[float, float]
    objects: list[Object]


def _check_listed(
    images: Sequence[Listed], classes: tuple[str, ...] | None, origin: str, present: Sequence[Path], advice: str
) -> Scenes:
    """Keeps the images that can be read, with boxes clipped to them; notes clipped boxes, and those without area.

    Raises InputError, with the `advice`, if no image can be read.
    """
    sizes: dict[Path, set[tuple[float, float]]] = {}
    for path, size, _ in images:
        sizes.setdefault(path, set()).add(size)

    def read_stored(path: Path) -> tuple[int, int]:
        both = read_sizes(path)
        for size in sizes[path].difference(both):
            raise ValueError(f"it has {both[0][0]} x {both[0][1]} pixels, and {size[0]:g} x {size[1]:g} are listed")
        return both[0]

    usable, left = read_all(sizes, origin, read_stored, things="pictures")
    names = classes if classes is not None else tuple(sorted({item.kind for image in images for item in image.objects}))
    scenes: list[Scene] = []
    cut: list[str] = []
    empty: list[str] = []
    count = 0
    for path, size, objects in images:
        if path not in usable:
            continue
        count += len(objects)
        turned = size != usable[path]
        boxes = np.array([item.box for item in objects], np.float64).reshape(-1, 4)
        inside = boxes.clip(0, 1).astype(np.float32)
        some = ((inside[:, 2:] - inside[:, :2]) > 0).all(-1) if len(boxes) else np.zeros(0, bool)
        beyond = np.abs(inside - boxes).max(-1, initial=0) > 1e-3
        cut += [objects[index].name for index in np.flatnonzero(beyond & some)]
        empty += [objects[index].name for index in np.flatnonzero(~some)]
        labels = np.array([names.index(item.kind) for item in objects], np.int32)
        crowd = np.array([item.crowd for item in objects], bool)
        scenes.append(Scene(path, path.name, inside[some], labels[some], crowd[some], turned))
    if not scenes:
        raise InputError(f"{origin} has no picture that can be used {advice}{''.join(f': {note}' for note in left)}.")
    notes = [*left]
    for done, some in (("reach beyond their pictures and are cut", cut), ("have no area and are left out", empty)):
        notes += [Note(origin, done, "boxes", tuple(some), count)] if some else []
    return Scenes(scenes, names, origin, tuple(notes), frozenset(sizes), frozenset(present))


def note_unlisted(parts: Sequence[Scenes]) -> tuple[Note, ...]:
    """Notes the files among the images that no part lists."""
    listed = {path.resolve() for part in parts for path in part.listed}
    present = {path.resolve() for part in parts for path in part.present}
    left = tuple(map(str, sorted(present - listed)))
    return (Note(parts[0].origin, "are listed nowhere and are left out", "files", left, len(present)),) if left else ()


def read_voc(folder: Path) -> Scenes:
    """Reads a Pascal VOC folder.  Raises InputError, naming the file, for another format."""
    inside = sorted((folder / "Annotations").glob("*"))
    files = [file for file in inside if file.suffix.lower() == ".xml"]
    if not files:
        raise InputError(
            f"{folder} has no Annotations/*.xml; give a Pascal VOC folder, or a COCO file ending in .json."
        )
    pictures = folder / "JPEGImages"
    scenes = _check_listed(
        [read_voc_file(file) for file in files],
        None,
        str(folder),
        list_files(pictures),
        f"in {pictures}; put them there",
    )
    others = tuple(str(file) for file in inside if file not in files)
    note = Note(str(folder / "Annotations"), "do not end in .xml and are left out", "files", others, len(inside))
    return dataclasses.replace(scenes, notes=(*scenes.notes, note)) if others else scenes


def read_voc_file(file: Path) -> Listed:
    """Reads a Pascal VOC annotation of an image.  Raises InputError if the file has another format."""
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
            # pixels are numbered from 1, and the box includes its last
            box = [(left - 1) / columns, (top - 1) / rows, right / columns, bottom / rows]
            if not all(map(math.isfinite, box)):
                raise ValueError(f"a box of {left:g}, {top:g}, {right:g}, {bottom:g}")
            objects.append(
                Object((item.findtext("name") or "").strip() or "object", box, False, f"object {number} of {file.name}")
            )
    except (OSError, ET.ParseError, ValueError, LookupError) as error:  # LookupError for an unknown encoding
        raise InputError(
            f"{file} is not a Pascal VOC annotation ({error}); each needs a size and boxes of four numbers."
        ) from None
    return Listed(
        file.parent.parent / "JPEGImages" / (root.findtext("filename") or f"{file.stem}.jpg"), (columns, rows), objects
    )


def read_coco(path: Path, images: Path | None, setting: str) -> Scenes:
    """Reads a COCO file with the folder of its images, which `setting` chooses.

    Raises InputError for another format, naming the image, the category or the annotation.
    """
    try:
        data = json.loads(read_text(str(path)))
        classes, notes = _read_categories(path, data["categories"], data["annotations"])
        listed = _index_by_id(path, "image", data["images"])
        sides = {
            key: (_read_length(path, key, entry, "width"), _read_length(path, key, entry, "height"))
            for key, entry in listed.items()
        }
        objects: dict[Id, list[Object]] = {key: [] for key in listed}
        for index, entry in enumerate(data["annotations"]):
            name = f"annotation {entry['id']}" if "id" in entry else f"annotation number {index + 1}"
            for key, known, of in (("category_id", classes, "categories"), ("image_id", listed, "images")):
                _refuse_unknown(f"{path}: {name}", entry, key, known, of)
            columns, rows = sides[entry["image_id"]]
            box = _read_box(f"{path}: {name}", entry, columns, rows)
            crowd = entry.get("iscrowd", 0)
            if crowd not in (0, 1, None):
                raise InputError(f"{path}: {name} has iscrowd {crowd!r}; give 0 or 1.")
            objects[entry["image_id"]].append(Object(classes[entry["category_id"]], box, bool(crowd), name))
        beside = path.parent / "images"
        folder = images or (beside if beside.is_dir() else path.parent)
        named = [
            Listed(folder / _read_file_name(path, key, entry), sides[key], objects[key])
            for key, entry in listed.items()
        ]
    except (json.JSONDecodeError, RecursionError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"{path} is not a COCO file ({type(error).__name__}: {error}); it needs images, annotations and categories."
        ) from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a COCO file ({error}); a bbox is left, top, width and height.") from None
    if folder != path.parent:
        files = list_files(folder)
    else:  # anything may lie beside the COCO file: only the folders of listed images are searched
        files = [file for inner in {image.path.parent for image in named} for file in inner.glob("*")]
    present = [file for file in files if file.is_file() and file.suffix.lower() != ".json"]
    sound = _check_listed(
        named, tuple(dict.fromkeys(classes.values())), str(path), present, f"in {folder}; set {setting} to their folder"
    )
    return dataclasses.replace(sound, notes=(*notes, *sound.notes))


def _index_by_id(path: Path, kind: str, entries: Sequence[Entry]) -> dict[Id, Entry]:
    """Indexes entries by id.  Raises InputError for an entry without an id, or with the id of another."""
    by_id: dict[Id, Entry] = {}
    for index, entry in enumerate(entries):
        key = entry.get("id")
        if isinstance(key, bool) or not isinstance(key, int | str):
            raise InputError(f"{path}: {kind} number {index + 1} has the id {key!r}; give a whole number.")
        if key in by_id:
            raise InputError(f"{path}: two entries of {kind} have the id {key!r}; give each one of its own.")
        by_id[key] = entry
    return by_id


def _read_categories(
    path: Path, entries: Sequence[Entry], annotations: Sequence[Entry]
) -> tuple[dict[Id, str], list[Note]]:
    """Reads class names by category id, and notes names that several categories share.

    Raises InputError if annotations use more than one category of a name.
    """
    categories = _index_by_id(path, "category", entries)
    names: dict[str, list[Id]] = {}
    for key, entry in categories.items():
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
    return {key: str(entry["name"]) for key, entry in categories.items()}, notes


def _refuse_unknown(name: str, entry: Entry, key: str, known: Mapping[Id, object], of: str) -> None:
    """Raises InputError unless an annotation's `key` is one of the known ids."""
    noun = key.removesuffix("_id")
    if key not in entry:
        raise InputError(f"{name} has no {key}; give the id of its {noun}.")
    value = entry[key]
    if isinstance(value, int | str) and not isinstance(value, bool) and value in known:
        return
    other = next((candidate for candidate in known if str(candidate) == str(value)), None)
    if other is not None:
        raise InputError(
            f"{name} has the {noun} {value!r} and {of} has {other!r}; write both as whole numbers, without quotation"
            " marks."
        )
    verb = "has the category" if noun == "category" else "is of the image"
    raise InputError(f"{name} {verb} {value!r}, which {of} lacks.")


def _read_length(path: Path, key: Id, entry: Entry, side: str) -> float:
    value = entry.get(side)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{path}: image {key} has the {side} {value!r}; give its number of pixels.")
    return float(value)


def _read_file_name(path: Path, key: Id, entry: Entry) -> str:
    value = entry.get("file_name")
    if not isinstance(value, str) or not value:
        raise InputError(f"{path}: image {key} has the file_name {value!r}; name its file.")
    return value


def _read_box(name: str, entry: Entry, columns: float, rows: float) -> list[float]:
    """Reads an annotation's box: left, top, right, bottom in fractions.  Raises InputError if it is not a box."""
    bbox = entry.get("bbox")
    if (
        not isinstance(bbox, list)
        or len(bbox) != 4
        or any(isinstance(side, bool) or not isinstance(side, int | float) for side in bbox)
    ):
        what = f"the bbox {json.dumps(bbox, default=str)[:60]}" if "bbox" in entry else "no bbox"
        raise InputError(
            f"{name} has {what}; a bbox is left, top, width and height: give four numbers of pixels, or remove the"
            " annotation."
        )
    try:
        left, top, width, height = map(float, bbox)
    except OverflowError:
        left = top = width = height = math.inf
    box = [left / columns, top / rows, (left + width) / columns, (top + height) / rows]
    if not all(map(math.isfinite, box)):
        what = f"the bbox {str(bbox)[:60]} in a picture of {columns:g} x {rows:g}"
        raise InputError(f"{name} has {what}; give finite numbers of pixels.")
    return box
