"""Translation: sacreBLEU and chrF of what beam search finds, and the sentences that went worst."""

import dataclasses
import html
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from train.contracts import Dataset, Ends, Findings, Steps
from train.prepared import Inference
from train.review.attention import heat, looked
from train.review.powers import Paired, missing
from train.review.trained import Trained, table


@dataclasses.dataclass(frozen=True)
class Translations:
    """BLEU (Papineni et al. 2002, as sacreBLEU computes it, arXiv:1804.08771) and chrF (Popovic 2015), both from 0 to 100, and exact match.

    Shows `shown` translations: the first ones, and the worst by chrF; and of the first `attention` where each word looked in the source.
    """

    shown: int = 8
    attention: int = 4

    def __post_init__(self) -> None:
        if self.shown < 0 or self.attention < 0:
            raise ValueError(f"Translations has shown {self.shown} and attention {self.attention}; give 0 sentences or more.")

    def ready(self, data: Dataset) -> None:
        """Raises InputError if the data has no translations."""
        if not isinstance(data, Paired):
            raise missing(self, data, "translations")

    def review(self, trained: Trained) -> Findings:
        """The findings on all sentences."""
        trainer, data = trained.trainer, trained.trainer.data
        batches = data.batches(trained.part, trainer.experiment.evaluation.batch_size, trainer.parallel.size(), None)
        if not isinstance(data, Paired):
            raise missing(self, data, "translations")
        found = sorted(translated(trainer, trained.params, batches, trained.stop))
        if not found or trained.stop():
            return Findings()
        pairs, texts = [data.pairs[trained.part][index] for index, _ in found], [text for _, text in found]
        metrics, each = scored(texts, [target for _, target in pairs])
        pictures = {}
        if self.shown:
            said = zip(pairs, texts, each, strict=True)
            rows = [(*map(html.escape, (source, text, target)), f"{chrf:.0f}") for (source, target), text, chrf in said]
            columns = ("source", "translation", "reference", "chrF")
            pictures["Translations: the first of the test part"] = table(columns, rows[: self.shown])
            worst = [rows[place] for place in np.argsort(each, kind="stable")[: self.shown]]
            pictures["Translations: the worst by chrF"] = table(columns, worst)
        written = [(source, text) for (source, _), text in zip(pairs, texts, strict=True) if text][: self.attention]
        if written and (panels := looked(trained, written)):
            pictures["Attention: where each word of the translation looked in the source, in the last layer, mean of its heads"] = heat(
                panels
            )
        return Findings(metrics, pictures)


def scored(texts: list[str], references: list[str]) -> tuple[dict[str, float], list[float]]:
    """BLEU, chrF and exact match of translations against one reference each, and the chrF of every one."""
    import sacrebleu

    return {
        "bleu": float(sacrebleu.corpus_bleu(texts, [references]).score),
        "chrf": float(sacrebleu.corpus_chrf(texts, [references]).score),
        "exact_match": float(np.mean([text == reference for text, reference in zip(texts, references, strict=True)])),
    }, [float(sacrebleu.sentence_chrf(text, [reference]).score) for text, reference in zip(texts, references, strict=True)]


def translated(trainer: Inference, params: Any, batches: Steps, stop: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, str]]:
    """Each source's index and its translation, in the order of the batches; ends early where it is stopped."""
    data = trainer.data
    assert isinstance(data, Ends)  # which the search has asked for
    for batch in batches.stream(0, len(batches)):
        if stop():
            return
        rows = np.asarray(trainer.search(params, trainer.parallel.put(batch))).tolist()
        for index, row, weight in zip(batch["index"].tolist(), rows, batch["weights"], strict=True):
            if weight:
                yield index, data.tokens.decode(row[: row.index(data.end)] if data.end in row else row).strip()
