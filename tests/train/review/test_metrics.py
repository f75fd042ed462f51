"""Metrics over all examples: their formulas, the log, the best checkpoint, and names that nothing measures."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.places import CONFIGS
from train.cli import main
from train.config import load_config
from train.contracts import Case
from train.engine.prepared import prepare_evaluation
from train.errors import InputError
from train.experiment import Evaluation
from train.report.console import Console
from train.review.classes import Classes
from train.review.language import Language
from train.review.metrics import MacroF1, TopK, compute_share
from train.sinks.json_lines import get_step, read_metrics
from train.summary import Summary
from train.sums import wilson_half_width
from train.use.fit import fit

SENTENCES = str(CONFIGS / "sentences.py")
SHORT = ["steps=6", "evaluation.every=3", "evaluation.greater=true"]


@pytest.fixture(autouse=True)
def _inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    monkeypatch.setenv("MORPHAX_CACHE", str(workshop / "cache"))


@dataclasses.dataclass
class Given:
    """Cases as they are, in place of a model's."""

    logits: np.ndarray
    labels: np.ndarray

    def cases(self) -> Iterator[Case]:
        for index, (logits, label) in enumerate(zip(self.logits, self.labels, strict=True)):
            yield Case(logits, {"labels": np.array(label)}, index)


def test_metrics_are_their_formulas() -> None:
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(60, 7)), draw.integers(0, 7, 60)
    given: Any = Given(logits, labels)
    chosen, scores = logits.argmax(-1), []
    for label in range(7):
        hits = ((chosen == label) & (labels == label)).sum()
        scores.append(2 * hits / ((chosen == label).sum() + (labels == label).sum()))
    value, half = MacroF1().measure(given)["macro_f1"]
    np.testing.assert_allclose(value, np.mean(scores), rtol=1e-12)
    assert half == math.inf
    for k in (1, 3, 7):
        right = [label in np.argsort(-row)[:k] for row, label in zip(logits, labels, strict=True)]
        value, half = TopK(k).measure(given)[f"top_{k}_accuracy"]
        np.testing.assert_allclose(value, np.mean(right), rtol=1e-6)
        np.testing.assert_allclose(half, wilson_half_width(float(np.mean(right)), 60), rtol=1e-6)
    assert compute_share(np.array([True, True, False, True]))[0] == 0.75
    with pytest.raises(ValueError, match=r"TopK\.k is 0; give 1 or more"):
        TopK(0)


@pytest.mark.slow
def test_a_metric_is_logged_at_each_evaluation_and_picks_the_best_checkpoint(tmp_path: Path) -> None:
    experiment = load_config(SENTENCES, [*SHORT, "evaluation.metric=macro_f1"])[0]
    asked = dataclasses.replace(experiment, metrics=(MacroF1(), TopK(2)), review=None)
    reviewed = dataclasses.replace(experiment, review=Classes())
    runs = {"asked": asked, "reviewed": reviewed}
    curves: dict[str, dict[int, float]] = {}
    summaries: dict[str, Summary] = {}
    for name, one in runs.items():
        summary = summaries[name] = fit(one, tmp_path / name, SENTENCES, Console(silent=True))
        lines = [line for line in read_metrics(tmp_path / name) if "evaluation/loss" in line]
        scores = [(get_step(line), line["evaluation/macro_f1"]) for line in lines]
        curves[name] = {step: score for step, score in scores if score is not None}
        assert list(curves[name]) == [3, 6]
        assert curves[name][summary.get("best_step") or 0] == max(curves[name].values())
        assert summary["evaluation"]["macro_f1"]["value"] == curves[name][6]
        assert summary["evaluation"]["macro_f1"]["interval"] is None
        assert lines[-1]["evaluation/accuracy"] == summary["evaluation"]["accuracy"]["value"]
    assert curves["asked"] == curves["reviewed"]
    assert summaries["reviewed"]["review"]["macro_f1"] == curves["reviewed"][6]
    kept = json.loads((tmp_path / "asked" / "summary.json").read_text(encoding="utf-8"))["evaluation"]
    assert kept["top_2_accuracy"]["value"] == 1.0  # of two classes
    assert kept["top_2_accuracy"]["interval"] > 0


def test_a_metric_that_nothing_measures_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["metrics=(TopK(2),)", "review=Classes()", "evaluation.metric=bleu"]
    assert main(["train", SENTENCES, "--run", str(tmp_path / "run"), *own]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("morphax: evaluation.metric is 'bleu' and the objective measures accuracy, loss, metrics")
    assert "metrics measure top_2_accuracy, the review measures macro_f1, balanced_accuracy" in said
    assert said.endswith("; choose one of these.")
    assert not (tmp_path / "run").exists()


def test_metrics_that_do_not_fit_are_refused() -> None:
    experiment = load_config(SENTENCES, SHORT)[0]
    twice = dataclasses.replace(experiment, metrics=(MacroF1(), Classes()))
    with pytest.raises(InputError, match="metrics has MacroF1 and Classes, which both measure macro_f1; leave one out"):
        prepare_evaluation(twice, twice.data.open())
    corpus = load_config(str(Path(SENTENCES).with_name("language_model.py")), ["steps=2"])[0]
    unlabelled = dataclasses.replace(corpus, metrics=(MacroF1(),))
    with pytest.raises(InputError, match="metrics has MacroF1, .*: MacroF1 compares classes, and the data has none"):
        prepare_evaluation(unlabelled, unlabelled.data.open())
    picked = dataclasses.replace(corpus, review=Language(), evaluation=Evaluation(metric="perplexity"))
    assert prepare_evaluation(picked, picked.data.open()).metrics == (Language(),)
