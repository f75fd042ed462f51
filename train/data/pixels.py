"""Pictures as arrays: decoded, cut and turned by a view, and written back as pieces of a page."""

import base64
import dataclasses
import html
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.spec import InputError

KINDS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
ORIENTATION = 0x0112  # the tag of EXIF
TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}


def decoded(source: Path | bytes, channels: int, draft: tuple[int, int] | None = None, upright: bool = False) -> np.ndarray:
    """A picture as (rows, columns, channels) of 0 to 255, grey for one channel, else red, green, blue; what is transparent is white.

    `draft` lets a JPEG be decoded smaller, but not below so many columns and rows; `upright` turns it as its EXIF orientation says.
    Raises ValueError, with the reason, where it cannot.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            turn = _orientation(image) if upright else 1
            if draft is not None:
                image.draft(None, (draft[1], draft[0]) if turn >= 5 else draft)
            image.load()
            if turn in TURNS:
                image = image.transpose(Image.Transpose[TURNS[turn]])
            if image.mode.startswith("I;16") or image.mode == "I":
                return _channels((np.asarray(image).astype(np.float32) / 257).clip(0, 255).astype(np.uint8), channels)
            if "A" in image.getbands() or "transparency" in image.info:
                clear = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
            return _channels(np.asarray(image.convert("L" if channels == 1 else "RGB")), channels)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError("it is no picture" if reason.startswith("cannot identify") else reason) from None


def _orientation(image: Any) -> int:
    """How a picture is to be turned, from 1 to 8; 1 where nothing sound is said, and for a TIFF, which the library turns itself."""
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # the library raises many for a damaged EXIF; where the picture is damaged too, decoding it says so
        return 1
    return turn if turn in TURNS and image.format != "TIFF" else 1


def sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Columns and rows of a picture as it is stored, and upright.  Raises ValueError, with the reason, for a file that is no sound one."""
    from PIL import Image

    decodes(path)
    with Image.open(path) as image:
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
    """An array (..., channels) of 0 to 255 in one grey or three colour channels."""
    if array.shape[-1] == channels:
        return array
    grey = array[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) if channels == 1 else array[..., 0]
    return np.repeat(grey[..., None].astype(np.uint8), channels, axis=-1)


def scaled(image: np.ndarray) -> np.ndarray:
    """Pixels from -1 to 1 in float32, as models read them."""
    return image.astype(np.float32) / 127.5 - 1.0


@dataclasses.dataclass(frozen=True)
class View:
    """What is seen of a picture: a rectangle in shares of its rows and columns, which may reach beyond it, mirrored or upside down."""

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
        """Boxes (n, 4) of left, top, right, bottom in shares of the picture, as shares of what is seen; they may reach beyond it."""
        place = (boxes - [self.left, self.top, self.left, self.top]) / [self.width, self.height, self.width, self.height]
        left, top, right, bottom = place.T
        left, right = (1 - right, 1 - left) if self.mirror else (left, right)
        top, bottom = (1 - bottom, 1 - top) if self.upside else (top, bottom)
        return np.stack([left, top, right, bottom], axis=-1)


def centred(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The largest middle part of a picture that has the shape of `size`."""
    rows, columns = image.shape[:2]
    height, width = min(rows, round(columns * size[0] / size[1])), min(columns, round(rows * size[1] / size[0]))
    if (height, width) == (rows, columns):
        return image
    height, width = max(height, 1), max(width, 1)
    view = View((rows - height) // 2 / rows, (columns - width) // 2 / columns, height / rows, width / columns)
    return view.pixels(image, (height, width))


def decodes(path: Path) -> None:
    """Raises ValueError, with the reason, for a file that is no sound picture."""
    decoded(path, 1, draft=(64, 64))


def readable(paths: Iterable[Path], origin: str, noun: str = "pictures", read: Callable[[Path], Any] = decodes) -> dict[Path, Any]:
    """The files that `read` raises no ValueError for, with what it gives; the others are counted and named on standard error."""
    sound: dict[Path, Any] = {}
    broken: list[str] = []
    for path in paths:
        try:
            sound[path] = read(path)
        except ValueError as error:
            broken.append(f"{path} ({error})")
    if broken:
        named = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        print(f"{len(broken)} of {len(sound) + len(broken)} {noun} of {origin} cannot be used and are left out: {named}", file=sys.stderr)
    return sound


def files(given: Sequence[str], kinds: tuple[str, ...] = KINDS, noun: str = "pictures", read: Callable[[Path], Any] = decodes) -> list[str]:
    """The files that files and folders name, those of a folder in the order of their names without those that cannot be read.

    Raises InputError where a folder has none.
    """
    found: list[str] = []
    for name in given:
        place = Path(name).expanduser()
        if place.is_dir():
            inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in kinds and path.is_file())
            sound = readable(inside, name, noun, read)
            if not sound:
                raise InputError(f"The folder {name} has no {noun} that can be read ({', '.join(kinds)}); give another.")
            found.extend(map(str, sound))
        else:
            found.append(str(place))
    return found


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


def shown_picture(image: np.ndarray, height: int = 96, alternative: str = "") -> str:
    """A picture as a piece of a page that needs nothing else."""
    from PIL import Image

    data = io.BytesIO()
    made: Any = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    made.save(data, format="PNG")
    source = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{html.escape(alternative)}" style="height: {height}px; image-rendering: auto" src="data:image/png;base64,{source}">'
