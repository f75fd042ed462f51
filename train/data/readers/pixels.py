"""Pictures as arrays: decoded, cut and turned by a view, and written back as figures of a page."""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.data.notes import Note, Notes
from train.errors import InputError
from train.page import Figure

ORIENTATION, BITS, PHOTOMETRIC, LEAST, LARGEST = 0x0112, 0x0102, 0x0106, 0x0154, 0x0155  # tags of EXIF and TIFF
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def decoded(
    source: Path | bytes, channels: int, draft: tuple[int, int] | None = None, upright: bool = False
) -> np.ndarray:
    """A picture as (rows, columns, channels) of 0 to 255, grey for one channel, else red, green, blue; what is
    transparent is white.

    Grey of more than 8 bits is scaled as `_bytes` says.  `draft` lets a JPEG be decoded smaller, but not below so many
    columns and rows; `upright` turns it as its EXIF orientation says.  Raises ValueError, with the reason, where it
    cannot.
    """
    from PIL import Image

    try:
        with _opened(source) as image:
            turn = _orientation(image) if upright else 1
            if draft is not None:
                image.draft(None, (draft[1], draft[0]) if turn >= 5 else draft)
            image.load()
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                return _channels(oriented(_bytes(image), turn), channels)
            if turn in TURNS:
                image = image.transpose(Image.Transpose[TURNS[turn]])
            if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
                clear = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
            if image.mode == "LAB":
                image = _coloured(image)
            return _channels(np.asarray(image.convert("L" if channels == 1 else "RGB")), channels)
    except Exception as error:  # the library's readers of damaged files raise many
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ValueError("it is no picture" if reason.startswith("cannot identify") else reason) from None


def _opened(source: Path | bytes) -> Any:
    """A picture of any format that the library decodes by itself: PostScript is a program, and another one would run
    it.
    """
    from PIL import Image

    Image.init()
    return Image.open(
        io.BytesIO(source) if isinstance(source, bytes) else source, formats=[one for one in Image.OPEN if one != "EPS"]
    )


def _bytes(image: Any) -> np.ndarray:
    """A grey picture of more than 8 bits as (rows, columns) of 0 to 255.

    Of whole numbers with 16 bits, or as many as a TIFF says that they have, 255 is the largest that there is.  Of 32
    bits, signed numbers and fractions it is the largest that a TIFF says that its values have, else the first of 1 (of
    fractions), 255 and 65,535 that no value exceeds by more than a hundredth, with 0 for 0; values beyond these, and
    below 0, go from the picture's least to its largest.
    """
    values, tags = np.asarray(image), dict(getattr(image, "tag_v2", {}))
    if image.mode.startswith("I;16"):
        low, high = 0.0, 2.0 ** _number(tags.get(BITS), 16) - 1
    elif image.format in ("PNG", "PPM"):
        low, high = 0.0, 65535.0
    else:
        low, high = _range(values)
        low, high = _number(tags.get(LEAST), low), _number(tags.get(LARGEST), high)
    grey = _spread(values, low, high)
    if tags.get(PHOTOMETRIC) == 0:  # white is zero
        grey = 255 - grey
    clear = image.info.get("transparency")
    return np.where(values == clear, np.uint8(255), grey) if isinstance(clear, int) else grey


def _range(values: np.ndarray) -> tuple[float, float]:
    """The values that are to be 0 and 255, of those that `_bytes` says nothing else of.  Raises ValueError for what is
    not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite")
    least, most = float(values.min()), float(values.max())
    tops = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    return next(((0.0, top) for top in tops if least >= 0 and most <= 1.01 * top), (least, most))


def _spread(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(np.float64) - low) / ((high - low) or 1.0), 0, 1) * 255).astype(np.uint8)


def _number(value: Any, otherwise: float) -> float:
    """The number of a tag, or its first."""
    numbers = [one for one in np.atleast_1d(value) if one is not None]
    return float(numbers[0]) if numbers else otherwise


def _coloured(image: Any) -> Any:
    """A picture in L*a*b* as red, green and blue."""
    from PIL import ImageCms

    profiles: Any = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")


def oriented(array: np.ndarray, turn: int) -> np.ndarray:
    """An array (rows, columns, ...) turned as an EXIF orientation from 1 to 8 says."""
    array = array.swapaxes(0, 1) if turn >= 5 else array
    array = array[:, ::-1] if turn in (2, 3, 6, 7) else array
    return array[::-1] if turn in (3, 4, 7, 8) else array


def _orientation(image: Any) -> int:
    """How a picture is to be turned, from 1 to 8; 1 where nothing sound is said, and for a TIFF, which the library
    turns itself.
    """
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except (
        Exception
    ):  # the library raises many for a damaged EXIF; where the picture is damaged too, decoding it says so
        return 1
    return turn if turn in TURNS and image.format != "TIFF" else 1


def sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Columns and rows of a picture as it is stored, and upright.  Raises ValueError, with the reason, for a file that
    is no sound one.
    """
    decodes(path)
    with _opened(path) as image:
        columns, rows = image.size
        return (columns, rows), (rows, columns) if _orientation(image) >= 5 else (columns, rows)


