"""Object detection: boxes, matching and precision against formulas and libraries; training on any devices."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from models import (
    MLP,
    Attention,
    Block,
    BoxHead,
    ConvEmbed,
    EncoderDecoder,
    LearnedPosition,
    PatchEmbed,
    QueryEmbed,
    Stack,
    Transformer,
)
from tests.train.review.evidence import law_metrics_do_not_depend_on_batches_or_devices
from train.cli import main
from train.data.readers.scenes import Scene
from train.data.tasks.boxes import Boxes
from train.data.transforms.augment import Augment
from train.errors import InputError
from train.experiment import Evaluation, Experiment
from train.objectives import SetPrediction
from train.objectives.detection import compute_overlap, match_objects, rank_boxes, to_centres, to_corners
from train.optimizers import AdamW, Constant
from train.report.console import Console
from train.review.detections import Detections, compute_average_precision, find_mean_boxes
from train.sums import compute_means
from train.use.fit import fit

NAMES = ("disc", "bar")


def experiment(scenes: Path) -> Experiment:
    """A tiny detector of the two shapes."""
    embed = ConvEmbed(16, (8, 8, 16), registers=0, position=LearnedPosition(24))
    return Experiment(
        model=Transformer(embed, Stack(Block(Attention(2)), 1), BoxHead(2, (4, 6))),
        objective=SetPrediction(),
        data=Boxes(path=str(scenes / "scenes.json"), test=str(scenes / "scenes.json"), size=(32, 48), most=3),
        optimizer=AdamW(Constant(5e-3)),
        batch_size=6,
        steps=60,
        evaluation=Evaluation(every=30, batch_size=12),
        review=Detections(shown=4),
    )


def textbook_overlap(a: Any, b: Any) -> tuple[float, float]:
    """What two boxes share over their union, and its generalised form (arXiv:1902.09630)."""
    both = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return both / union, both / union - (hull - union) / hull


def test_box_operations_are_their_textbook_formulas() -> None:
    chance = np.random.default_rng(0)
    low, size = chance.uniform(0, 1, (2, 100, 2)), chance.uniform(0, 0.7, (2, 100, 2))
    first, second = (np.concatenate([low[side], low[side] + size[side]], -1) for side in (0, 1))
    shared, general = compute_overlap(jnp.asarray(first), jnp.asarray(second))
    for row in range(100):
        assert (float(shared[row]), float(general[row])) == pytest.approx(
            textbook_overlap(first[row], second[row]), abs=1e-5
        )
    np.testing.assert_allclose(to_corners(to_centres(jnp.asarray(first))), first, atol=1e-6)
    nothing = jnp.zeros(4)
    assert [float(value) for value in compute_overlap(nothing, nothing)] == [0, 0]
    assert np.isfinite(jax.grad(lambda box: compute_overlap(box, nothing)[1])(nothing)).all()


def test_matching_is_that_of_scipy() -> None:
    match = jax.jit(match_objects)
    for seed in range(100):
        chance = np.random.default_rng(seed)
        cost, present = (
            chance.normal(size=(9, 5)).astype(np.float32),
            (np.arange(5) < chance.integers(0, 6)).astype(np.float32),
        )
        place, real = np.asarray(match(cost, present)), present > 0
        assert len(set(place.tolist())) == 5
        rows, columns = linear_sum_assignment(cost[:, real])
        assert cost[place[real], np.nonzero(real)[0]].sum() == pytest.approx(
            cost[:, real][rows, columns].sum(), abs=1e-4
        )


@pytest.mark.slow
def test_the_loss_is_the_written_sum_over_the_best_assignment() -> None:
    chance, objective = np.random.default_rng(1), SetPrediction()
    logits, boxes = chance.normal(size=(2, 6, 3)), chance.uniform(0.2, 0.5, (2, 6, 4))
    truth, labels, present = (
        chance.uniform(0.2, 0.5, (2, 4, 4)),
        chance.integers(0, 3, (2, 4)),
        np.array([[1, 1, 0, 0], [0.0] * 4]),
    )
    batch: Any = {"boxes": truth, "box_labels": labels, "present": present, "weights": np.ones(2)}
    found = compute_means(
        objective({"logits": jnp.asarray(logits), "boxes": jnp.asarray(boxes)}, jax.tree.map(jnp.asarray, batch))
    )
    chances = 1 / (1 + np.exp(-logits))
    yes, no = -0.25 * (1 - chances) ** 2 * np.log(chances), -0.75 * chances**2 * np.log(1 - chances)
    general = np.asarray(
        compute_overlap(to_corners(jnp.asarray(boxes[0]))[:, None], to_corners(jnp.asarray(truth[0]))[None])[1]
    )
    apart = np.abs(boxes[0][:, None] - truth[0][None]).sum(-1)
    cost = 2 * (yes - no)[0][:, labels[0]] + 5 * apart - 2 * general
    rows, columns = linear_sum_assignment(cost[:, :2])
    expected = 2 * no[0].sum() + sum(
        2 * (yes - no)[0][row, labels[0][column]] + 5 * apart[row, column] + 2 * (1 - general[row, column])
        for row, column in zip(rows, columns, strict=True)
    )
    assert found["loss"] == pytest.approx((expected / 2 + 2 * no[1].sum()) / 2, rel=1e-4)


def textbook_precision(
    found: list[Any], truths: list[Any], classes: int, least: float = 0.5
) -> tuple[list[float], list[float]]:
    """Average precision at an overlap of `least` of each class, and recall: greedy matching by score, envelope at 101
    recalls.
    """
    values, recalls = [], []
    for label in range(classes):
        total = sum(int((labels == label).sum()) for _, labels, _ in truths)
        listed = [(image, *row) for image, one in enumerate(found) for row in zip(*one, strict=True)]
        rows = [(chance, image, box) for image, box, own, chance in listed if own == label]
        taken: set[tuple[int, int]] = set()
        right = []
        for _, image, box in sorted(rows, key=lambda row: -row[0]):
            same = [place for place, own in enumerate(truths[image][1]) if own == label and (image, place) not in taken]
            free = [(textbook_overlap(box, truths[image][0][place])[0], place) for place in same]
            best = max(free, default=(0.0, -1))
            right.append(best[0] >= least)
            if right[-1]:
                taken.add((image, best[1]))
        if not total:
            values.append(-1.0)
            continue
        recalls.append(sum(right) / total)
        hits = np.cumsum(right) if right else np.zeros(0)
        recall, precision = hits / total, hits / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        place = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        values.append(sum(float(envelope[one]) for one in place if one < len(envelope)) / len(place))
    return values, recalls


@pytest.mark.parametrize("seed", range(100))
def test_average_precision_is_its_definition(seed: int) -> None:
    chance = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(20):
        low = chance.uniform(0, 0.6, (chance.integers(0, 4), 2))
        boxes = np.concatenate([low, low + chance.uniform(0.1, 0.4, low.shape)], -1)
        labels = chance.integers(0, 2, len(boxes))
        truths.append((boxes, labels, np.zeros(len(boxes), bool)))
        near = np.concatenate(
            [boxes + chance.normal(0, 0.03, boxes.shape).clip(-0.05, 0.05), [[0.1, 0.1, 0.5, 0.5]]]
        ).clip(0, 1)
        found.append((near, np.append(labels, chance.integers(2)), chance.random(len(near))))
    metrics, each = compute_average_precision(found, truths, [(100, 200)] * 20, 3)
    known = {least / 100: textbook_precision(found, truths, 3, least / 100) for least in range(50, 100, 5)}
    means = {least: np.mean([value for value in values if value >= 0]) for least, (values, _) in known.items()}
    assert each == pytest.approx(known[0.5][0], abs=1e-6)
    expected = {"map": np.mean([*means.values()]), "map50": means[0.5], "map75": means[0.75]}
    assert metrics == pytest.approx(
        expected | {"recall": np.mean([recalls for _, recalls in known.values()])}, abs=1e-6
    )


def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong_and_no_crowd_is_learned_from(
    scenes: Path, tmp_path: Path
) -> None:
    one, crowd = [0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.9, 0.9]
    truth = [(np.array([one, crowd]), np.zeros(2, int), np.array([False, True]))]
    inside = [[0.5, 0.5, 0.6, 0.6], [0.7, 0.7, 0.8, 0.8]]
    found = [(np.array([*inside, one]), np.zeros(3, int), np.array([0.9, 0.8, 0.7]))]
    assert compute_average_precision(found, truth, [(100, 100)], 1)[0]["map"] == pytest.approx(1)
    plain = [(boxes, labels, np.zeros(2, bool)) for boxes, labels, _ in truth]
    assert compute_average_precision(found, plain, [(100, 100)], 1)[0]["map"] < 0.5
    data = json.loads((scenes / "scenes.json").read_text())
    data["annotations"] = [
        entry | {"iscrowd": int(entry["image_id"] == 1 and place % 2)}
        for place, entry in enumerate(data["annotations"])
    ]
    crowds = [entry for entry in data["annotations"] if entry["iscrowd"]]
    (tmp_path / "crowds.json").write_text(json.dumps(data))
    opened = Boxes(
        path=str(tmp_path / "crowds.json"),
        test=str(tmp_path / "crowds.json"),
        images=str(scenes / "images"),
        size=(32, 48),
    ).open()
    (scene,) = [scene for scene in opened.parts["train"] if scene.crowd.any()]
    assert (len(crowds), int(scene.crowd.sum()), len(scene.boxes)) == (1, 1, 2)
    batch = opened.batches("test", 12, 1, None)[0]
    assert batch["present"].sum() == len(data["annotations"]) - 1


def test_true_boxes_have_a_precision_of_one_and_nothing_found_of_zero() -> None:
    boxes, labels = np.array([[0.1, 0.1, 0.4, 0.6]]), np.array([1])
    truth = [(boxes, labels, np.zeros(1, bool))] * 3
    metrics, each = compute_average_precision([(boxes, labels, np.ones(1))] * 3, truth, [(50, 60)] * 3, 2)
    assert (metrics["map"], each) == (pytest.approx(1), [-1, pytest.approx(1)])
    nothing = (np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    assert compute_average_precision([nothing] * 3, truth, [(50, 60)] * 3, 2)[0]["map"] == 0


@pytest.mark.slow
def test_precision_does_not_depend_on_batches_or_devices(scenes: Path) -> None:
    assert law_metrics_do_not_depend_on_batches_or_devices(experiment(scenes), Detections(shown=0), 1e-4)


@pytest.mark.slow
def test_a_detector_learns_its_report_shows_the_boxes_and_it_is_measured_on_a_users_file(
    scenes: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    summary = fit(experiment(scenes), tmp_path / "run", "detection.py", Console(silent=True))
    assert (summary["review"]["map50"] or 0) > 0.4
    assert (summary["evaluation"]["overlap"]["value"] or 0) > 0.5
    assert 0 <= (summary.get("baselines", {})["map50"]["mean box"] or 0) < (summary["review"]["map50"] or 0)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1
    assert "Boxes found" in page
    own = str(shutil.copy(scenes / "scenes.json", tmp_path))  # without the pictures beside it
    assert main(["eval", str(tmp_path / "run"), "--data", own]) == 2
    assert f"has no picture that can be used in {tmp_path}; set data.test_images" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "run"), "--data", own, f"data.test_images={scenes / 'images'}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["review"]["map50"] == pytest.approx(summary["review"]["map50"], abs=1e-6)


def test_the_mean_box_of_each_class_is_what_a_detector_has_to_beat() -> None:
    boxes = np.array([[0, 0, 0.2, 0.2], [0.2, 0.2, 0.4, 0.6], [0.5, 0.5, 1, 1], [0, 0, 1, 1]])
    scenes = [
        Scene(Path(), "two", boxes[:2], np.array([1, 1]), np.zeros(2, bool)),
        Scene(Path(), "none", boxes[:0], np.zeros(0, int), np.zeros(0, bool)),
        Scene(Path(), "crowd", boxes[2:], np.array([0, 1]), np.array([False, True])),
    ]
    found = find_mean_boxes(scenes)
    assert found is not None
    means, labels, shares = found
    np.testing.assert_allclose(means, [[0.5, 0.5, 1, 1], [0.1, 0.1, 0.3, 0.4]])
    assert labels.tolist() == [0, 1]
    assert shares == pytest.approx([1 / 3, 2 / 3])
    assert find_mean_boxes(scenes[1:2]) is None


@pytest.mark.slow
def test_queries_of_a_decoder_predict_boxes_from_what_the_encoder_saw(scenes: Path) -> None:
    """DETR's form: an encoder over patches, learned queries that read it."""
    encoder, decoder = Block(Attention(2), MLP(2.0)), Block(Attention(2), MLP(2.0), cross=Attention(2, cross=True))
    embed = PatchEmbed(16, 8, registers=0, position=LearnedPosition(24))
    model = EncoderDecoder(QueryEmbed(6, 16), Stack(encoder, 1), Stack(decoder, 1), BoxHead(2), source_embed=embed)
    batch = experiment(scenes).data.open().batches("train", 4, 1, 0)[0]
    given = {name: jnp.asarray(value) for name, value in batch.items()}
    params = jax.jit(model.init)(jax.random.key(0), given)["params"]
    outputs = jax.jit(lambda params, batch: model.apply({"params": params}, batch))(params, given)
    assert outputs["boxes"].shape == (4, 6, 4)
    gradient = jax.jit(
        jax.grad(lambda params: SetPrediction()(model.apply({"params": params}, given), given)["loss"].value)
    )(params)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


