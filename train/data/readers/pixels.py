"""Images as arrays: decoding, EXIF orientation, resizing, cropping, and figures of a page."""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from train.data.notes import Note, Notes
from train.errors import InputError
from train.page import Figure

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Content = TypeVar("Content")
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


def decode(
    source: Path | bytes, channels: int, draft: tuple[int, int] | None = None, upright: bool = False
) -> np.ndarray:
    """Decodes an image to (rows, columns, channels) of 0 to 255: grey for one channel, otherwise red, green, blue.

    Transparent pixels become white.  Grey of more than 8 bits is scaled as in `_to_bytes`.  `draft` lets a JPEG be
    decoded smaller, but not below so many columns and rows; `upright` applies the EXIF orientation.  Raises ValueError,
    with the reason, if it cannot be decoded.
    """
    from PIL import Image

    try:
        with _open(source) as image:
            turn = _read_orientation(image) if upright else 1
            if draft is not None:
                image.draft(None, (draft[1], draft[0]) if turn >= 5 else draft)
            image.load()
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                return _repeat_channels(orient(_to_bytes(image), turn), channels)
            if turn in TURNS:
                image = image.transpose(Image.Transpose[TURNS[turn]])
            if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
                clear = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
            if image.mode == "LAB":
                image = _convert_lab(image)
            return _repeat_channels(np.asarray(image.convert("L" if channels == 1 else "RGB")), channels)
    except Exception as error:  # the library raises errors of many types for damaged files
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ValueError("it is no picture" if reason.startswith("cannot identify") else reason) from None


def _open(source: Path | bytes) -> "PILImage":
    """Opens an image of any format that the library decodes by itself; for PostScript it runs another program."""
    from PIL import Image

    Image.init()
    return Image.open(
        io.BytesIO(source) if isinstance(source, bytes) else source,
        formats=[name for name in Image.OPEN if name != "EPS"],
    )


def _to_bytes(image: "PILImage") -> np.ndarray:
    """Scales a grey image of more than 8 bits to (rows, columns) of 0 to 255.

    For unsigned integers of 16 bits, or of the bits that a TIFF names, the largest integer becomes 255.  For 32 bits,
    signed integers and floats, the maximum that a TIFF names becomes 255; otherwise the first of 1 (floats only), 255
    and 65,535 that no value exceeds by more than a hundredth, with 0 as 0.  If values exceed all of these, or are below
    0, the image's own minimum and maximum become 0 and 255.
    """
    values, tags = np.asarray(image), dict(getattr(image, "tag_v2", {}))
    if image.mode.startswith("I;16"):
        low, high = 0.0, 2.0 ** _read_number(tags.get(BITS), 16) - 1
    elif image.format in ("PNG", "PPM"):
        low, high = 0.0, 65535.0
    else:
        low, high = _find_range(values)
        low, high = _read_number(tags.get(LEAST), low), _read_number(tags.get(LARGEST), high)
    grey = _stretch(values, low, high)
    if tags.get(PHOTOMETRIC) == 0:  # zero is white
        grey = 255 - grey
    clear = image.info.get("transparency")
    return np.where(values == clear, np.uint8(255), grey) if isinstance(clear, int) else grey


def _find_range(values: np.ndarray) -> tuple[float, float]:
    """Finds the values that become 0 and 255 by the last rule of `_to_bytes`.  Raises ValueError unless finite."""
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite")
    least, most = float(values.min()), float(values.max())
    tops = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    return next(((0.0, top) for top in tops if least >= 0 and most <= 1.01 * top), (least, most))


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(np.float64) - low) / ((high - low) or 1.0), 0, 1) * 255).astype(np.uint8)


def _read_number(value: Any, otherwise: float) -> float:
    """Reads the number of a tag, or its first."""
    numbers = [number for number in np.atleast_1d(value) if number is not None]
    return float(numbers[0]) if numbers else otherwise


def _convert_lab(image: "PILImage") -> "PILImage":
    """Converts an image from L*a*b* to sRGB."""
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # unless in place
    return converted


