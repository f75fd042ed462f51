"""Translation: sacreBLEU and chrF of what beam search finds, and the sentences that went worst."""

import dataclasses
import math
from typing import Any

import numpy as np

from train.baselines import Baseline
from train.contracts import Dataset, Evidence, Findings
from train.page import Piece, table
from train.review.attention import heat, looked
from train.review.metrics import share
from train.review.powers import Paired, missing


@dataclasses.dataclass(frozen=True)
class Translations:
    """BLEU (Papineni et al. 2002, as sacreBLEU computes it, arXiv:1804.08771) and chrF (Popovic 2015), both from 0 to
    100, and exact match.

    Shows `shown` translations: the first ones, and the worst by chrF; and of the first `attention` where each word
    looked in the source.
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
            raise missing(self, data, "translations")

    def names(self, data: Dataset) -> tuple[str, ...]:
        """The three metrics."""
        self.ready(data)
        return "bleu", "chrf", "exact_match"

    def measure(self, evidence: Evidence) -> dict[str, tuple[float, float]]:
        """BLEU and chrF without an interval, exact match with one."""
        pairs, texts = translations(evidence)
        metrics, _ = scored(texts, [target for _, target in pairs])
        right = np.array([text == target for text, (_, target) in zip(texts, pairs, strict=True)])
        return {name: (value, math.inf) for name, value in metrics.items()} | {"exact_match": share(right)}

    def review(self, evidence: Evidence) -> Findings:
        """The findings on all sentences."""
        self.ready(evidence.data)
        pairs, texts = translations(evidence)
        if not texts:
            return Findings()
        metrics, each = scored(texts, [target for _, target in pairs])
        pictures: dict[str, Piece] = {}
        if self.shown:
            said = zip(pairs, texts, each, strict=True)
            rows = [(source, text, target, f"{chrf:.0f}") for (source, target), text, chrf in said]
            columns = ("source", "translation", "reference", "chrF")
            pictures["Translations: the first of the test part"] = table(columns, rows[: self.shown])
            worst = [rows[place] for place in np.argsort(each, kind="stable")[: self.shown]]
            pictures["Translations: the worst by chrF"] = table(columns, worst)
        written = [(source, text) for (source, _), text in zip(pairs, texts, strict=True) if text][: self.attention]
        if written and (panels := looked(evidence, written)):
            pictures[
                "Attention: where each word of the translation looked in the source, in the last layer, mean of its"
                " heads"
            ] = heat(panels)
        copied, _ = scored([source for source, _ in pairs], [target for _, target in pairs])
        beside = {name: (Baseline("source copied", value, greater=True),) for name, value in copied.items()}
        return Findings(metrics, pictures, beside)


def translations(evidence: Evidence) -> tuple[list[tuple[str, str]], list[str]]:
    """Pairs of a source and its reference, and what the search makes of each source, in the order of the split."""
    data: Any = evidence.data
    found = sorted(evidence.search())
    texts = [data.tokens.decode(ids).strip() for _, ids in found]
    return [data.pairs[evidence.part][index] for index, _ in found], texts


def scored(texts: list[str], references: list[str]) -> tuple[dict[str, float], list[float]]:
    """BLEU, chrF and exact match of translations against one reference each, and the chrF of every one."""
    import sacrebleu

    return {
        "bleu": float(sacrebleu.corpus_bleu(texts, [references]).score),
        "chrf": float(sacrebleu.corpus_chrf(texts, [references]).score),
        "exact_match": float(np.mean([text == reference for text, reference in zip(texts, references, strict=True)])),
    }, [
        float(sacrebleu.sentence_chrf(text, [reference]).score)
        for text, reference in zip(texts, references, strict=True)
    ]