def _channels(array: np.ndarray, channels: int) -> np.ndarray:
    array = array[..., None] if array.ndim == 2 else array
    return np.repeat(array, channels, axis=2) if array.shape[2] == 1 and channels > 1 else array


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture of (rows, columns) pixels, bilinear with antialiasing, as uint8."""
    from PIL import Image

    if image.shape[:2] == size:
        return image
    flat = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    made = np.asarray(flat.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return made[..., None] if made.ndim == 2 else made


def in_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """An array (..., channels) in one grey or three colour channels of 0 to 255; with a second or a fourth channel for
    what is opaque, which is seen on white.

    Numbers other than 8 bits are scaled: 16 bits from 0 to 65,535, truth values from 0 to 1, others as `_bytes` does.
    """
    if array.dtype != np.uint8:
        known = {"uint16": (0.0, 65535.0), "bool": (0.0, 1.0)}
        array = _spread(array, *(known[array.dtype.name] if array.dtype.name in known else _range(array)))
    if array.shape[-1] in (2, 4):
        opaque = array[..., -1:].astype(np.float32) / 255
        array = np.rint(array[..., :-1] * opaque + 255 * (1 - opaque)).astype(np.uint8)
    if array.shape[-1] == channels:
        return array
    grey = (
        array[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        if channels == 1
        else array[..., 0]
    )
    return np.repeat(grey[..., None].astype(np.uint8), channels, axis=-1)


def scaled(image: np.ndarray) -> np.ndarray:
    """Pixels from -1 to 1 in float32, as models read them."""
    return image.astype(np.float32) / 127.5 - 1.0


@dataclasses.dataclass(frozen=True)
class View:
    """What is seen of a picture: a rectangle in shares of its rows and columns, which may reach beyond it, mirrored or
    upside down.
    """

    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0
    mirror: bool = False
    upside: bool = False

    def whole(self, rows: int, columns: int) -> "View":
        """The nearest view of whole pixels of a picture, at least one."""
        top, left = round(self.top * rows) / rows, round(self.left * columns) / columns
        height, width = max(1, round(self.height * rows)) / rows, max(1, round(self.width * columns)) / columns
        return dataclasses.replace(self, top=top, left=left, height=height, width=width)

    def pixels(self, image: np.ndarray, size: tuple[int, int], fill: int = 0) -> np.ndarray:
        """The rectangle, of whole pixels, as (rows, columns, channels) of the size, with `fill` beyond the picture."""
        rows, columns = image.shape[:2]
        snapped = self.whole(rows, columns)
        top, left = round(snapped.top * rows), round(snapped.left * columns)
        height, width = round(snapped.height * rows), round(snapped.width * columns)
        inside = image[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
        if inside.shape[:2] != (height, width):
            above, before = min(max(-top, 0), height), min(max(-left, 0), width)
            whole = np.full((height, width, image.shape[2]), fill, image.dtype)
            whole[above : above + inside.shape[0], before : before + inside.shape[1]] = inside
            inside = whole
        inside = inside[::-1] if self.upside else inside
        return resized(np.ascontiguousarray(inside[:, ::-1] if self.mirror else inside), size)

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) of left, top, right, bottom in shares of the picture, as shares of what is seen; they may reach
        beyond it.
        """
        place = (boxes - [self.left, self.top, self.left, self.top]) / [
            self.width,
            self.height,
            self.width,
            self.height,
        ]
        left, top, right, bottom = place.T
        left, right = (1 - right, 1 - left) if self.mirror else (left, right)
        top, bottom = (1 - bottom, 1 - top) if self.upside else (top, bottom)
        return np.stack([left, top, right, bottom], axis=-1)


