"""Clips of video with a class: a linear model over pixels."""

from typing import Any

import numpy as np
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from tests.benchmarks.baselines import ALL, Figures, rows


def clips(name: str, most: int = ALL) -> Figures:
    """Logistic regression on the pixels of all frames, and of the first and the last alone."""
    parts: dict[str, tuple[Any, Any]] = {}
    for part in ("train", "test"):
        some = rows(name, part, most)
        parts[part] = np.stack([row["video"] for row in some]), np.array([int(row["label"]) for row in some])
    found: Figures = {}
    for which, frames in (("all frames", slice(None)), ("first and last frame", [0, -1])):
        pixels = {
            part: videos[:, frames].reshape(len(videos), -1) / np.float32(255) for part, (videos, _) in parts.items()
        }
        model = LogisticRegression(C=0.01, max_iter=300).fit(pixels["train"], parts["train"][1])
        accuracy = metrics.accuracy_score(parts["test"][1], model.predict(pixels["test"]))
        found[f"{which}, logistic regression"] = {"accuracy": float(accuracy)}
    return found
