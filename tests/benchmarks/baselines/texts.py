"""Texts with a class: a linear model over their words."""

from sklearn import metrics
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from tests.benchmarks.baselines import ALL, Figures, rows


def texts(name: str, most: int = ALL) -> Figures:
    """Term frequency times inverse document frequency of words and pairs of words, and logistic regression."""
    parts: dict[str, tuple[list[str], list[int]]] = {}
    for part in ("train", "test"):
        some = rows(name, part, most)
        parts[part] = [row["text"].decode() for row in some], [int(row["label"]) for row in some]
    words = TfidfVectorizer(ngram_range=(1, 2))
    model = LogisticRegression(C=100, max_iter=3000).fit(words.fit_transform(parts["train"][0]), parts["train"][1])
    chosen, labels = model.predict(words.transform(parts["test"][0])), parts["test"][1]
    accuracy, macro = metrics.accuracy_score(labels, chosen), metrics.f1_score(labels, chosen, average="macro")
    return {"TF-IDF, logistic regression": {"accuracy": float(accuracy), "macro_f1": float(macro)}}
