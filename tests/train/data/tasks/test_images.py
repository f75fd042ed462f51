"""Pictures: what is read of a user's folders, how they are changed for training, and what a classifier of them
answers.
"""

import html
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from train.cli import main
from train.data.batches import of_examples
from train.data.readers.pixels import View, decode, normalise, resize
from train.data.tasks.images import Images
from train.data.transforms.augment import Augment
from train.errors import InputError
from train.notebook import Run
from train.objectives import Classification
from train.sums import compute_means

SMALL = "Transformer(PatchEmbed(8, 4), Stack(Block(Attention(2)), 1), ClassHead(2, MeanPool()))"


def picture(seed: int, rows: int = 12, columns: int = 16, kind: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), np.uint8)).convert(kind)


def jpeg(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG")
    return data.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of pictures, dark and bright, of several sizes and kinds, with a file that is none beside them."""
    for number in range(10):
        for name, level in (("dark", 40), ("bright", 210)):
            noise = np.random.default_rng(number).integers(-30, 30, (10 + number, 14, 3))
            image = Image.fromarray((level + noise).astype(np.uint8))
            place = tmp_path / "pictures" / name
            place.mkdir(parents=True, exist_ok=True)
            kind = ("RGB", "L", "RGBA", "P")[number % 4]
            image.convert(kind).save(place / f"{number}.{'jpg' if kind in ('RGB', 'L') else 'png'}")
    (tmp_path / "pictures" / "dark" / "notes.txt").write_text("not a picture")
    return tmp_path / "pictures"


def test_every_kind_of_picture_is_read_alike(tmp_path: Path) -> None:
    grey = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)
    expected = np.repeat(grey[..., None], 3, 2)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    alpha = Image.fromarray(np.concatenate([expected, np.full((10, 12, 1), 255, np.uint8)], -1))
    for name, image in {
        "grey": Image.fromarray(grey),
        "colour": Image.fromarray(expected),
        "deep": deep,
        "alpha": alpha,
    }.items():
        image.save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(decode(tmp_path / f"{name}.png", 3), expected, err_msg=name)
        np.testing.assert_array_equal(decode(tmp_path / f"{name}.png", 1), grey[..., None], err_msg=name)
    clear = np.concatenate([expected, np.zeros((10, 12, 1), np.uint8)], -1)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert (decode(tmp_path / "clear.png", 3) == 255).all()


def test_a_view_is_what_slices_and_flips_of_the_array_give() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    np.testing.assert_array_equal(View().crop(image, (8, 12)), image)
    np.testing.assert_array_equal(View(0.25, 0.5, 0.5, 0.25).crop(image, (4, 3)), image[2:6, 6:9])
    np.testing.assert_array_equal(View(mirror=True).crop(image, (8, 12)), image[:, ::-1])
    np.testing.assert_array_equal(View(upside=True).crop(image, (8, 12)), image[::-1])
    beyond = View(-0.25, 0.5, 1.0, 1.0).crop(image, (8, 12), fill=7)
    assert (beyond[:2] == 7).all()
    assert (beyond[:, 6:] == 7).all()
    np.testing.assert_array_equal(beyond[2:, :6], image[:6, 6:])


def test_boxes_move_with_what_they_frame() -> None:
    draw = np.random.default_rng(0)
    augment = Augment(shift=0.2, scale=(0.4, 1.6), mirror=True, upside=True)
    for seed in range(100):
        view, image = augment.draw_view(np.random.default_rng(seed)).snap(64, 96), np.zeros((64, 96, 1), np.uint8)
        (top, bottom), (left, right) = sorted(draw.choice(65, 2, False)), sorted(draw.choice(97, 2, False))
        image[top:bottom, left:right] = 255
        box = np.array([[left / 96, top / 64, right / 96, bottom / 64]])
        seen = view.crop(image, (256, 256))[..., 0] > 127
        inside = view.map_boxes(box)[0].clip(0, 1) * 256
        if not seen.any():
            assert min(inside[2:] - inside[:2]) < 1
            continue
        rows, columns = (np.nonzero(seen.any(axis))[0] for axis in (1, 0))
        found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        np.testing.assert_allclose(found, inside, atol=0.75, err_msg=str((seed, view)))


def test_chance_depends_on_seed_epoch_and_example_alone() -> None:
    def one(index: int, chance: np.random.Generator | None) -> dict[str, np.ndarray]:
        return {"drawn": np.array([index, 0 if chance is None else chance.integers(1 << 30)])}

    def drawn(batch_size: int, seed: int | None, epoch: int) -> dict[int, int]:
        batches = of_examples(10, one, batch_size, 1, seed)
        steps = range(epoch * len(batches), (epoch + 1) * len(batches))
        return {
            int(key): int(value)
            for step in steps
            for (key, value), weight in zip(batches[step]["drawn"], batches[step]["weights"], strict=True)
            if weight
        }

    assert drawn(4, 3, 1) == drawn(7, 3, 1)
    assert set(drawn(4, 3, 1)) == set(range(10))
    assert drawn(4, 3, 1) != drawn(4, 3, 0)
    assert drawn(4, 3, 1) != drawn(4, 4, 1)
    assert set(drawn(4, None, 0).values()) == {0}


@pytest.mark.parametrize(
    "augment", [Augment(operations=3, magnitude=10), Augment(erase=1.0), Augment(scale=(0.1, 0.5), shift=0.3)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_pictures_keep_their_shape_and_range_and_follow_their_seed(augment: Augment, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 24, channels), np.uint8)
    found = []
    for seed in (0, 0, *range(40)):
        chance = np.random.default_rng(seed)
        found.append(augment.change_colours(augment.draw_view(chance).crop(image, (16, 16)), chance))
        assert found[-1].shape == (16, 16, channels)
        assert found[-1].dtype == np.uint8
    np.testing.assert_array_equal(found[0], found[1])
    assert len({one.tobytes() for one in found}) > 10


@pytest.mark.parametrize("augment", [Augment(mixup=0.4), Augment(cutmix=1.0)])
def test_mixtures_hold_as_much_of_each_picture_as_their_targets_say(augment: Augment) -> None:
    labels = np.arange(6) % 3
    batch = {
        "image": np.broadcast_to(labels[:, None, None, None], (6, 8, 8, 1)).astype(np.float32).copy(),
        "labels": labels,
    }
    for seed in range(30):
        mixed = augment.mix(batch, np.random.default_rng(seed), 3)
        np.testing.assert_allclose(mixed["targets"].sum(-1), 1, atol=1e-6)
        np.testing.assert_allclose(mixed["image"].mean((1, 2, 3)), mixed["targets"] @ np.arange(3), atol=1e-5)


@pytest.mark.parametrize(
    "augment", [Augment(mixup=0.4), Augment(cutmix=1.0), Augment(operations=2, mixup=0.3, cutmix=0.3)]
)
def test_training_batches_are_mixed_as_their_seed_and_step_say_whoever_makes_them(
    folder: Path, augment: Augment
) -> None:
    spec = Images(path=str(folder), size=(8, 8), channels=3, holdout=0.3, augment=augment)
    batches, again = (spec.open().batches("train", 6, 4, 3) for _ in range(2))  # as a run that goes on makes them
    for step in range(2 * len(batches)):
        batch, other = batches[step], again[step]
        for name in ("image", "targets"):
            np.testing.assert_array_equal(batch[name], other[name])
        real = batch["weights"] > 0
        np.testing.assert_allclose(batch["targets"][real].sum(-1), 1, atol=1e-6)
        assert not batch["targets"][~real].any()
    assert len({batches[step]["targets"].tobytes() for step in range(2 * len(batches))}) == 2 * len(batches)
    assert "targets" not in spec.open().batches("test", 6, 4, None)[0]


def test_the_loss_of_a_mixture_is_the_mixture_of_losses() -> None:
    logits: Any = np.random.default_rng(0).normal(size=(5, 3))
    labels: Any = np.array([0, 1, 2, 0, 1])
    hot, other = np.eye(3)[labels], np.eye(3)[labels[::-1]]
    both = [compute_means(Classification()(logits, {"labels": one}))["loss"] for one in (labels, labels[::-1])]
    mixed: Any = {"labels": labels, "targets": 0.3 * hot + 0.7 * other}
    loss = compute_means(Classification()(logits, mixed))["loss"]
    assert loss == pytest.approx(0.3 * both[0] + 0.7 * both[1], rel=1e-5)


def test_a_folder_of_classes_is_split_by_name_and_read_in_the_middle(folder: Path) -> None:
    opened = Images(path=str(folder), size=(8, 8), channels=3, holdout=0.3).open()
    assert opened.classes == ("bright", "dark")
    names = {part: {row["name"] for row in opened.splits[part].examples} for part in ("train", "test")}
    assert not names["train"] & names["test"]
    assert len(names["train"]) + len(names["test"]) == 20
    batch = opened.batches("test", 4, 1, None)[0]
    assert batch["image"].shape == (4, 8, 8, 3)
    for image, label, weight in zip(batch["image"], batch["labels"], batch["weights"], strict=True):
        assert not weight or (image.mean() > 0) == (opened.classes[label] == "bright")
    wide = np.zeros((10, 30, 1), np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide[..., 0]).save(folder / "wide.png")
    asked = opened.questions([str(folder / "wide.png")], 1, 1)[0]["image"]
    np.testing.assert_array_equal(asked[0], normalise(np.full((8, 8, 3), 255, np.uint8)))
    assert Image.open(io.BytesIO(opened.show_example("test", 0).data)).size == opened.picture("test", 0).shape[1::-1]


def test_a_folder_whose_only_picture_is_held_out_is_a_class_without_a_training_example(folder: Path) -> None:
    data = Images(path=str(folder), size=(8, 8), channels=3, holdout=0.3)
    opened, number = data.open(), 0
    (folder / "amber").mkdir()
    while not opened.unseen and number < 30:
        picture(number).save(file := folder / "amber" / f"{number}.png")
        opened = data.open()
        if not opened.unseen:
            file.unlink()
        number += 1
    assert opened.unseen == ("amber",)
    assert opened.classes == ("bright", "dark", "amber")
    assert 2 in opened.labels("test")
    with pytest.raises(InputError, match=r"has the class 'amber', which training never saw"):
        data.open(classes=("bright", "dark"))


def test_a_broken_picture_is_left_out_counted_and_named(folder: Path) -> None:
    whole = jpeg(picture(0, 200, 300))
    (folder / "dark" / "3b.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "dark" / "3c.png").write_bytes(b"not a png")
    opened = Images(path=str(folder), size=(8, 8), channels=3).open()
    assert sum(len(split.examples) for split in opened.splits.values()) == 20
    note, cut = opened.notes
    assert (len(cut.names), cut.total) == (18, 20)  # of two the rows are as many as the columns
    assert str(note).startswith(f"3 of 13 files of {folder / 'dark'} cannot be used and are left out: ")
    assert [name.partition(" (")[0].rpartition("/")[2] for name in note.names] == ["3b.jpg", "3c.png", "notes.txt"]
    assert note.names[1].endswith("3c.png (it is no picture)")


@pytest.mark.represented_by("jpg-0", "jpg-6", "png-3", "png-8", "tif-5", "webp-7")
@pytest.mark.parametrize("turn", range(9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_a_picture_is_seen_upright_and_answered_as_it_is_measured(kind: str, turn: int, tmp_path: Path) -> None:
    """Of any orientation, 1 to 8 and none, and where a JPEG is decoded smaller."""
    image = picture(turn, 300, 400).resize((4000, 3000) if kind == "jpg" else (40, 30))
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    (tmp_path / "pictures" / "one").mkdir(parents=True)
    file = tmp_path / "pictures" / "one" / f"0.{kind}"
    image.save(file, exif=exif, lossless=True)  # as a WebP can be
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
    opened = Images(path=str(file.parent.parent), test=str(file.parent.parent), size=(300, 400), channels=3).open()
    found = opened.picture("test", 0)
    if kind == "jpg":
        small, rows, columns = found.astype(float), *found.shape[:2]
        assert rows >= 600
        assert columns >= 800
        assert max(rows, columns) < 4000
        np.testing.assert_allclose(small, resize(upright, (rows, columns)), atol=40)
    else:
        np.testing.assert_array_equal(found, upright)
    batch = opened.batches("test", 1, 1, None)[0]
    np.testing.assert_array_equal(opened.questions([str(file)], 1, 1)[0]["image"], batch["image"])


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_exif_leaves_the_picture_as_it_is(tmp_path: Path) -> None:
    image, exif = picture(0), Image.Exif()
    exif[0x0112] = 6
    whole = exif.tobytes()
    for seed in range(200):
        chance, damaged = np.random.default_rng(seed), bytearray(whole)
        for _ in range(3):
            damaged[chance.integers(len(damaged))] = chance.integers(256)
        image.save(tmp_path / "one.png", exif=bytes(damaged[: chance.integers(8, 2 * len(damaged))]))
        assert decode(tmp_path / "one.png", 3, upright=True).shape in ((12, 16, 3), (16, 12, 3))


def _without(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for file in (folder / name).iterdir():
            file.unlink()

    return spoil


CASES: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "absent": (lambda folder: None, {"path": "absent"}, "absent is no folder; give one that has a folder"),
    "no classes": (lambda folder: None, {"path": "pictures/dark"}, "has no folders; it needs one for each class"),
    "an empty class": (_without("dark"), {}, "dark has no pictures that can be read"),
    "unknown class": (
        lambda folder: (folder / "dark").rename(folder / "grey"),
        {"classes": ("bright", "dark")},
        "'grey', which training",
    ),
    "nothing held out": (
        lambda folder: None,
        {"holdout": 1e-9},
        r"\(test part\) is empty; give more data, or another data\.holdout",
    ),
    "a data set without pictures": (
        lambda folder: None,
        {"path": None, "dataset": "number_words/few"},
        "has no column 'image'",
    ),
}


@pytest.mark.represented_by("absent", "no classes", "an empty class", "unknown class", "nothing held out")
@pytest.mark.parametrize("name", CASES)
def test_folders_that_cannot_be_used_are_refused_in_one_sentence(
    name: str, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    spoil, changed, sentence = CASES[name]
    spoil(folder)
    classes = changed.pop("classes", ()) if "classes" in changed else ()
    with pytest.raises(InputError, match=sentence):
        Images(**{"path": "pictures", "size": (8, 8)} | changed).open(classes)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Images(size=(0, 8)),
        lambda: Images(holdout=1.0),
        lambda: Images(test="folder"),
        lambda: Augment(scale=(0.0, 1.0)),
        lambda: Augment(shift=1.5),
        lambda: Augment(operations=-1),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="give|go from|none is below"):
        wrong()


def test_a_users_folder_trains_and_answers_by_file_and_by_folder(
    folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    run = str(tmp_path / "run")
    small = (
        f"model={SMALL}",
        f"data.path={folder}",
        "data.size=(8, 8)",
        "data.channels=3",
        "data.holdout=0.3",
        "steps=40",
        "evaluation.every=20",
        "batch_size=8",
    )
    assert (
        main(
            [
                "train",
                "images_vit",
                *small,
                "optimizer.rate.peak=0.01",
                "evaluation.batch_size=4",
                "--run",
                run,
                "--json",
            ]
        )
        == 0
    )
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert summary["evaluation"]["accuracy"]["value"] > 0.8
    dark = folder / "dark"
    said = f"1 of 11 files of {dark} cannot be used and are left out: {dark / 'notes.txt'} (it is no picture)"
    told, cut = [(note["said"], note["count"], note["of"]) for note in summary["data"]]
    assert told == (said, 1, 11)
    assert cut[1:] == (18, 20)
    assert err.index(said) < err.index("step 20/40")  # before the first step, and in the table at the end
    assert "data" in err.rpartition("accuracy")[2]
    assert json.loads(Path(run, "summary.json").read_text(encoding="utf-8"))["data"] == summary["data"]
    for page in (Path(run, "report.html").read_text(encoding="utf-8"), Run(Path(run), summary)._repr_html_()):
        assert html.escape(said) in page
    assert main(["eval", run]) == 0
    assert said in capsys.readouterr().out
    (folder / "dark" / "3b.png").write_bytes(b"not a png")
    assert main(["predict", run, str(folder / "dark"), str(folder / "bright" / "0.jpg"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert (
        f"2 of 12 files of {folder / 'dark'} cannot be used and are left out: {folder / 'dark' / '3b.png'} (it is no"
        " picture), " in err
    )
    answers = json.loads(out)["answers"]
    assert [Path(answer["input"]).parent.name for answer in answers] == ["dark"] * 10 + ["bright"]
    assert np.mean([answer["label"] == Path(answer["input"]).parent.name for answer in answers]) > 0.8
    assert main(["predict", run, str(folder / "dark" / "notes.txt")]) == 2
    assert "notes.txt cannot be read as a picture" in capsys.readouterr().err
