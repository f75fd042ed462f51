"""Videos as arrays: counting, choosing and decoding frames with FFmpeg, which is imported on first use."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from train.data.readers.pixels import orient

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Formats that hold their frames themselves: a playlist, which FFmpeg knows by its text, would name other files.
FORMATS = "mov,avi,matroska,webm,gif,mpeg,mpegts,flv,ogg,asf"
KINDS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
WHOLE = 0.9  # a video with less than this fraction of the frames that its header announces is truncated


@contextlib.contextmanager
def _open(path: Path) -> "Iterator[tuple[InputContainer, VideoStream]]":
    """Opens a file and its first video stream; raises errors of FFmpeg as ValueError with the reason."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path), options={"format_whitelist": FORMATS, "protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise ValueError("it has no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"it is no video, or damaged: {reason}") from None


def count_frames(path: Path) -> int:
    """Counts the frames of a video by decoding all.  Raises ValueError if it has none, is damaged, or is truncated."""
    with _open(path) as (container, stream):
        count, seconds = 0, 0.0
        for frame in container.decode(stream):
            count += 1
            ticks = (frame.pts or 0) - (stream.start_time or 0) + (frame.duration or 0)
            seconds = max(seconds, _to_seconds(ticks, stream))
        announced = stream.frames
        lasts = _read_duration(container, stream)
    if not count:
        raise ValueError("it has no frames")
    # a GIF announces no frames, and ends in a semicolon
    if path.suffix.lower() == ".gif" and not path.read_bytes().rstrip(b"\0").endswith(b";"):
        raise ValueError(f"it was cut off after {count} frames")
    # both must fall short: edit lists drop announced frames, and a few long frames may fill the duration
    if (announced or lasts) and count < WHOLE * (announced or math.inf) and seconds < WHOLE * (lasts or math.inf):
        raise ValueError(
            f"it was cut off after {count} of {announced} frames"
            if announced
            else f"it was cut off after {seconds:.2g} of {lasts:.2g} s"
        )
    return count


def read_extents(path: Path) -> tuple[int, int]:
    """Reads rows and columns of a video's first frame, upright.  Raises ValueError if it has no frame."""
    with _open(path) as (container, stream):
        for frame in container.decode(stream):
            turned = _read_orientation(frame) >= 5
            return (frame.width, frame.height) if turned else (frame.height, frame.width)
    raise ValueError("it has no frames")


def _to_seconds(ticks: int, stream: "VideoStream") -> float:
    assert stream.time_base is not None
    return float(ticks * stream.time_base)


def _read_duration(container: "InputContainer", stream: "VideoStream") -> float:
    """Reads the duration of a video in seconds; 0 if the file has none, or one that may be of its sound."""
    if stream.duration:
        return _to_seconds(stream.duration, stream)
    # Matroska keeps it in the metadata
    hours, minutes, seconds = ([*stream.metadata.get("DURATION", "").split(":"), "", "", ""])[:3]
    with contextlib.suppress(ValueError):
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return 0.0 if container.streams.audio else (container.duration or 0) / 1e6


def decode(path: Path, channels: int, indices: Sequence[int]) -> list[np.ndarray]:
    """Decodes the frames of ascending indices, each (rows, columns, channels) of 0 to 255.

    One channel is grey, three are red, green, blue.  The video is decoded from its start; frames are turned upright by
    its display matrix.  Raises ValueError, with the reason, if it cannot be decoded.
    """
    wanted = set(indices)
    frames: dict[int, np.ndarray] = {}
    with _open(path) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                array = frame.to_ndarray(format="gray" if channels == 1 else "rgb24")
                frames[index] = orient(array[..., None] if array.ndim == 2 else array, _read_orientation(frame))
            if index >= indices[-1]:
                break
    if len(frames) < len(wanted):
        raise ValueError(f"it has {len(frames)} of the frames {', '.join(map(str, sorted(wanted)))}")
    return [frames[index] for index in indices]


def _read_orientation(frame: "VideoFrame") -> int:
    """Reads a frame's display matrix as an EXIF orientation from 1 to 8; 1 if it has none.

    The upper left 2 x 2 numbers, (a, b) and (c, d), of the 3 x 3 matrix map column and row (x, y) to
    (a x + c y, b x + d y).  The nearest orientation that keeps rows and columns straight is taken.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.float64)
    if abs(b) + abs(c) > abs(a) + abs(d):  # rows become columns
        return {(False, False): 5, (True, False): 6, (True, True): 7, (False, True): 8}[bool(c < 0), bool(b < 0)]
    return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[bool(a < 0), bool(d < 0)]


def choose_frames(count: int, frames: int, span: float = 1.0, chance: np.random.Generator | None = None) -> list[int]:
    """Chooses `frames` of `count` frame indices: the middles of equal parts, or a random offset shared by all parts.

    With `chance` the parts cover the fraction `span` of the video, from a random start.  A video that is too short
    repeats its last frame.
    """
    if count <= frames:
        return [min(index, count - 1) for index in range(frames)]
    length = float(count) if chance is None else max(float(frames), span * count)
    start, offset = (0.0, 0.5) if chance is None else (chance.random() * (count - length), chance.random())
    return [int(start + (part + offset) * length / frames) for part in range(frames)]
