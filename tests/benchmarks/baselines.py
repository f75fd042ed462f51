"""What a simple method reaches on the data of the applications: the numbers that their configs have to beat.

    python -m tests.benchmarks.baselines [--only NAME ...] [--json FILE]

Driving: no action at all, the expert, and a linear regression of its actions on what it saw, at the wheel in the review's 50 drives.
Texts: term frequency times inverse document frequency of words and pairs of words, and logistic regression, by scikit-learn.
"""

from typing import Any

import numpy as np
from sklearn import metrics
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression

from tests.benchmarks.measure import finish, note, parser, report, selected
from train.data.source import dataset
from train.driving import Highway, Style, drive
from train.review.driving import ClosedLoop, total

TEXTS = ("movie_snippets/labels", "reuters_r8", "tweets")
DRIVES = "highway_drives/expert"


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


def drives(name: str) -> dict[str, dict[str, float]]:
    """What the review of driving measures, of drivers without a transformer."""
    examples = dataset(name, "train").examples
    rows: list[Any] = [examples[index] for index in range(len(examples))]
    linear = LinearRegression().fit(*(np.concatenate([row[key] for row in rows]) for key in ("features", "actions")))
    wheels: dict[str, Any] = {
        "expert": None,
        "no action": lambda seen, rewards: np.zeros((len(seen), 2)),
        "linear": lambda seen, rewards: linear.predict(seen),
    }
    review, found, best = ClosedLoop(), dict[str, dict[str, float]](), 0.0
    for driver, wheel in wheels.items():
        trips = drive([Highway("closed", number, [Style()]) for number in range(review.episodes)], wheel, review.steps)
        best = best or total(trips)
        found[driver] = review.measured(trips) | {"reward_ratio": total(trips) / best, "reward": total(trips) / len(trips)}
    return found


def main() -> None:
    """Measures and prints the tables."""
    options = parser(__doc__).parse_args()
    figures: dict[str, Any] = {}
    chosen = selected((*TEXTS, DRIVES), options.only)
    for name in chosen:
        figures[name] = texts(name) if name in TEXTS else drives(name)
        note(f"{name}: {figures[name]}")
    rows = [(name, *(f"{value:.3f}" for value in found.values())) for name, found in figures.items() if name in TEXTS]
    if rows:
        report(("texts", "accuracy", "macro-F1"), rows, "TF-IDF of words and pairs of words, logistic regression")
    for name in set(figures) - set(TEXTS):
        rows = [(driver, *(f"{value:.3f}" for value in found.values())) for driver, found in figures[name].items()]
        columns = [column.replace("_", " ") for column in next(iter(figures[name].values()))]
        report((name, *columns), rows, f"{ClosedLoop().episodes} drives from seeds that no log has")
    finish(figures, options.json, [])


if __name__ == "__main__":
    main()
