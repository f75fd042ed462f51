"""COCO and Pascal VOC files: annotations, categories and images that cannot be used are named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from train.data.tasks.boxes import Boxes
from train.errors import InputError


def written(scenes: Path, folder: Path, edit: Callable[[Any], Any]) -> str:
    """The COCO file of the scenes beside their pictures, edited."""
    shutil.copytree(scenes, folder, dirs_exist_ok=True)
    data = json.loads((scenes / "scenes.json").read_text())
    edit(data)
    (folder / "scenes.json").write_text(json.dumps(data))
    return str(folder / "scenes.json")


def opened(path: str) -> Any:
    return Boxes(path=path, test=path).open()


def boxed(box: Any) -> Callable[[Any], Any]:
    return lambda data: data["annotations"][4].update(bbox=box)


def dropped(kind: str, name: str) -> Callable[[Any], Any]:
    return lambda data: data[kind][4 if kind == "annotations" else 1].pop(name)


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "null": (
        boxed(None),
        "annotation 4 has the bbox null; a bbox is left, top, width and height: give four numbers .* or remove the ann",
    ),
    "nulls": (boxed([1, None, 2, 3]), r"annotation 4 has the bbox \[1, null, 2, 3\]; a bbox is"),
    "none": (dropped("annotations", "bbox"), "annotation 4 has no bbox; a bbox is left"),
    "empty": (boxed([]), r"annotation 4 has the bbox \[\]"),
    "three": (boxed([1, 2, 3]), r"annotation 4 has the bbox \[1, 2, 3\]"),
    "strings": (boxed(["1", "2", "3", "4"]), r"annotation 4 has the bbox \[\"1\""),
    "an object": (boxed({"x": 1}), "annotation 4 has the bbox {"),
    "an image's id as a string": (
        lambda data: data["annotations"][4].update(image_id="2"),
        "annotation 4 has the image '2' and images has 2; write both as whole numbers, without quotation marks",
    ),
    "a category's id as a string": (
        lambda data: data["annotations"][4].update(category_id="7"),
        "annotation 4 has the category '7' and categories has 7; write both",
    ),
    "a list for an id": (
        lambda data: data["annotations"][4].update(image_id=[2]),
        r"annotation 4 is of the image \[2\], which images lacks",
    ),
    "no image": (dropped("annotations", "image_id"), "annotation 4 has no image_id; give the id of its image"),
    "no category": (dropped("annotations", "category_id"), "annotation 4 has no category_id"),
    "no id at all": (
        lambda data: [data["annotations"][4].pop("id"), data["annotations"][4].update(bbox=None)],
        "annotation number 5 has the bbox null",
    ),
    "a crowd in words": (
        lambda data: data["annotations"][4].update(iscrowd="no"),
        "annotation 4 has iscrowd 'no'; give 0 or 1",
    ),
    "a width of null": (
        lambda data: data["images"][1].update(width=None),
        "image 1 has the width None; give its number of pixels",
    ),
    "no height": (dropped("images", "height"), "image 1 has the height None"),
    "no file name": (dropped("images", "file_name"), "image 1 has the file_name None; name its file"),
    "two images of one id": (lambda data: data["images"][1].update(id=0), "two entries of image have the id 0"),
    "an image without an id": (dropped("images", "id"), "image number 2 has the id None"),
    "two categories of one id": (
        lambda data: data["categories"][1].update(id=7),
        "two entries of category have the id 7",
    ),
    "a category without a name": (
        lambda data: data["categories"][1].update(name=None),
        "category 3 has the name None; give it one",
    ),
    "two categories of one name": (
        lambda data: data["categories"][1].update(name="disc"),
        "the categories 7 and 3 are both called 'disc'; rename one, or give both one id",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_of_a_coco_file_is_named(name: str, scenes: Path, tmp_path: Path) -> None:
    edit, sentence = WRONG[name]
    with pytest.raises(InputError, match=sentence):
        opened(written(scenes, tmp_path, edit))


@pytest.mark.parametrize("unused", ["first", "last"])
def test_two_categories_of_one_name_of_which_one_is_used_are_one_class(
    unused: str, scenes: Path, tmp_path: Path
) -> None:
    """As some tools write them: the category above all others is one too, and nothing belongs to it."""

    def edit(data: Any) -> None:
        data["categories"] = [{"id": 0, "name": "balls"}, {"id": 1, "name": "balls", "supercategory": "balls"}]
        for entry in data["annotations"]:
            entry["category_id"] = 1 if unused == "first" else 0

    found = opened(written(scenes, tmp_path, edit))
    assert found.classes == ("balls",)
    assert all((scene.labels == 0).all() for scene in found.parts["train"])
    assert [str(note).rpartition(": ")[2] for note in found.notes] == [
        "the categories 0, 1 are all called 'balls' and are one class"
    ]


def test_ids_that_are_strings_everywhere_are_ids(scenes: Path, tmp_path: Path) -> None:
    def edit(data: Any) -> None:
        for entry in data["images"]:
            entry["id"] = f"a{entry['id']}"
        for entry in data["annotations"]:
            entry["image_id"] = f"a{entry['image_id']}"

    plain, named = opened(str(scenes / "scenes.json")), opened(written(scenes, tmp_path, edit))
    assert [scene.boxes.tolist() for scene in named.parts["train"]] == [
        scene.boxes.tolist() for scene in plain.parts["train"]
    ]
    assert not plain.notes


def test_an_object_of_a_voc_file_that_lacks_a_side_is_named(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "voc" / "Annotations" / "3.xml"
    start, end = file.read_text().rsplit("<ymin>", 1)
    file.write_text(start + end.partition("</ymin>")[2])
    with pytest.raises(InputError, match=r"3\.xml is not a Pascal VOC annotation \(object 2 has no ymin\)"):
        opened(str(tmp_path / "voc"))


def test_files_that_nothing_lists_are_counted_and_named(scenes: Path, tmp_path: Path) -> None:
    path = written(scenes, tmp_path, lambda data: None)
    (tmp_path / "images" / "13.heic").write_bytes(b"")
    (tmp_path / "voc" / "JPEGImages" / "13.png").write_bytes(b"")
    (tmp_path / "voc" / "Annotations" / "13.txt").write_text("0 0.5 0.5 0.1 0.1")
    for found, names in ((opened(path), [["13.heic"]]), (opened(str(tmp_path / "voc")), [["13.txt"], ["13.png"]])):
        assert [[Path(name).name for name in note.names] for note in found.notes] == names
    data = json.loads(Path(path).read_text())
    for part, some in (("train", data["images"][:6]), ("test", data["images"][6:])):
        ids = {entry["id"] for entry in some}
        kept = {"images": some, "annotations": [entry for entry in data["annotations"] if entry["image_id"] in ids]}
        (tmp_path / f"{part}.json").write_text(json.dumps(data | kept))
    # in one folder of pictures
    both = Boxes(path=str(tmp_path / "train.json"), test=str(tmp_path / "test.json")).open()
    assert [Path(name).name for note in both.notes for name in note.names] == ["13.heic"]


def test_a_coco_file_in_another_encoding_is_told_with_a_command(scenes: Path, tmp_path: Path) -> None:
    path = Path(written(scenes, tmp_path, lambda data: data["categories"][0].update(name="caf\u00e9")))
    content = path.read_text().replace("\\u00e9", "\u00e9")
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(
        InputError, match=r"scenes\.json, line 1, is not UTF-8; if it is ISO-8859-1 .*: `iconv -f ISO-8859-1 -t UTF-8 "
    ):
        opened(str(path))
    path.write_bytes(content.encode("utf-16"))
    assert opened(str(path)).classes == ("caf\u00e9", "bar")
