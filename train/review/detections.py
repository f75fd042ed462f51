"""Object detection: COCO's average precision, and images with the predicted boxes.  Slow imports are deferred."""

import contextlib
import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from train.baselines import Baseline
from train.contracts import Dataset, Evidence, Findings
from train.data.readers.scenes import Scene
from train.objectives.detection import rank_boxes
from train.page import Figure, Piece, to_figure
from train.review.powers import Boxed, make_missing_error

COLOURS = ("#e6550d", "#3182bd", "#31a354", "#756bb1", "#d6276e", "#8c6d31")
COCO_METRICS = {"map": 0, "map50": 1, "map75": 2, "recall": 8}  # by index in `COCOeval.stats`
FEW = 12  # classes that have a metric each
MOST = 100  # boxes an image that COCO counts
Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]  # of an image: corners (n, 4), labels (n,), probabilities or crowds
Panel = tuple[np.ndarray, Scene, Boxes]  # an image, its true boxes, the predicted ones


@dataclasses.dataclass(frozen=True)
class Detections:
    """Average precision over all images as pycocotools computes it (Lin et al., arXiv:1405.0312).

    `map` is the mean over overlaps of 0.5 to 0.95, `map50` and `map75` that at one overlap, `recall` the mean recall
    with 100 boxes an image; all from 0 to 1.  Draws `shown` images of the part with the boxes of probability `least` or
    more, and the true ones dashed.
    """

    shown: int = 8
    least: float = 0.3

    def __post_init__(self) -> None:
        if self.shown < 0 or not 0 <= self.least <= 1:
            raise ValueError(
                f"Detections has shown {self.shown} and least {self.least}; give 0 pictures or more, and a probability."
            )

    def ready(self, data: Dataset) -> None:
        """Raises InputError if the data has no boxes."""
        if not isinstance(data, Boxed):
            raise make_missing_error(self, data, "pictures with boxes")

    def names(self, data: Dataset) -> tuple[str, ...]:
        """COCO's four metrics, and `map50_NAME` of each class if classes are few."""
        self.ready(data)
        return *COCO_METRICS, *(f"map50_{name}" for name in data.names if len(data.names) <= FEW)

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """The average precision on all images, without intervals."""
        plain = dataclasses.replace(self, shown=0).review(evidence)
        return {name: (value, math.inf) for name, value in plain.metrics.items()}

    def review(self, evidence: Evidence) -> Findings:
        """The findings on all images."""
        data, names = evidence.data, evidence.data.names
        if not isinstance(data, Boxed):
            raise make_missing_error(self, data, "pictures with boxes")
        truths: list[Boxes] = []
        predictions: list[Boxes] = []
        sizes: list[tuple[int, int]] = []
        panels: list[Panel] = []
        scenes = data.truths(evidence.part)
        for case in sorted(evidence.cases(), key=lambda case: case.index):
            scene, predicted = scenes[case.index], rank_boxes(case.output, MOST)
            image = data.picture(evidence.part, case.index)
            truths.append((scene.boxes, scene.labels, scene.crowd))
            predictions.append(predicted)
            sizes.append((image.shape[0], image.shape[1]))
            if len(panels) < self.shown:
                panels.append((image, scene, predicted))
        if not predictions:
            return Findings()
        metrics, each = compute_average_precision(predictions, truths, sizes, len(names))
        metrics |= (
            {f"map50_{name}": value for name, value in zip(names, each, strict=True)} if len(names) <= FEW else {}
        )
        baselines: dict[str, tuple[Baseline, ...]] = {}
        if evidence.part == "test" and (usual := find_mean_boxes(data.truths("train"))) is not None:
            same, _ = compute_average_precision([usual] * len(truths), truths, sizes, len(names))
            baselines = {name: (Baseline("mean box", value, greater=True),) for name, value in same.items()}
        pictures: dict[str, Piece] = {}
        if panels:
            caption = "Boxes found, with their class and probability; the true ones are dashed"
            pictures[caption] = self.draw_boxes(panels, names)
        return Findings(metrics, pictures, baselines)

    def draw_boxes(self, panels: Sequence[Panel], names: tuple[str, ...]) -> Figure:
        """Draws the images with their boxes."""
        from matplotlib.figure import Figure as Canvas
        from matplotlib.patches import Rectangle

        across = min(2 if panels[0][0].shape[0] > 100 else 4, len(panels))
        down = -(-len(panels) // across)
        rows, columns = panels[0][0].shape[:2]
        figure = Canvas((9, 9 / across * down * rows / columns), layout="tight")
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes, (image, scene, (boxes, labels, probabilities)) in zip(grid.flat, panels, strict=False):
            axes.imshow(image[..., 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
            height, width = image.shape[:2]
            scale = np.array([width, height, width, height])
            for box in scene.boxes * scale:
                axes.add_patch(
                    Rectangle(
                        box[:2], *(box[2:] - box[:2]), fill=False, linestyle=":", linewidth=1.2, edgecolor="white"
                    )
                )
            for box, label, probability in zip(boxes * scale, labels, probabilities, strict=True):
                if probability >= self.least:
                    colour = COLOURS[label % len(COLOURS)]
                    axes.add_patch(
                        Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, linewidth=1.4, edgecolor=colour)
                    )
                    axes.text(
                        *box[:2],
                        f"{names[label]} {probability:.2f}",
                        size=6,
                        color="white",
                        va="bottom",
                        bbox={"facecolor": colour, "pad": 0.8, "linewidth": 0},
                    )
        return to_figure(figure)


def find_mean_boxes(scenes: Sequence[Scene]) -> Boxes | None:
    """Finds the mean box of each class that occurs, and its share of all boxes as its probability; None without boxes.

    The same prediction for each image: what a detector has to beat.
    """
    some = [scene for scene in scenes if not scene.crowd.all()]
    if not some:
        return None
    boxes = np.concatenate([scene.boxes[~scene.crowd] for scene in some])
    labels = np.concatenate([scene.labels[~scene.crowd] for scene in some])
    classes, counts = np.unique(labels, return_counts=True)
    means = np.stack([boxes[labels == label].mean(0) for label in classes])
    return means, classes, counts / len(labels)


def compute_average_precision(
    predictions: Sequence[Boxes], truths: Sequence[Boxes], sizes: Sequence[tuple[int, int]], classes: int
) -> tuple[dict[str, float], list[float]]:
    """Computes COCO's metrics, and the average precision at an overlap of 0.5 of every class, -1 if it never occurs.

    Predictions are corners as fractions, labels, probabilities of each image; truths are corners, labels, crowds;
    `sizes` are rows and columns of images.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth: Any = COCO()
        truth.dataset = {
            "info": {},
            "images": [
                {"id": image + 1, "height": rows, "width": columns} for image, (rows, columns) in enumerate(sizes)
            ],
            "categories": [{"id": number + 1, "name": str(number)} for number in range(classes)],
            "annotations": [],
        }
        for image, ((boxes, labels, crowds), size) in enumerate(zip(truths, sizes, strict=True)):
            for box, label, crowd in zip(_to_pixels(boxes, size), labels, crowds, strict=True):
                annotation = {
                    "id": len(truth.dataset["annotations"]) + 1,
                    "image_id": image + 1,
                    "category_id": int(label) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowd),
                }
                truth.dataset["annotations"].append(annotation)
        truth.createIndex()
        listed = [
            {"image_id": image + 1, "category_id": int(label) + 1, "bbox": box, "score": float(probability)}
            for image, ((boxes, labels, probabilities), size) in enumerate(zip(predictions, sizes, strict=True))
            for box, label, probability in zip(_to_pixels(boxes, size), labels, probabilities, strict=True)
        ]
        judge = COCOeval(truth, truth.loadRes(listed) if listed else COCO(), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    precision = judge.eval["precision"][0, :, :, 0, 2]  # overlap 0.5: recall thresholds, classes
    each = [float(column.mean()) if (column > -1).any() else -1.0 for column in precision.T]
    return {name: float(judge.stats[index]) for name, index in COCO_METRICS.items()}, each


def _to_pixels(boxes: np.ndarray, size: tuple[int, int]) -> list[list[float]]:
    rows, columns = size
    scaled = np.asarray(boxes, np.float64).reshape(-1, 4) * [columns, rows, columns, rows]
    return np.concatenate([scaled[:, :2], scaled[:, 2:] - scaled[:, :2]], axis=-1).tolist()