def orient(array: np.ndarray, turn: int) -> np.ndarray:
    """Applies an EXIF orientation from 1 to 8 to an array (rows, columns, ...)."""
    array = array.swapaxes(0, 1) if turn >= 5 else array
    array = array[:, ::-1] if turn in (2, 3, 6, 7) else array
    return array[::-1] if turn in (3, 4, 7, 8) else array


def _read_orientation(image: "PILImage") -> int:
    """Reads the EXIF orientation, 1 to 8; 1 if it is absent or damaged, and for a TIFF, which the library turns."""
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # errors of many types for damaged EXIF; a damaged image is refused when it is decoded
        return 1
    return turn if turn in TURNS and image.format != "TIFF" else 1


def read_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Reads columns and rows of an image as stored, and upright.  Raises ValueError if it cannot be decoded."""
    require_decodable(path)
    with _open(path) as image:
        columns, rows = image.size
        return (columns, rows), (rows, columns) if _read_orientation(image) >= 5 else (columns, rows)


def _repeat_channels(array: np.ndarray, channels: int) -> np.ndarray:
    array = array[..., None] if array.ndim == 2 else array
    return np.repeat(array, channels, axis=2) if array.shape[2] == 1 and channels > 1 else array


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image to (rows, columns), bilinear with antialiasing, as uint8."""
    from PIL import Image

    if image.shape[:2] == size:
        return image
    flat = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    smaller = np.asarray(flat.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return smaller[..., None] if smaller.ndim == 2 else smaller


def convert_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """Converts an array (..., channels) to one grey or three colour channels of 0 to 255.

    A second or fourth channel is alpha, blended onto white.  Types other than uint8 are scaled: uint16 from 0 to
    65,535, booleans from 0 to 1, others as in `_to_bytes`.
    """
    if array.dtype != np.uint8:
        known = {"uint16": (0.0, 65535.0), "bool": (0.0, 1.0)}
        array = _stretch(array, *(known[array.dtype.name] if array.dtype.name in known else _find_range(array)))
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


def normalise(image: np.ndarray) -> np.ndarray:
    """Normalises pixels of 0 to 255 to -1 to 1 in float32."""
    return image.astype(np.float32) / 127.5 - 1.0


@dataclasses.dataclass(frozen=True)
class View:
    """A crop: a rectangle in fractions of an image's rows and columns, which may reach beyond it, and its flips."""

    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0
    mirror: bool = False
    upside: bool = False

    def snap(self, rows: int, columns: int) -> "View":
        """The nearest view of whole pixels, at least one."""
        top, left = round(self.top * rows) / rows, round(self.left * columns) / columns
        height, width = max(1, round(self.height * rows)) / rows, max(1, round(self.width * columns)) / columns
        return dataclasses.replace(self, top=top, left=left, height=height, width=width)

    def crop(self, image: np.ndarray, size: tuple[int, int], fill: int = 0) -> np.ndarray:
        """Crops an image (rows, columns, channels) to whole pixels and resizes it; `fill` is used beyond the image."""
        rows, columns = image.shape[:2]
        snapped = self.snap(rows, columns)
        top, left = round(snapped.top * rows), round(snapped.left * columns)
        height, width = round(snapped.height * rows), round(snapped.width * columns)
        inside = image[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
        if inside.shape[:2] != (height, width):
            above, before = min(max(-top, 0), height), min(max(-left, 0), width)
            whole = np.full((height, width, image.shape[2]), fill, image.dtype)
            whole[above : above + inside.shape[0], before : before + inside.shape[1]] = inside
            inside = whole
        inside = inside[::-1] if self.upside else inside
        return resize(np.ascontiguousarray(inside[:, ::-1] if self.mirror else inside), size)

    def map_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Maps boxes (n, 4): left, top, right, bottom in fractions of the image to fractions of the view, unclipped."""
        origin = [self.left, self.top, self.left, self.top]
        extent = [self.width, self.height, self.width, self.height]
        left, top, right, bottom = ((boxes - origin) / extent).T
        left, right = (1 - right, 1 - left) if self.mirror else (left, right)
        top, bottom = (1 - bottom, 1 - top) if self.upside else (top, bottom)
        return np.stack([left, top, right, bottom], axis=-1)


def find_middle(extents: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Finds rows and columns of the largest crop of an image of these extents that has the aspect ratio of `size`."""
    rows, columns = extents
    height, width = min(rows, round(columns * size[0] / size[1])), min(columns, round(rows * size[1] / size[0]))
    return max(height, 1), max(width, 1)


def note_cut(
    extents: Mapping[str, tuple[int, int]], size: tuple[int, int], origin: str, things: str
) -> tuple[Note, ...]:
    """Notes the images, by names and extents, that have another aspect ratio than `size`, if there are any."""
    names = tuple(name for name, whole in extents.items() if find_middle(whole, size) != whole)
    done = f"have another shape than data.size={size} and are cut to their middle"
    return (Note(origin, done, things, names, len(extents)),) if names else ()


def read_extents(path: Path) -> tuple[int, int]:
    """Reads rows and columns of an image, upright, from its header."""
    with _open(path) as image:
        columns, rows = image.size
        return (columns, rows) if _read_orientation(image) >= 5 else (rows, columns)


def collect_extents(paths: Iterable[str], read: Callable[[Path], tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Reads rows and columns of files by name; leaves out files that cannot be read."""
    extents: dict[str, tuple[int, int]] = {}
    for path in paths:
        with contextlib.suppress(Exception):  # the library raises errors of many types for damaged files
            extents[path] = read(Path(path))
    return extents


def crop_centre(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crops an image to its largest middle part that has the aspect ratio of `size`."""
    rows, columns = image.shape[:2]
    height, width = find_middle((rows, columns), size)
    if (height, width) == (rows, columns):
        return image
    view = View((rows - height) // 2 / rows, (columns - width) // 2 / columns, height / rows, width / columns)
    return view.crop(image, (height, width))


def require_decodable(path: Path) -> None:
    """Raises ValueError, with the reason, unless a file is an image that can be decoded."""
    decode(path, 1, draft=(64, 64))


def list_files(folder: Path) -> list[Path]:
    """Lists all files below a folder in the order of their names, and links to folders, which are not followed."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def read_all(
    paths: Iterable[Path],
    origin: str,
    read: Callable[[Path], Content],
    kinds: tuple[str, ...] = (),
    things: str = "files",
) -> tuple[dict[Path, Content], tuple[Note, ...]]:
    """Reads files with a suffix of `kinds` (any if empty): the results of `read` by path, and a note of the others.

    The others have another suffix, or `read` raises ValueError for them.
    """
    sound: dict[Path, Content] = {}
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


def expand_files(
    names: Sequence[str],
    notes: Notes,
    kinds: tuple[str, ...] = (),
    noun: str = "pictures",
    read: Callable[[Path], object] = require_decodable,
) -> list[str]:
    """Replaces folders by their files in the order of their names; `notes` takes files of folders that cannot be read.

    Raises InputError if a folder has no file that can be read.
    """
    paths: list[str] = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            sound, left = read_all(list_files(path), name, read, kinds)
            if not sound:
                raise InputError(
                    f"The folder {name} has no {noun} that can be read{explain_unread(left, kinds)}; give another."
                )
            notes.take(left)
            paths.extend(map(str, sound))
        else:
            paths.append(str(path))
    return paths


def explain_unread(notes: Sequence[Note], kinds: Sequence[str]) -> str:
    """The clause of a message with the suffixes that files must have, and the files that cannot be read."""
    return f" ({', '.join(kinds)})" * bool(kinds) + "".join(f", as {note}" for note in notes)


def read_picture(name: str, channels: int, draft: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes an image to predict from, upright.  Raises InputError if it cannot be decoded."""
    try:
        return decode(Path(name), channels, draft, upright=True)
    except ValueError as error:
        raise InputError(f"{name} cannot be read as a picture: {error}; give a file such as a PNG or a JPEG.") from None


def join_frames(frames: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Joins images of one size side by side, with white gaps."""
    white = np.full((frames[0].shape[0], gap, frames[0].shape[2]), 255, np.uint8)
    return np.concatenate([part for frame in frames for part in (white, frame)][1:], axis=1)


def make_figure(image: np.ndarray, height: int = 96, alternative: str = "") -> Figure:
    """Encodes an image as a PNG figure, `height` pixels high on a page."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(data, format="PNG")
    return Figure(data.getvalue(), height=height, alternative=alternative)
