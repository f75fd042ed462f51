"""Object detection: COCO's average precision, and pictures with the boxes found.  What takes long to import is imported
when needed.
"""

import contextlib
import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from train.contracts import Dataset, Evidence, Findings
from train.objectives.detection import ranked
from train.page import Figure, Piece, drawn
from train.review.powers import Boxed, missing

COLOURS = ("#e6550d", "#3182bd", "#31a354", "#756bb1", "#d6276e", "#8c6d31")
COCO_METRICS = {"map": 0, "map50": 1, "map75": 2, "recall": 8}  # and their places among its numbers
FEW = 12  # classes that have a metric each
MOST = 100  # boxes a picture that COCO counts


@dataclasses.dataclass(frozen=True)
class Detections:
    """Average precision over all pictures as pycocotools computes it (Lin et al., arXiv:1405.0312): `map` is the mean
    over overlaps of 0.5 to 0.95, `map50` and `map75` that at one overlap, `recall` the mean recall with 100 boxes a
    picture; all from 0 to 1.

    Draws `shown` pictures of the part with the boxes that are at least as likely as `least`, and the true ones dashed.
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
            raise missing(self, data, "pictures with boxes")

    def names(self, data: Dataset) -> tuple[str, ...]:
        """COCO's four, and `map50_NAME` of each class of few."""
        self.ready(data)
        return *COCO_METRICS, *(f"map50_{name}" for name in data.names if len(data.names) <= FEW)

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """The average precision on all pictures, without intervals."""
        plain = dataclasses.replace(self, shown=0).review(evidence)
        return {name: (value, math.inf) for name, value in plain.metrics.items()}

    def review(self, evidence: Evidence) -> Findings:
        """The findings on all pictures."""
        data, names = evidence.data, evidence.data.names
        if not isinstance(data, Boxed):
            raise missing(self, data, "pictures with boxes")
        truths: list[Any] = []
        found: list[Any] = []
        sizes: list[tuple[int, int]] = []
        panels = []
        for case in sorted(evidence.cases(), key=lambda case: case.index):
            scene, guessed = data.truth(evidence.part, case.index), ranked(case.output, MOST)
            picture = data.picture(evidence.part, case.index)
            truths.append((scene.boxes, scene.labels, scene.crowd))
            found.append(guessed)
            sizes.append(picture.shape[:2])
            if len(panels) < self.shown:
                panels.append((picture, scene, guessed))
        if not found:
            return Findings()
        metrics, each = average_precision(found, truths, sizes, len(names))
        metrics |= (
            {f"map50_{name}": value for name, value in zip(names, each, strict=True)} if len(names) <= FEW else {}
        )
        pictures: dict[str, Piece] = {}
        if panels:
            caption = "Boxes found, with their class and probability; the true ones are dashed"
            pictures[caption] = self.drawn(panels, names)
        return Findings(metrics, pictures)

    def drawn(self, panels: Sequence[Any], names: tuple[str, ...]) -> Figure:
        """The pictures with their boxes."""
        from matplotlib.figure import Figure as Canvas
        from matplotlib.patches import Rectangle

        across = min(2 if panels[0][0].shape[0] > 100 else 4, len(panels))
        down = -(-len(panels) // across)
        rows, columns = panels[0][0].shape[:2]
        figure = Canvas((9, 9 / across * down * rows / columns), layout="tight")
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes, (picture, scene, (boxes, labels, chances)) in zip(grid.flat, panels, strict=False):
            axes.imshow(picture[..., 0] if picture.shape[2] == 1 else picture, cmap="gray", vmin=0, vmax=255)
            height, width = picture.shape[:2]
            scale = np.array([width, height, width, height])
            for box in scene.boxes * scale:
                axes.add_patch(
                    Rectangle(
                        box[:2], *(box[2:] - box[:2]), fill=False, linestyle=":", linewidth=1.2, edgecolor="white"
                    )
                )
            for box, label, chance in zip(boxes * scale, labels, chances, strict=True):
                if chance >= self.least:
                    colour = COLOURS[label % len(COLOURS)]
                    axes.add_patch(
                        Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, linewidth=1.4, edgecolor=colour)
                    )
                    said = f"{names[label]} {chance:.2f}"
                    axes.text(
                        *box[:2],
                        said,
                        size=6,
                        color="white",
                        va="bottom",
                        bbox={"facecolor": colour, "pad": 0.8, "linewidth": 0},
                    )
        return drawn(figure)


def average_precision(
    found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    truths: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    sizes: Sequence[tuple[int, int]],
    classes: int,
) -> tuple[dict[str, float], list[float]]:
    """COCO's metrics of boxes found (corners in shares, labels, probabilities) against true ones (corners, labels,
    crowds), and the average precision at an overlap of 0.5 of every class, -1 for one that never occurs; `sizes` are
    the pictures' rows and columns."""
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
            for box, label, crowd in zip(_pixels(boxes, size), labels, crowds, strict=True):
                own = {
                    "id": len(truth.dataset["annotations"]) + 1,
                    "image_id": image + 1,
                    "category_id": int(label) + 1,
                }
                truth.dataset["annotations"].append(own | {"bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)})
        truth.createIndex()
        listed = [
            {"image_id": image + 1, "category_id": int(label) + 1, "bbox": box, "score": float(chance)}
            for image, ((boxes, labels, chances), size) in enumerate(zip(found, sizes, strict=True))
            for box, label, chance in zip(_pixels(boxes, size), labels, chances, strict=True)
        ]
        judge: Any = COCOeval(truth, truth.loadRes(listed) if listed else COCO(), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    precision = judge.eval["precision"][0, :, :, 0, 2]  # overlap 0.5: recall thresholds, classes
    each = [float(column.mean()) if (column > -1).any() else -1.0 for column in precision.T]
    return {name: float(judge.stats[place]) for name, place in COCO_METRICS.items()}, each


def _pixels(boxes: np.ndarray, size: tuple[int, int]) -> list[list[float]]:
    rows, columns = size
    scaled = np.asarray(boxes, np.float64).reshape(-1, 4) * [columns, rows, columns, rows]
    return np.concatenate([scaled[:, :2], scaled[:, 2:] - scaled[:, :2]], axis=-1).tolist()
