"""What a simple method reaches on the data of the applications: the numbers that their configs have to beat.

    python -m tests.benchmarks.baselines [--only NAME ...] [--json FILE]

Texts: term frequency times inverse document frequency of words and pairs of words, and logistic regression, by scikit-learn.
Clips: logistic regression on the pixels of all frames, and of the first and the last alone.
"""

from typing import Any

import numpy as np
from sklearn import metrics
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from tests.benchmarks.measure import finish, note, parser, report, selected
from train.data.source import dataset

TEXTS = ("movie_snippets/labels", "reuters_r8", "tweets")
CLIPS = ("moving_digits", "highway_manoeuvres/whole")


def texts(name: str) -> dict[str, float]:
    """Accuracy and macro-averaged F1 of a linear model on one set of texts."""
    parts: dict[str, tuple[list[str], list[int]]] = {}
    for part in ("train", "test"):
        examples = dataset(name, part).examples
        rows: list[Any] = [examples[index] for index in range(len(examples))]
        parts[part] = [row["text"].decode() for row in rows], [int(row["label"]) for row in rows]
    words = TfidfVectorizer(ngram_range=(1, 2))
    model = LogisticRegression(C=100, max_iter=3000).fit(words.fit_transform(parts["train"][0]), parts["train"][1])
    chosen, labels = model.predict(words.transform(parts["test"][0])), parts["test"][1]
    return {
        "accuracy": float(metrics.accuracy_score(labels, chosen)),
        "macro_f1": float(metrics.f1_score(labels, chosen, average="macro")),
    }


def clips(name: str) -> dict[str, float]:
    """Accuracy of a linear model on the pixels of one set of clips."""
    parts: dict[str, tuple[Any, Any]] = {}
    for part in ("train", "test"):
        examples = dataset(name, part).examples
        rows: list[Any] = [examples[index] for index in range(len(examples))]
        parts[part] = np.stack([row["video"] for row in rows]), np.array([int(row["label"]) for row in rows])
    found = {}
    for which, frames in (("all_frames", slice(None)), ("first_and_last", [0, -1])):
        pixels = {part: videos[:, frames].reshape(len(videos), -1) / np.float32(255) for part, (videos, _) in parts.items()}
        model = LogisticRegression(C=0.01, max_iter=300).fit(pixels["train"], parts["train"][1])
        found[which] = float(metrics.accuracy_score(parts["test"][1], model.predict(pixels["test"])))
    return found


def main() -> None:
    """Measures and prints the tables."""
    options = parser(__doc__).parse_args()
    figures = {}
    chosen = selected((*TEXTS, *CLIPS), options.only)
    for names, measured, columns, title in (
        (TEXTS, texts, ("texts", "accuracy", "macro-F1"), "TF-IDF of words and pairs of words, logistic regression"),
        (CLIPS, clips, ("clips", "accuracy", "first and last frame"), "pixels, logistic regression"),
    ):
        rows = []
        for name in (name for name in names if name in chosen):
            figures[name] = measured(name)
            note(f"{name}: {figures[name]}")
            rows.append((name, *(f"{value:.3f}" for value in figures[name].values())))
        if rows:
            report(columns, rows, title)
    finish(figures, options.json, [])


if __name__ == "__main__":
    main()
