"""Translation: sacreBLEU and chrF of beam search, and the worst sentences."""

import dataclasses
import math

import numpy as np

from train.baselines import Baseline
from train.contracts import Dataset, Evidence, Findings
from train.page import Piece, make_table
from train.review.attention import align_words, draw_heatmaps
from train.review.metrics import compute_share
from train.review.powers import Paired, make_missing_error


@dataclasses.dataclass(frozen=True)
class Translations:
    """BLEU, chrF and exact match of beam search.

    BLEU (Papineni et al. 2002, as sacreBLEU computes it, arXiv:1804.08771) and chrF (Popovic 2015) are from 0 to 100.
    Shows the first `shown` translations and the worst by chrF, and the cross-attention of the first `attention`.
    """

    shown: int = 8
    attention: int = 4

    def __post_init__(self) -> None:
        if self.shown < 0 or self.attention < 0:
            raise ValueError(
                f"Translations has shown {self.shown} and attention {self.attention}; give 0 sentences or more."
            )

    def ready(self, data: Dataset) -> None:
        """Raises InputError if the data has no translations."""
        if not isinstance(data, Paired):
            raise make_missing_error(self, data, "translations")

    def names(self, data: Dataset) -> tuple[str, ...]:
        """The three metrics."""
        self.ready(data)
        return "bleu", "chrf", "exact_match"

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """BLEU and chrF without an interval, exact match with one."""
        pairs, texts = search_translations(evidence)
        metrics, _ = score_texts(texts, [target for _, target in pairs])
        right = np.array([text == target for text, (_, target) in zip(texts, pairs, strict=True)])
        return {name: (value, math.inf) for name, value in metrics.items()} | {"exact_match": compute_share(right)}

    def review(self, evidence: Evidence) -> Findings:
        """The findings on all sentences."""
        self.ready(evidence.data)
        pairs, texts = search_translations(evidence)
        if not texts:
            return Findings()
        metrics, each = score_texts(texts, [target for _, target in pairs])
        pictures: dict[str, Piece] = {}
        if self.shown:
            rows = [
                (source, text, target, f"{chrf:.0f}")
                for (source, target), text, chrf in zip(pairs, texts, each, strict=True)
            ]
            columns = ("source", "translation", "reference", "chrF")
            pictures["Translations: the first of the test part"] = make_table(columns, rows[: self.shown])
            worst = [rows[index] for index in np.argsort(each, kind="stable")[: self.shown]]
            pictures["Translations: the worst by chrF"] = make_table(columns, worst)
        written = [(source, text) for (source, _), text in zip(pairs, texts, strict=True) if text][: self.attention]
        if written and (panels := align_words(evidence, written)):
            pictures[
                "Attention: where each word of the translation looked in the source, in the last layer, mean of its"
                " heads"
            ] = draw_heatmaps(panels)
        copied, _ = score_texts([source for source, _ in pairs], [target for _, target in pairs])
        baselines = {name: (Baseline("source copied", value, greater=True),) for name, value in copied.items()}
        return Findings(metrics, pictures, baselines)


def search_translations(evidence: Evidence) -> tuple[list[tuple[str, str]], list[str]]:
    """Searches a translation of each source: pairs of a source and its reference, and texts, in the split's order."""
    data = evidence.data
    assert isinstance(data, Paired)
    results = sorted(evidence.search())
    texts = [data.tokens.decode(ids).strip() for _, ids in results]
    return [data.pairs[evidence.part][index] for index, _ in results], texts


def score_texts(texts: list[str], references: list[str]) -> tuple[dict[str, float], list[float]]:
    """Scores translations against one reference each: BLEU, chrF and exact match, and the chrF of each text."""
    import sacrebleu

    return {
        "bleu": float(sacrebleu.corpus_bleu(texts, [references]).score),
        "chrf": float(sacrebleu.corpus_chrf(texts, [references]).score),
        "exact_match": float(np.mean([text == reference for text, reference in zip(texts, references, strict=True)])),
    }, [
        float(sacrebleu.sentence_chrf(text, [reference]).score)
        for text, reference in zip(texts, references, strict=True)
    ]
