"""Pictures and frames of which only the middle is seen are counted and named, once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.data.readers.pixels import crop_centre, find_middle
from train.data.sources import Split
from train.data.tasks.clips import Clips
from train.data.tasks.images import Images

QUARTER = 6  # of a turn, as EXIF's orientation has it


def picture(path: Path, rows: int, columns: int, orientation: int = 1) -> None:
    """A grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.full((rows, columns), 99, np.uint8)).save(path, exif=exif)


def film(path: Path, rows: int, columns: int) -> None:
    """Four grey frames, each of another shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.fromarray(np.full((rows, columns), 40 * shade, np.uint8)) for shade in range(1, 5)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def test_cut_pictures_of_a_users_folders_are_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / name / "wide.jpg", 16, 40)
        picture(tmp_path / name / "turned.jpg", 16, 24, QUARTER)  # 24 x 16, seen upright
        picture(tmp_path / name / "larger.png", 48, 32)
    opened = Images(path=str(tmp_path), size=(24, 16), holdout=0.5).open()
    names = tuple(str(tmp_path / name / "wide.jpg") for name in ("cat", "dog"))
    done = "have another shape than data.size=(24, 16) and are cut to their middle"
    assert [str(note) for note in opened.notes] == [f"2 of 6 pictures of {tmp_path} {done}: {', '.join(names)}"]
    asked = Images(path=str(tmp_path), size=(16, 24)).reader(("cat", "dog"))
    assert len(asked.list_questions([str(tmp_path / "cat"), "absent.png"])) == 4
    assert [note.names for note in asked.notes] == [
        tuple(str(tmp_path / "cat" / name) for name in ("larger.png", "turned.jpg", "wide.jpg"))
    ]


def test_cut_frames_of_a_users_folders_are_named(tmp_path: Path) -> None:
    film(tmp_path / "left" / "square.gif", 32, 32)
    film(tmp_path / "left" / "wide.gif", 32, 48)
    opened = Clips(path=str(tmp_path), test=str(tmp_path), size=(16, 16), frames=2).open()
    wide = str(tmp_path / "left" / "wide.gif")
    assert [(note.things, note.names, note.total) for note in opened.notes] == [("videos", (wide,), 2)]


@pytest.mark.parametrize(("size", "count"), [((14, 14), 0), ((14, 28), 3)])
def test_cut_examples_of_a_data_set_are_counted(size: tuple[int, int], count: int) -> None:
    rows = [{"image": np.zeros((28, 28, 1), np.uint8), "label": 0} for _ in range(3)]
    opened = Images("clothes", size=size).reader()
    opened.add("train", Split(rows, "clothes, train", {"label": ("shirt",)}))
    assert [len(note.names) for note in opened.notes] == [count] * bool(count)


@pytest.mark.parametrize("size", [(28, 28), (32, 24), (7, 5)])
def test_the_middle_that_is_told_is_the_one_that_is_seen(size: tuple[int, int]) -> None:
    for extents in ((28, 28), (31, 40), (64, 48), (1, 9)):
        assert crop_centre(np.zeros((*extents, 1), np.uint8), size).shape[:2] == find_middle(extents, size)