def middle(extents: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the largest part of a picture, of these extents, that has the shape of `size`."""
    rows, columns = extents
    height, width = min(rows, round(columns * size[0] / size[1])), min(columns, round(rows * size[1] / size[0]))
    return max(height, 1), max(width, 1)


def cut(extents: Mapping[str, tuple[int, int]], size: tuple[int, int], origin: str, things: str) -> tuple[Note, ...]:
    """A note of the pictures, by names and extents, that are not of the shape of `size`, if there are any."""
    names = tuple(name for name, whole in extents.items() if middle(whole, size) != whole)
    done = f"have another shape than data.size={size} and are cut to their middle"
    return (Note(origin, done, things, names, len(extents)),) if names else ()


def upright(path: Path) -> tuple[int, int]:
    """Rows and columns of a picture as it is seen, from its header."""
    with _opened(path) as image:
        columns, rows = image.size
        return (columns, rows) if _orientation(image) >= 5 else (rows, columns)


def known_extents(paths: Iterable[str], read: Callable[[Path], tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Rows and columns of files by name, without those that cannot be read."""
    found: dict[str, tuple[int, int]] = {}
    for path in paths:
        with contextlib.suppress(Exception):  # the library's readers of damaged files raise many
            found[path] = read(Path(path))
    return found


def centred(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The largest middle part of a picture that has the shape of `size`."""
    rows, columns = image.shape[:2]
    height, width = middle((rows, columns), size)
    if (height, width) == (rows, columns):
        return image
    view = View((rows - height) // 2 / rows, (columns - width) // 2 / columns, height / rows, width / columns)
    return view.pixels(image, (height, width))


def decodes(path: Path) -> None:
    """Raises ValueError, with the reason, for a file that is no sound picture."""
    decoded(path, 1, draft=(64, 64))


def below(folder: Path) -> list[Path]:
    """All files below a folder, and links to folders, which are not followed, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def readable(
    paths: Iterable[Path],
    origin: str,
    read: Callable[[Path], Any] = decodes,
    kinds: tuple[str, ...] = (),
    things: str = "files",
) -> tuple[dict[Path, Any], tuple[Note, ...]]:
    """The files that end as one of the `kinds` (none: any) and that `read` raises no ValueError for, with what it
    gives; and a note of the others.
    """
    sound: dict[Path, Any] = {}
    broken: list[str] = []
    for path in paths:
        try:
            if path.is_dir():
                raise ValueError("it is a folder")
            if kinds and path.suffix.lower() not in kinds:
                raise ValueError(f"its name ends in none of {', '.join(kinds)}")
            sound[path] = read(path)
        except ValueError as error:
            broken.append(f"{path} ({error})")
    note = Note(origin, "cannot be used and are left out", things, tuple(broken), len(sound) + len(broken))
    return sound, (note,) if broken else ()


def files(
    given: Sequence[str],
    notes: Notes,
    kinds: tuple[str, ...] = (),
    noun: str = "pictures",
    read: Callable[[Path], Any] = decodes,
) -> list[str]:
    """The files that files and folders name, those of a folder in the order of their names; `notes` takes those that
    cannot be read.

    Raises InputError where a folder has none.
    """
    found: list[str] = []
    for name in given:
        place = Path(name).expanduser()
        if place.is_dir():
            sound, left = readable(below(place), name, read, kinds)
            if not sound:
                raise InputError(
                    f"The folder {name} has no {noun} that can be read{unread(left, kinds)}; give another."
                )
            notes.take(left)
            found.extend(map(str, sound))
        else:
            found.append(str(place))
    return found


def unread(notes: Sequence[Note], kinds: Sequence[str]) -> str:
    """Words of a sentence: how names of files must end, and the files that cannot be read."""
    return f" ({', '.join(kinds)})" * bool(kinds) + "".join(f", as {note}" for note in notes)


def asked_picture(name: str, channels: int, draft: tuple[int, int] | None = None) -> np.ndarray:
    """A picture to predict from, upright.  Raises InputError where it cannot be read."""
    try:
        return decoded(Path(name), channels, draft, upright=True)
    except ValueError as error:
        raise InputError(f"{name} cannot be read as a picture: {error}; give a file such as a PNG or a JPEG.") from None


def filmstrip(frames: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Pictures of one size side by side, with a white gap between them."""
    white = np.full((frames[0].shape[0], gap, frames[0].shape[2]), 255, np.uint8)
    return np.concatenate([part for frame in frames for part in (white, frame)][1:], axis=1)


def shown_picture(image: np.ndarray, height: int = 96, alternative: str = "") -> Figure:
    """A picture as a figure, `height` pixels high on a page."""
    from PIL import Image

    data = io.BytesIO()
    made: Any = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    made.save(data, format="PNG")
    return Figure(data.getvalue(), height=height, alternative=alternative)
