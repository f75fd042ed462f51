"""Clips: what is read of videos, which frames are seen, what moves in own sets, and a classifier's answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.data.tasks.moving import experiment, moving, write
from tests.train.review.evidence import law_metrics_do_not_depend_on_batches_or_devices
from train.cli import main
from train.data.builders.highway_manoeuvres import MANOEUVRES
from train.data.builders.moving_digits import DIRECTIONS, SIDE, STEP, make_clip
from train.data.digits import read_digits
from train.data.readers.pixels import join_frames
from train.data.readers.videos import KINDS, choose_frames, count_frames, decode
from train.data.sources import open_dataset
from train.data.tasks.clips import Clips
from train.data.transforms.augment import Augment
from train.errors import InputError
from train.review.clips import ClipClasses


def grown(path: Path, count: int = 20) -> None:
    """A video that becomes brighter with every frame."""
    write(path, [np.full((32, 48, 3), 10 * number, np.uint8) for number in range(count)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of videos, of several kinds and sizes, one of them too short and one without colour."""
    place = tmp_path_factory.mktemp("clips") / "videos"
    for name, way in (("left", -1), ("right", 1)):
        (place / name).mkdir(parents=True)
        for number in range(8):
            frames = moving(number, way, 3 if number == 5 else 10, 32 + 4 * (number % 3), 48 + 8 * (number % 2))
            if number == 6:
                frames = [np.repeat(frame[..., :1], 3, -1) for frame in frames]
            write(place / name / f"{number}{KINDS[number % len(KINDS)]}", frames)
    (place / "left" / "notes.txt").write_text("not a video")
    return place


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_video_is_counted_and_decoded_in_order(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"video{kind}"
    grown(path)
    assert count_frames(path) == 20
    for channels in (1, 3):
        frames = decode(path, channels, [0, 7, 7, 19])
        assert [frame.shape for frame in frames] == [(32, 48, channels)] * 4
        np.testing.assert_allclose([frame.mean() for frame in frames], [0, 70, 70, 190], atol=8)


def test_a_video_is_whole_whose_frames_are_held_for_long_or_cut_by_its_list_of_edits(tmp_path: Path) -> None:
    for kind in (".mkv", ".mp4", ".webm"):
        write(
            tmp_path / f"a{kind}",
            moving(0, 1, 60),
            [33 * number + 1000 * min(max(number - 25, 0), 10) for number in range(60)],
        )
        assert count_frames(tmp_path / f"a{kind}") == 60
    write(tmp_path / "video.mp4", moving(0, 1, 60), [33 * number for number in range(60)], before=600)
    assert 30 < count_frames(tmp_path / "video.mp4") < 50


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_that_was_cut_off_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"video{kind}"
    write(path, moving(0, 1, 20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="no video, or damaged|cut off after|no frames"):
        count_frames(path)


def test_frames_are_seen_evenly_and_in_training_from_a_start_drawn_by_chance() -> None:
    assert choose_frames(8, 8) == list(range(8))
    assert choose_frames(80, 4) == [10, 30, 50, 70]
    assert choose_frames(3, 5) == [0, 1, 2, 2, 2]
    assert choose_frames(1, 2, 0.5, np.random.default_rng(0)) == [0, 0]
    for seed in range(200):
        for count, frames, span in ((9, 8, 1.0), (100, 8, 0.4), (100, 8, 1.0), (37, 5, 0.1)):
            places = np.array(choose_frames(count, frames, span, np.random.default_rng(seed)))
            assert (np.diff(places) >= 1).all()
            assert 0 <= places[0] <= places[-1] < count
            assert places[-1] - places[0] < max(frames, span * count)
    starts = {choose_frames(100, 8, 0.4, np.random.default_rng(seed))[0] for seed in range(200)}
    assert len(starts) > 30
    assert min(starts) < 5
    assert max(starts) > 58


def test_folders_of_videos_of_any_size_are_read_in_grey_and_in_colour(made: Path) -> None:
    for channels in (1, 3):
        opened = Clips(path=str(made), size=(8, 12), frames=6, channels=channels, holdout=0.3).open()
        assert opened.classes == ("left", "right")
        names = {part: {row["name"] for row in opened.splits[part].examples} for part in ("train", "test")}
        assert not names["train"] & names["test"]
        assert len(names["train"]) + len(names["test"]) == 16
        batch = opened.batches("train", 16, 1, None)[0]
        assert batch["video"].shape == (16, 6, 8, 12, channels)
        assert -1 <= batch["video"].min() < batch["video"].max() <= 1
        for index, (video, label) in enumerate(zip(batch["video"], batch["labels"], strict=True)):
            if batch["weights"][index]:
                centres = (video.clip(0, 1).sum((1, 3)) @ np.arange(12)) / video.clip(0, 1).sum((1, 2, 3))
                assert (centres[2] > centres[0] + 1) == (opened.classes[label] == "right"), opened.splits[
                    "train"
                ].examples[index]["name"]


def test_a_clip_that_is_too_short_repeats_its_last_frame(made: Path) -> None:
    opened = Clips(path=str(made), test=str(made), size=(8, 12), frames=6).open(only="test")
    (place,) = (index for index, row in enumerate(opened.splits["test"].examples) if row["name"].startswith("left/5"))
    video = next(iter(opened.batches("test", 16, 1, None).stream(0, 1)))["video"][place]
    assert np.abs(video[1] - video[2]).max() > 0.1
    for later in video[3:]:
        np.testing.assert_array_equal(later, video[2])


def test_broken_and_truncated_videos_are_left_out_counted_and_named(tmp_path: Path) -> None:
    for name in ("dark", "bright"):
        (tmp_path / name).mkdir()
        for number in range(3):
            grown(tmp_path / name / f"{number}.mp4", 12)
    middle = tmp_path / "dark" / "1b.mp4"
    write(middle, moving(0, 1, 20), movflags="faststart")  # what tells of the frames stands first, and is whole
    middle.write_bytes(middle.read_bytes()[: middle.stat().st_size // 2])
    (tmp_path / "dark" / "1c.avi").write_bytes(b"no video")
    (tmp_path / "dark" / "1d.webm").write_bytes(b"")
    opened = Clips(path=str(tmp_path), test=str(tmp_path), size=(8, 12), frames=4).open()
    assert [row["name"] for row in opened.splits["train"].examples] == [
        f"{name}/{n}.mp4" for name in ("bright", "dark") for n in range(3)
    ]
    (note,) = opened.notes
    assert str(note).startswith("3 of 6 files of")
    for name, said in zip(
        note.names, ("1b.mp4 (it was cut off after", "1c.avi (it is no video, or damaged", "1d.webm ("), strict=True
    ):
        assert said in name


def _renamed(folder: Path) -> None:
    (folder / "left").rename(folder / "up")


def _emptied(folder: Path) -> None:
    for file in (folder / "left").iterdir():
        file.unlink()


CASES: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "absent": (lambda folder: None, {"path": "absent"}, "absent is no folder; give one that has a folder of videos"),
    "no classes": (lambda folder: None, {"path": "videos/left"}, "has no folders; it needs one for each class"),
    "an empty class": (_emptied, {}, r"left has no videos that can be read \(.mp4, .avi"),
    "unknown class": (_renamed, {}, "'up', which training never saw; known are left, right"),
    "a data set without videos": (
        lambda folder: None,
        {"path": None, "test": None, "dataset": "number_words/few"},
        "no column 'video'.*data.video",
    ),
    "a catalogue set without TensorFlow": (
        lambda folder: None,
        {"path": None, "test": None, "dataset": "ucf101"},
        r"ucf101 has to be prepared once with TensorFlow: run `pip install 'morphax\[tf\]'` and `morphax data"
        r" prepare ucf101`",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_data_that_cannot_be_used_is_refused_in_one_sentence(
    name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    for inner in ("left", "right"):
        (tmp_path / "videos" / inner).mkdir(parents=True)
        grown(tmp_path / "videos" / inner / "0.mp4", 4)
    spoil, changed, sentence = CASES[name]
    spoil(tmp_path / "videos")
    with pytest.raises(InputError, match=sentence) as refused:
        Clips(**{"path": "videos", "test": "videos", "size": (8, 8)} | changed).open(("left", "right"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Clips(size=(8, 0)),
        lambda: Clips(frames=0),
        lambda: Clips(span=0.0),
        lambda: Clips(span=1.5),
        lambda: Clips(holdout=0.0),
        lambda: Clips(test="folder"),
        lambda: ClipClasses(shown=-1),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="give|neither"):
        wrong()


def test_what_training_sees_of_a_clip_depends_on_seed_epoch_and_index_alone(made: Path) -> None:
    spec = Clips(
        path=str(made),
        test=str(made),
        size=(8, 12),
        frames=3,
        span=0.5,
        augment=Augment(shift=0.2, operations=2, erase=0.5),
    )
    opened = spec.open()

    def seen(batch_size: int, seed: int, epoch: int) -> dict[int, bytes]:
        batches = opened.batches("train", batch_size, 1, seed)
        steps = [batches[epoch * len(batches) + step] for step in reversed(range(len(batches)))]
        return {
            int(i): v.tobytes()
            for s in steps
            for i, v, w in zip(s["index"], s["video"], s["weights"], strict=True)
            if w
        }

    first = seen(5, 3, 1)
    assert len(first) == 16
    assert first == seen(16, 3, 1)
    for other in (seen(5, 3, 0), seen(5, 4, 1)):
        assert sum(first[index] != other[index] for index in first) > 12


def test_all_frames_of_a_clip_are_changed_alike_and_left_stays_left(tmp_path: Path) -> None:
    still = np.random.default_rng(0).integers(0, 100, (16, 24, 3), np.uint8)
    still[:, :6] = 250
    for augment in (
        Augment(shift=0.3),
        Augment(scale=(0.3, 0.9)),
        Augment(operations=3, magnitude=9),
        Augment(erase=1.0),
    ):
        opened = Clips(size=(16, 24), channels=3, augment=augment).reader(("a",))
        clips = [opened.prepare([still] * 4, np.random.default_rng(seed)) for seed in range(12)]
        for video in clips:
            np.testing.assert_array_equal(video, np.repeat(video[:1], 4, 0))
        assert len({video.tobytes() for video in clips}) > 6
    plain = Clips(size=(16, 24), channels=3).reader(("a",))
    assert all(plain.prepare([still], np.random.default_rng(seed))[0, :, :6].mean() > 0.9 for seed in range(40))
    turned = Clips(size=(16, 24), channels=3, augment=Augment(mirror=True)).reader(("a",))
    lefts = [turned.prepare([still], np.random.default_rng(seed))[0, :, :6].mean() > 0.9 for seed in range(40)]
    assert 5 < sum(lefts) < 35


def test_mixtures_of_clips_hold_as_much_of_each_as_their_targets_say() -> None:
    batch = {
        "video": np.broadcast_to(np.arange(2.0)[:, None, None, None, None], (2, 3, 8, 8, 1)).astype(np.float32),
        "labels": np.arange(2),
    }
    for augment in (Augment(mixup=0.4), Augment(cutmix=1.0)):
        mix = augment.make_mix(2, "video")
        assert mix is not None
        mixed = mix(batch, np.random.default_rng(0))
        np.testing.assert_allclose(
            mixed["video"].mean((2, 3, 4)), np.repeat(mixed["targets"] @ np.arange(2.0)[:, None], 3, 1), atol=1e-5
        )


def test_a_filmstrip_is_the_frames_side_by_side() -> None:
    frames = [np.full((4, 5, 1), value, np.uint8) for value in (10, 20, 30)]
    strip = join_frames(frames, gap=1)
    assert strip.shape == (4, 17, 1)
    assert strip[0, :, 0].tolist() == [10] * 5 + [255] + [20] * 5 + [255] + [30] * 5


def test_shuffled_frames_are_the_same_frames_in_an_order_that_the_clip_decides() -> None:
    video = np.arange(5 * 6, dtype=np.float32).reshape(5, 6, 1, 1, 1)
    batch = {"video": video, "index": np.array([3, 1, 4, 0, 2])}
    mixed = ClipClasses(seed=7).shuffle(batch)["video"]
    assert (mixed != video).any()
    np.testing.assert_array_equal(np.sort(mixed, 1), video)
    assert len({tuple(row) for row in np.argsort(mixed[..., 0, 0, 0], 1)}) > 1
    some = ClipClasses(seed=7).shuffle({"video": video[2:3], "index": batch["index"][2:3]})["video"]
    np.testing.assert_array_equal(some, mixed[2:3])
    assert (ClipClasses(seed=8).shuffle(batch)["video"] != mixed).any()


@pytest.mark.slow
def test_metrics_do_not_depend_on_batches_or_devices(made: Path) -> None:
    found = law_metrics_do_not_depend_on_batches_or_devices(experiment(made), ClipClasses())
    whole = {"accuracy", "macro_f1", "balanced_accuracy", "expected_calibration_error", "accuracy_shuffled"}
    assert whole < set(found)
    assert all(name.startswith("accuracy_") for name in set(found) - whole)


CONFIG = """from pathlib import Path
from tests.train.data.tasks.moving import experiment as of

def experiment():
    return of(Path({!r}))
"""


@pytest.mark.slow
def test_a_users_videos_train_and_answer_by_file_and_by_folder(
    made: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    config, run = tmp_path / "own.py", tmp_path / "run"
    config.write_text(CONFIG.format(str(made)))
    assert main(["train", str(config), "--run", str(run), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["evaluation"]["accuracy"]["value"] > 0.9
    assert summary["review"]["accuracy_shuffled"] < 0.9
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Clips, with what was predicted" in page
    assert page.count("data:image/png;base64,") >= 4
    assert main(["predict", str(run), str(made / "left"), str(made / "right" / "0.mp4"), "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [Path(answer["input"]).parent.name for answer in answers] == ["left"] * 8 + ["right"]
    assert np.mean([answer["label"] == Path(answer["input"]).parent.name for answer in answers]) > 0.8
    assert main(["predict", str(run), str(made / "left/notes.txt")]) == 2
    assert "notes.txt cannot be read as a video" in capsys.readouterr().err


def phases(video: np.ndarray) -> np.ndarray:
    """How far what is in each quarter has moved since the frame before, wrapped around, in pixels: (quarters, frames -
    1, 2).
    """
    quarters = (
        video[..., 0].reshape(-1, 2, SIDE, 2, SIDE).transpose(1, 3, 0, 2, 4).reshape(4, -1, SIDE, SIDE).astype(float)
    )
    turned = np.fft.fft2(quarters)
    shift = np.stack(
        [np.angle(turned[:, 1:, 1, 0] / turned[:, :-1, 1, 0]), np.angle(turned[:, 1:, 0, 1] / turned[:, :-1, 0, 1])], -1
    )
    return -shift * SIDE / (2 * np.pi)


def test_one_digit_in_four_goes_its_way_and_only_the_order_of_frames_tells_which() -> None:
    ink, ways = np.outer(np.arange(1, 11), np.arange(1, 11))[None].astype(np.uint8), list(DIRECTIONS.values())
    for number in range(64):
        label, video = number % 8, make_clip(ink, number % 8, np.random.default_rng(number))
        moved = phases(video)
        steady = [quarter for quarter in moved if np.ptp(quarter, axis=0).max() < 1e-6]
        assert len(steady) == 1
        np.testing.assert_allclose(steady[0], np.tile(STEP * np.array(ways[label]), (7, 1)), atol=1e-6)
        # On every line one digit, at each of its eight places once, whatever the class.
        lines = set()
        for down, across in np.round(moved).astype(int).transpose(0, 2, 1):
            lines.add(
                (down.any(), across.any(), not ((down - across) % SIDE).any(), not ((down + across) % SIDE).any())
            )
        assert lines == {
            (False, True, False, False),
            (True, False, False, False),
            (True, True, True, False),
            (True, True, False, True),
        }
        frames = video[..., 0].reshape(8, 2, SIDE, 2, SIDE).transpose(1, 3, 0, 2, 4).reshape(4, 8, -1)
        assert all(len({frame.tobytes() for frame in quarter}) == 8 for quarter in frames)


def test_no_digit_is_in_both_splits() -> None:
    train, test = ({image.tobytes() for image in read_digits(part)[0]} for part in ("train", "test"))
    assert (len(train), len(test)) == (4000, 1000)
    assert not train & test


@pytest.fixture(scope="module")
def highway(cache: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MORPHAX_CACHE", str(cache))
        return {part: open_dataset("highway_manoeuvres/few", part).examples for part in ("train", "test")}


@pytest.mark.slow
def test_manoeuvres_are_balanced_and_are_what_the_black_vehicle_does(highway: dict[str, Any]) -> None:
    for part, each in (("train", 10), ("test", 5)):
        rows = [highway[part][index] for index in range(len(highway[part]))]
        assert np.bincount([row["label"] for row in rows]).tolist() == [each] * len(MANOEUVRES)
        for row in rows:
            video = row["video"].astype(float)
            assert video.shape == (8, 32, 64, 1)
            assert all(frame.std() > 5 for frame in video)
            black = video[..., 0] < 50
            first, last = (
                [axis.mean() for axis in np.nonzero(frame)] if frame.any() else None for frame in (black[0], black[-1])
            )
            assert first is not None
            if last is None:  # out of the picture: so slow, or so fast
                assert MANOEUVRES[row["label"]] in ("brake", "accelerate")
                continue
            down, ahead = last[0] - first[0], last[1] - first[1]
            found = {"left": down < -3, "right": down > 3, "accelerate": ahead > 2, "brake": ahead < -2}
            wanted = MANOEUVRES[row["label"]]
            assert abs(down) < 2 or wanted in ("left", "right")
            assert found.get(wanted, abs(ahead) < 3 and abs(down) < 2), (wanted, down, ahead)
    clips = {part: {row["video"].tobytes() for row in highway[part]} for part in highway}
    assert not clips["train"] & clips["test"]
