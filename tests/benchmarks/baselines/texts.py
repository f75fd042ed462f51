"""What a simple method reaches on the data of the applications: the numbers that their configs have to beat.

    python -m tests.benchmarks.baselines [--only NAME ...] [--json FILE]

Texts: term frequency times inverse document frequency of words and pairs of words, and logistic regression, by scikit-learn.
"""

from typing import Any

from sklearn import metrics
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from tests.benchmarks.measure import finish, note, parser, report, selected
from train.data.source import dataset

TEXTS = ("movie_snippets/labels", "reuters_r8", "tweets")


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


def main() -> None:
    """Measures and prints the table."""
    options = parser(__doc__).parse_args()
    figures = {}
    for name in selected(TEXTS, options.only):
        figures[name] = texts(name)
        note(f"{name}: {figures[name]}")
    rows = [(name, *(f"{value:.3f}" for value in found.values())) for name, found in figures.items()]
    report(("texts", "accuracy", "macro-F1"), rows, "TF-IDF of words and pairs of words, logistic regression")
    finish(figures, options.json, [])


if __name__ == "__main__":
    main()
