"""Videos stand upright: frames are turned as the display matrix of their file says."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.train.data.tasks.moving import write
from train.data.readers.pixels import orient
from train.data.readers.videos import count_frames, decode
from train.data.tasks.clips import Clips

ONE = 1 << 16
# a, b, c, d of the matrix that maps a column and a row (x, y) to (a x + c y, b x + d y), and the EXIF orientation that
# does the same
MATRICES = {
    "as it is": ((1, 0, 0, 1), 1),
    "mirrored": ((-1, 0, 0, 1), 2),
    "upside down": ((-1, 0, 0, -1), 3),
    "flipped": ((1, 0, 0, -1), 4),
    "transposed": ((0, 1, 1, 0), 5),
    "a phone upright": ((0, 1, -1, 0), 6),
    "transposed the other way": ((0, -1, -1, 0), 7),
    "a phone on its head": ((0, -1, 1, 0), 8),
}


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """A video of 64 x 48 with a bright bar at the left, as wide as its frame number and 8, and its display matrix in
    the file's header.
    """
    frames = np.zeros((6, 48, 64, 3), np.uint8)
    for number in range(6):
        frames[number, :, : 8 + number] = 255
        frames[number, :8, 40:] = 120  # so that no two ways of turning look alike
    write(path, list(frames))
    a, b, c, d = (number * ONE for number in matrix)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40  # version and flags, five numbers, eight spare bytes, four short numbers
    numbers = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    assert bytes(content[place : place + 4]) == ONE.to_bytes(4, "big")
    content[place : place + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_turned_as_their_display_matrix_says(name: str, channels: int, tmp_path: Path) -> None:
    matrix, orientation = MATRICES[name]
    plain = decode(turned(tmp_path / "plain.mp4", (1, 0, 0, 1)), channels, [0, 5])
    path = turned(tmp_path / "video.mp4", matrix)
    found = decode(path, channels, [0, 5])
    assert count_frames(path) == 6
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one, orient(other, orientation))
    # and as the library tells the angle of those that are turned and not mirrored
    with av.open(str(path)) as container:
        angle = next(iter(container.decode(video=0))).rotation
    quarter: Any = {1: 0, 3: 180, 6: -90, 8: 90}.get(orientation)
    if quarter is not None:
        assert angle % 360 == quarter % 360


def test_an_upright_phones_video_is_high_with_its_left_side_at_the_top_in_training_and_in_prediction(
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        turned(tmp_path / name / "0.mp4", (0, 1, -1, 0))
    (tmp_path / "a" / "subtitles.srt").write_text("1\n")
    opened = Clips(path=str(tmp_path), test=str(tmp_path), size=(64, 48), frames=2).open()
    (frame, _) = opened.clip("train", 0)
    assert frame.shape == (64, 48, 1)
    assert (frame[:6] > 230).all()
    assert (frame[40:] < 150).all()
    batch = opened.batches("train", 2, 1, None)[0]["video"]
    asked = opened.questions([str(tmp_path / "a" / "0.mp4")], 1, 1)[0]["video"]
    np.testing.assert_array_equal(asked[0], batch[0])
    (note,) = opened.notes
    assert [name.partition(" (")[0] for name in note.names] == [str(tmp_path / "a" / "subtitles.srt")]
    assert note.total == 2


@pytest.mark.parametrize("kind", ["playlist", "list"])
def test_a_video_that_names_another_file_is_refused(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "secret.mp4", [np.zeros((48, 64, 3), np.uint8)] * 4)
    text = {
        "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n",
        "list": "ffconcat version 1.0\nfile secret.mp4\n",
    }[kind]
    path = tmp_path / "clip.mp4"
    path.write_text(text.format(tmp_path / "secret.mp4"))
    with pytest.raises(ValueError, match="it is no video"):
        count_frames(path)