def test_answers_are_the_likely_boxes_likeliest_first() -> None:
    logits = np.log(
        np.array([[0.9, 0.2], [0.1, 0.6], [0.05, 0.05]]) / (1 - np.array([[0.9, 0.2], [0.1, 0.6], [0.05, 0.05]]))
    )
    output: Any = {"logits": logits, "boxes": np.array([[0.5, 0.5, 0.2, 0.4]] * 3)}
    assert rank_boxes(output, 2)[1].tolist() == [0, 1]
    objects = SetPrediction().answer(output, NAMES)["objects"]
    assert [next(iter(one)) for one in objects] == ["disc", "bar"]
    assert objects[0]["disc"] == pytest.approx(0.9)
    assert objects[0]["box"] == pytest.approx([0.4, 0.3, 0.6, 0.7])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Boxes(most=0),
        lambda: Boxes(holdout=0.0),
        lambda: Boxes(test="a.json"),
        lambda: Boxes(path="a.json", test_images="folder"),
        lambda: Boxes(augment=Augment(mixup=0.2)),
        lambda: Boxes(augment=Augment(erase=0.5)),
        lambda: SetPrediction(label=-1.0),
        lambda: Detections(least=2.0),
        lambda: BoxHead(grid=(0, 3)),
        lambda: ConvEmbed(channels=()),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="give|set both|set it to 0|weights are not"):
        wrong()


def test_fewer_queries_than_objects_are_refused_before_training(scenes: Path, tmp_path: Path) -> None:
    one = experiment(scenes)
    assert isinstance(one.data, Boxes)
    one = dataclasses.replace(one, data=dataclasses.replace(one.data, most=30))
    with pytest.raises(InputError, match="24 queries and data.most is 30"):
        fit(one, tmp_path / "run", "detection.py", Console(silent=True))
