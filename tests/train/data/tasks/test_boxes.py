"""Boxes: what is read of COCO files, of Pascal VOC folders and of the pictures that they list."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.conftest import drawn
from train.data.readers.pixels import normalise, resize
from train.data.sources import open_dataset
from train.data.tasks.boxes import Boxes
from train.data.transforms.augment import Augment
from train.errors import InputError
from train.objectives.detection import to_corners


def test_coco_and_voc_files_say_the_same(scenes: Path) -> None:
    coco, voc = (
        Boxes(path=str(scenes / name), test=str(scenes / name), size=(32, 48)).open() for name in ("scenes.json", "voc")
    )
    assert coco.classes == ("disc", "bar")
    assert voc.classes == ("bar", "disc")
    by_name = {scene.name: scene for scene in voc.parts["train"]}
    for index, scene in enumerate(coco.parts["train"]):
        _, objects = drawn(index)
        expected = [(name, [side / (48, 32)[place % 2] for place, side in enumerate(box)]) for name, box in objects]
        for opened, one in ((coco, scene), (voc, by_name[scene.name])):
            assert [opened.classes[label] for label in one.labels] == [name for name, _ in expected]
            np.testing.assert_allclose(one.boxes, [box for _, box in expected], atol=1e-6)


def test_a_coco_file_has_its_pictures_in_a_folder_of_its_own(scenes: Path, tmp_path: Path) -> None:
    """As COCO is published: annotations/, train2017/ and val2017/, here with pictures of one name in both."""
    (tmp_path / "annotations").mkdir()
    data = json.loads((scenes / "scenes.json").read_text())
    for part, first in (("train", 0), ("val", 6)):
        (tmp_path / f"{part}2017").mkdir()
        for number in range(6):
            shutil.copy(scenes / "images" / f"{first + number}.png", tmp_path / f"{part}2017" / f"{number}.png")
        kept = {
            "images": data["images"][:6],
            "annotations": [one for one in data["annotations"] if one["image_id"] < 6],
        }
        (tmp_path / "annotations" / f"{part}.json").write_text(json.dumps(data | kept))
    files: dict[str, Any] = {
        name: str(tmp_path / "annotations" / f"{part}.json") for name, part in (("path", "train"), ("test", "val"))
    }
    spec = Boxes(**files, images=str(tmp_path / "train2017"), test_images=str(tmp_path / "val2017"))
    opened = spec.open()
    for number in range(6):
        np.testing.assert_array_equal(opened.picture("train", number), drawn(number)[0])
        np.testing.assert_array_equal(opened.picture("test", number), drawn(6 + number)[0])
    np.testing.assert_array_equal(dataclasses.replace(spec, test_images=None).open().picture("test", 1), drawn(1)[0])


def test_boxes_of_a_batch_frame_what_its_pictures_show(scenes: Path) -> None:
    augment = Augment(scale=(0.6, 1.4), mirror=True, upside=True)
    opened = Boxes(path=str(scenes / "scenes.json"), test=str(scenes / "voc"), size=(256, 384), augment=augment).open(
        ("disc", "bar")
    )
    batches = opened.batches("train", 12, 1, 0)
    for batch in (batches[0], batches[1]):
        for image, boxes, present in zip(batch["image"], batch["boxes"], batch["present"], strict=True):
            for box in np.asarray(to_corners(jnp.asarray(boxes[present > 0]))):
                left, top, right, bottom = (box * [384, 256, 384, 256]).round().astype(int)
                across, down = (
                    image[(top + bottom) // 2, left + 1 : right - 1],
                    image[top + 1 : bottom - 1, (left + right) // 2],
                )
                assert min(across.min(), down.min()) > 0  # half as bright is where a rectangle ends


@pytest.mark.usefixtures("standins")
def test_pictures_of_a_data_set_are_decoded_when_they_are_seen_as_the_data_set_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = open_dataset("bccd", "test").examples[3]["image"]
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)
        opened, grey = Boxes("bccd").open(), Boxes("bccd", channels=1).open()  # which read the boxes alone
    np.testing.assert_array_equal(opened.picture("test", 3), whole)
    luminance = whole.astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(grey.picture("test", 3)[..., 0], luminance, atol=1.5)


def changed(edit: Callable[[Any], Any]) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        data = json.loads((folder / "scenes.json").read_text())
        edit(data)
        (folder / "scenes.json").write_text(json.dumps(data))

    return spoil


CASES: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "absent": (lambda folder: (folder / "scenes.json").unlink(), {}, "scenes.json cannot be read: No such file"),
    "no json": (
        lambda folder: (folder / "scenes.json").write_text("{"),
        {},
        "is not a COCO file .*; it needs images, annotations",
    ),
    "a list": (lambda folder: (folder / "scenes.json").write_text("[]"), {}, "is not a COCO file"),
    "no categories": (changed(lambda data: data.pop("categories")), {}, "KeyError: 'categories'"),
    "short box": (
        changed(lambda data: data["annotations"][0].update(bbox=[1, 2])),
        {},
        "a bbox is left, top, width and height",
    ),
    "no number": (
        changed(lambda data: data["annotations"][0].update(bbox=[1, 1, math.nan, 5])),
        {},
        "annotation 0 has the bbox .*nan",
    ),
    "a number that no float holds": (
        changed(lambda data: data["annotations"][1].update(bbox=[10**400, 1, 5, 5])),
        {},
        "annotation 1 has the bbox .1000.* in a picture of 48 x 32; give finite numbers of pixels",
    ),
    "a side that no float holds": (
        changed(lambda data: data["annotations"][0].update(bbox=[1e308, 1, 1e308, 5])),
        {},
        "annotation 0 has",
    ),
    "a picture that is endless": (
        changed(lambda data: data["images"][1].update(width=10**400)),
        {},
        "is not a COCO file .OverflowError",
    ),
    "a box that is endless": (
        lambda folder: [
            file.write_text(file.read_text().replace("<ymax>", "<ymax>1e999")) for file in folder.glob("voc/*/3.xml")
        ],
        {"path": "voc"},
        "3.xml is not a Pascal VOC annotation .a box of .*, inf.; each needs a size and boxes of four numbers",
    ),
    "no size": (
        lambda folder: [
            file.write_text(file.read_text().replace("<width>48", "<width>nan")) for file in folder.glob("voc/*/3.xml")
        ],
        {"path": "voc"},
        "3.xml is not a Pascal VOC annotation .a picture of nan x 32",
    ),
    "unknown category": (
        changed(lambda data: data["annotations"][0].update(category_id=9)),
        {},
        "annotation 0 has the category 9",
    ),
    "unknown image": (changed(lambda data: data["annotations"][0].update(image_id=99)), {}, "is of the image 99"),
    "no pictures": (
        changed(lambda data: [entry.update(file_name="no") for entry in data["images"]]),
        {},
        "scenes.json has no picture that can be used in images; set data.images to their folder",
    ),
    "no pictures to test on": (
        lambda folder: (folder / "other").mkdir(),
        {"test_images": "other"},
        "scenes.json has no picture that can be used in other; set data.test_images to their folder",
    ),
    "a folder without pictures": (
        lambda folder: [file.unlink() for file in (folder / "voc" / "JPEGImages").iterdir()],
        {"path": "voc"},
        "voc has no picture that can be used in voc/JPEGImages; put them there",
    ),
    "too many boxes": (lambda folder: None, {"most": 1}, "1.png, has 2 boxes and data.most is 1; set data.most=2"),
    "class never seen": (
        lambda folder: None,
        {"classes": ("disc",)},
        "'bar', which training never saw; known are disc",
    ),
    "no boxes": (changed(lambda data: data["annotations"].clear()), {}, "scenes.json has no boxes; give one that has"),
    "nesting without end": (
        lambda folder: (folder / "scenes.json").write_text("[" * 100_000),
        {},
        "is not a COCO file .RecursionError",
    ),
    "an encoding that nobody knows": (
        lambda folder: (folder / "voc" / "Annotations" / "3.xml").write_bytes(
            b"<?xml version='1.0' encoding='no'?><annotation/>"
        ),
        {"path": "voc"},
        "3.xml is not a Pascal VOC annotation .unknown encoding",
    ),
    "no annotations": (lambda folder: None, {"path": "images"}, "has no Annotations"),
    "broken annotation": (
        lambda folder: (folder / "voc" / "Annotations" / "3.xml").write_text("<annotation>"),
        {"path": "voc"},
        "3.xml is not a Pascal VOC annotation",
    ),
    "a data set without boxes": (
        lambda folder: None,
        {"path": None, "test": None, "dataset": "fashion_mnist"},
        "no classes in objects/label",
    ),
}


@pytest.mark.usefixtures("standins")
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", CASES)
def test_files_that_cannot_be_used_are_refused_in_one_sentence(
    name: str, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scenes"
    shutil.copytree(scenes, folder)
    monkeypatch.chdir(folder)
    spoil, settings, sentence = CASES[name]
    spoil(folder)
    given: dict[str, Any] = {"path": "scenes.json", "test": "scenes.json"} | settings
    classes = given.pop("classes", ())
    with pytest.raises(InputError, match=sentence):
        Boxes(**given).open(classes)


@pytest.mark.parametrize("kind", ["scenes.json", "voc"])
def test_pictures_of_another_size_than_is_listed_are_left_out_counted_and_named(
    kind: str, scenes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "scenes"
    shutil.copytree(scenes, folder)
    changed(lambda data: data["images"][4].update(width=480, height=320))(folder)
    file = folder / "voc" / "Annotations" / "4.xml"
    file.write_text(file.read_text().replace("<width>48", "<width>480").replace("<height>32", "<height>320"))
    opened = Boxes(path=str(folder / kind), test=str(folder / kind)).open()
    assert [scene.name for scene in opened.parts["train"]] == sorted(
        {f"{number}.png" for number in range(12)} - {"4.png"},
        key=(str if kind == "voc" else lambda name: int(name[:-4])),
    )
    (note,) = opened.notes
    assert str(note).startswith("1 of 12 pictures of")
    assert note.names == (
        f"{folder / ('images' if kind == 'scenes.json' else 'voc/JPEGImages') / '4.png'} (it has 48 x 32 pixels, and"
        " 480 x 320 are listed)",
    )


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_turned_by_its_exif_where_only_so_it_has_the_listed_size(
    turn: int, scenes: Path, tmp_path: Path
) -> None:
    """Its pixels are where the file's boxes frame them, whether the file's sizes are those of the stored picture or
    not.
    """
    image, _ = drawn(3)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(image).save(tmp_path / "3.png", exif=exif)
    data = json.loads((scenes / "scenes.json").read_text())
    kept = [entry for entry in data["annotations"] if entry["image_id"] == 3]
    asked = Boxes().reader().questions([str(tmp_path / "3.png")], 1, 1)[0]["image"][0]
    for width, height in ((48, 32), (32, 48)):
        listed = {"images": [{"id": 3, "file_name": "3.png", "width": width, "height": height}], "annotations": kept}
        (tmp_path / "one.json").write_text(json.dumps(data | listed))
        spec = Boxes(path=str(tmp_path / "one.json"), test=str(tmp_path / "one.json"))
        if (width, height) == (32, 48) and turn < 5:
            with pytest.raises(InputError, match="no picture that can be used"):
                spec.open()
            continue
        found = spec.open().picture("train", 0)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "3.png")))
        np.testing.assert_array_equal(found, image if (width, height) == (48, 32) else upright)
        np.testing.assert_array_equal(asked, normalise(resize(upright, (192, 256))))


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_boxes_beyond_their_picture_are_cut_and_pictures_that_cannot_be_read_left_out(
    scenes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "scenes"
    shutil.copytree(scenes, folder)
    (folder / "images" / "5.png").write_bytes(b"broken")

    def edit(data: Any) -> None:
        data["annotations"][0]["bbox"] = [-10, -10, 1000, 1000]
        data["annotations"][2]["bbox"] = [1e300, 5, 10, 10]
        data["annotations"].append({"id": 99, "image_id": 1, "category_id": 7, "bbox": [60, 5, 10, 10]})

    changed(edit)(folder)
    opened = Boxes(path=str(folder / "scenes.json"), test=str(folder / "scenes.json")).open()
    assert opened.parts["train"][0].boxes.tolist() == [[0, 0, 1, 1]]
    assert len(opened.parts["train"]) == 11
    left, cut, lost = opened.notes
    assert str(left).startswith("1 of 12 pictures of")
    assert str(left).endswith("5.png (it is no picture)")
    assert ("reach beyond their pictures and are cut" in str(cut), cut.names) == (True, ("annotation 0",))
    assert ("have no area and are left out" in str(lost), lost.names) == (True, ("annotation 2", "annotation 99"))
