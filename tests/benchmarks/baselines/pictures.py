"""Pictures: a linear model over pixels, and what stands out from the background."""

import warnings
from typing import Any

import numpy as np
from scipy import ndimage
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from tests.benchmarks.baselines import ALL, Figures, rows
from train.data.readers.pixels import resize
from train.data.sources import open_dataset
from train.review.detections import compute_average_precision

SIDE = 14  # pixels that a box is seen by
LEAST = 1 / 800  # share of a picture that stands out by chance at most


def pixels(name: str, most: int = ALL) -> Figures:
    """Logistic regression, 60 steps of L-BFGS on all pictures: it has not converged, and more steps gain little."""
    parts: dict[str, tuple[Any, Any]] = {}
    for part in ("train", "test"):
        some = rows(name, part, most)
        seen = np.stack([row["image"] for row in some]).reshape(len(some), -1)
        parts[part] = seen.astype(np.float32) / 255, np.array([int(row["label"]) for row in some])
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model = LogisticRegression(C=0.1, max_iter=60).fit(*parts["train"])
    return {"pixels, logistic regression": {"accuracy": float(model.score(*parts["test"]))}}


def components(name: str, most: int = ALL) -> Figures:
    """Each connected region that stands out is a box; logistic regression on what it holds and how large it is gives
    its class.
    """
    parts = {part: rows(name, part, most) for part in ("train", "test")}
    classes = len(open_dataset(name, "train").names["objects/label"])
    known = [(row["image"], boxes_of(row), np.asarray(row["objects"]["label"], int)) for row in parts["train"]]
    held = np.stack([inside(image, box) for image, boxes, _ in known for box in boxes])
    model = LogisticRegression(C=0.1, max_iter=300).fit(held, np.concatenate([labels for *_, labels in known]))
    found, truths, sizes = [], [], []
    for row in parts["test"]:
        image, labels = row["image"], np.asarray(row["objects"]["label"], int)
        boxes = regions(image)
        chances = (
            model.predict_proba(np.stack([inside(image, box) for box in boxes]))
            if len(boxes)
            else np.zeros((0, classes))
        )
        found.append((boxes, model.classes_[chances.argmax(-1)], chances.max(-1, initial=0)))
        truths.append((boxes_of(row), labels, np.zeros(len(labels), bool)))
        sizes.append(image.shape[:2])
    metrics, _ = compute_average_precision(found, truths, sizes, classes)
    return {"connected regions, logistic regression": {key: metrics[key] for key in ("map50", "map")}}


def boxes_of(row: Any) -> np.ndarray:
    """The true boxes (n, 4) by left, top, right, bottom in shares."""
    return np.asarray(row["objects"]["bbox"], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]


def regions(image: np.ndarray) -> np.ndarray:
    """Boxes of the connected regions that differ from the background, which is on the more frequent side of Otsu's
    threshold.
    """
    grey = image[..., image.shape[2] // 2].astype(int)  # of colours the green, which blood takes most of
    counts = np.bincount(grey.ravel(), minlength=256).astype(float)
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below / below[-1] - sums) ** 2 / (below * (below[-1] - below))
    level = int(np.nanargmax(np.where(np.isfinite(between), between, np.nan)))
    ahead = grey > level
    ahead = ndimage.binary_fill_holes(ahead if ahead.mean() < 0.5 else ~ahead)
    labelled: Any = ndimage.label(ahead)
    numbered = labelled[0]
    rows, columns = grey.shape
    boxes = [
        (across.start / columns, down.start / rows, across.stop / columns, down.stop / rows)
        for number, (down, across) in enumerate(ndimage.find_objects(numbered), 1)
        if (numbered[down, across] == number).sum() >= LEAST * grey.size
    ]
    return np.array(boxes, np.float32).reshape(-1, 4)


def inside(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What a box holds, at one size, and how large it is."""
    rows, columns = image.shape[:2]
    left, top = int(box[0] * columns), int(box[1] * rows)
    right, bottom = max(left + 1, round(float(box[2]) * columns)), max(top + 1, round(float(box[3]) * rows))
    seen = resize(np.ascontiguousarray(image[top:bottom, left:right]), (SIDE, SIDE)).reshape(-1) / 255
    return np.concatenate([seen, 4 * (box[2:] - box[:2])])
