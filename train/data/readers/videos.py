"""Videos as arrays: counted, sampled, decoded by FFmpeg.  What takes long to import is imported when it is needed."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.data.readers.pixels import oriented

KINDS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
WHOLE = 0.9  # a video that has less than this part of the frames that it announces was cut off


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A file and its first video; what FFmpeg finds wrong is a ValueError with the reason."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("it has no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"it is no video, or damaged: {reason}") from None


def counted(path: Path) -> int:
    """How many frames a video has, by decoding all of them.  Raises ValueError where it has none, is damaged, or was
    cut off.
    """
    with _opened(path) as (container, stream):
        count, seconds = 0, 0.0
        for frame in container.decode(stream):
            count += 1
            seconds = max(
                seconds, float(((frame.pts or 0) - (stream.start_time or 0) + (frame.duration or 0)) * stream.time_base)
            )
        told, lasts = stream.frames, _lasts(container, stream)
    if not count:
        raise ValueError("it has no frames")
    # it announces none, and ends so
    if path.suffix.lower() == ".gif" and not path.read_bytes().rstrip(b"\0").endswith(b";"):
        raise ValueError(f"it was cut off after {count} frames")
    # Cut frames are announced and may be many; frames that are held for long are few.
    if (told or lasts) and count < WHOLE * (told or math.inf) and seconds < WHOLE * (lasts or math.inf):
        raise ValueError(
            f"it was cut off after {count} of {told} frames"
            if told
            else f"it was cut off after {seconds:.2g} of {lasts:.2g} s"
        )
    return count


def upright(path: Path) -> tuple[int, int]:
    """Rows and columns of a video as it is seen, of its first frame.  Raises ValueError if it has none."""
    with _opened(path) as (container, stream):
        for frame in container.decode(stream):
            turned = _orientation(frame) >= 5
            return (frame.width, frame.height) if turned else (frame.height, frame.width)
    raise ValueError("it has no frames")


def _lasts(container: Any, stream: Any) -> float:
    """How many seconds a video says that it lasts; 0 where it says nothing, or what is said may be of its sound."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # as Matroska writes it
    hours, minutes, seconds = ([*stream.metadata.get("DURATION", "").split(":"), "", "", ""])[:3]
    with contextlib.suppress(ValueError):
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return 0.0 if container.streams.audio else (container.duration or 0) / 1e6


def decoded(path: Path, channels: int, places: Sequence[int]) -> list[np.ndarray]:
    """The frames at some places, ascending, each (rows, columns, channels) of 0 to 255, grey for one channel, else red,
    green, blue.

    A video is decoded from its start; its frames are turned upright, as its display matrix says.
    Raises ValueError, with the reason, where it cannot be.
    """
    wanted, found = set(places), dict[int, np.ndarray]()
    with _opened(path) as (container, stream):
        for place, frame in enumerate(container.decode(stream)):
            if place in wanted:
                array = frame.to_ndarray(format="gray" if channels == 1 else "rgb24")
                found[place] = oriented(array[..., None] if array.ndim == 2 else array, _orientation(frame))
            if place >= places[-1]:
                break
    if len(found) < len(wanted):
        raise ValueError(f"it has {len(found)} of the frames {', '.join(map(str, sorted(wanted)))}")
    return [found[place] for place in places]


def _orientation(frame: Any) -> int:
    """How a frame is to be turned for display, as an EXIF orientation from 1 to 8; 1 unless its display matrix says
    otherwise.

    The matrix is of 3 x 3 numbers, of which the upper left 2 x 2, (a, b) and (c, d), map a column and a row (x, y) to
    (a x + c y, b x + d y).  It is taken for the nearest that keeps rows and columns straight.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.float64)
    if abs(b) + abs(c) > abs(a) + abs(d):  # rows become columns
        return {(False, False): 5, (True, False): 6, (True, True): 7, (False, True): 8}[bool(c < 0), bool(b < 0)]
    return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[bool(a < 0), bool(d < 0)]


def sampled(count: int, frames: int, span: float = 1.0, chance: np.random.Generator | None = None) -> list[int]:
    """Which `frames` of `count` frames are seen: the middles of equal parts, or by chance one at the same place of each
    part.

    By chance the parts cover the share `span` of the video, from a start drawn too.  A video that is too short repeats
    its last frame.
    """
    if count <= frames:
        return [min(place, count - 1) for place in range(frames)]
    length = float(count) if chance is None else max(float(frames), span * count)
    start, place = (0.0, 0.5) if chance is None else (chance.random() * (count - length), chance.random())
    return [int(start + (part + place) * length / frames) for part in range(frames)]
