"""What reviews find: their metrics against formulas, the same on any devices and in any batches, and what is drawn."""

import base64
import dataclasses
import html
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from tests.configs import language_model, sentences
from tests.train.review.evidence import WAYS, law_metrics_do_not_depend_on_batches_or_devices, trained
from train.baselines import Baseline
from train.charts import Matrix, list_records
from train.contracts import Case, Findings
from train.engine.constant import add_constant, fit_constant
from train.experiment import Evaluation
from train.page import to_html
from train.parallel import Jit
from train.report.console import Console, format_summary
from train.review.classes import Classes, measure_majority
from train.review.language import Language
from train.summary import replace_nonfinite
from train.use.fit import fit


@pytest.fixture(autouse=True)
def inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    monkeypatch.setenv("MORPHAX_CACHE", str(workshop / "cache"))


@dataclasses.dataclass
class Given:
    """Cases as they are, in place of a model's; reads as `Trained` does."""

    given: list[Case]
    classes: tuple[str, ...] = ()

    @property
    def data(self) -> Any:
        return dataclasses.make_dataclass("Data", ["classes", "names"])(self.classes, self.classes)

    def cases(self) -> Iterator[Case]:
        return iter(self.given)

    def show_example(self, index: int) -> str:
        return f"example {index}"


def textbook(logits: np.ndarray, labels: np.ndarray, bins: int) -> dict[str, float]:
    """Accuracy, macro F1 over classes that occur, mean recall and expected calibration error, by their definitions."""
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen, surety = chances.argmax(-1), chances.max(-1)
    scores, recalls = [], []
    for one in sorted({*labels.tolist(), *chosen.tolist()}):
        both, either = ((chosen == one) & (labels == one)).sum(), (chosen == one).sum() + (labels == one).sum()
        scores.append(2 * both / either)
        if (labels == one).any():
            recalls.append(both / (labels == one).sum())
    error = 0.0
    for number in range(bins):
        inside = (surety >= number / bins) & (surety < (number + 1) / bins)
        if inside.any():
            error += inside.mean() * abs((chosen == labels)[inside].mean() - surety[inside].mean())
    found = {"accuracy": (chosen == labels).mean(), "macro_f1": np.mean(scores), "balanced_accuracy": np.mean(recalls)}
    return found | {"expected_calibration_error": error}


def test_metrics_of_classes_are_their_definitions_on_a_hundred_cases() -> None:
    for seed in range(100):
        draw = np.random.default_rng(seed)
        count, classes = int(draw.integers(1, 60)), int(draw.integers(2, 9))
        logits, labels = draw.normal(size=(count, classes)) * draw.uniform(0.1, 4), draw.integers(0, classes, count)
        review = Classes(bins=int(draw.integers(1, 15)), worst=0)
        assert review.compute_metrics(logits, labels) == pytest.approx(textbook(logits, labels, review.bins), abs=1e-9)


def test_what_is_not_finite_is_null_in_json() -> None:
    values = {"a": math.inf, "b": 1.0, "c": math.nan, "d": -math.inf, "e": 3}
    assert json.loads(json.dumps(replace_nonfinite(values), allow_nan=False)) == {
        "a": None,
        "b": 1.0,
        "c": None,
        "d": None,
        "e": 3,
    }


def test_nothing_to_review_finds_nothing() -> None:
    nothing: Any = Given([])
    found = Classes().review(nothing)
    assert not found.metrics
    assert not found.pictures


@pytest.mark.slow
def test_cases_are_every_example_once_in_any_batches_on_any_devices() -> None:
    answers = {}
    for name, (parallel, size) in WAYS.items():
        cases = list(trained(sentences.experiment(), parallel, size).cases())
        assert sorted(case.index for case in cases) == list(range(len(cases)))
        answers[name] = np.stack([case.output for case in sorted(cases, key=lambda case: case.index)])
    for name, answer in answers.items():
        np.testing.assert_allclose(answer, answers["jit"], atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_metrics_do_not_depend_on_batches_or_devices() -> None:
    assert law_metrics_do_not_depend_on_batches_or_devices(sentences.experiment(), Classes())


def test_a_case_is_the_example_that_its_index_names() -> None:
    one = trained(sentences.experiment(), Jit(), 8)
    opened: Any = one.data
    for case in one.cases():
        assert int(case.target["labels"]) == opened.rows["test"][case.index]["label"]
        assert one.show_example(case.index) == opened.splits["test"].examples[case.index]["text"]


def test_the_worst_errors_are_those_that_the_model_was_surest_of(tmp_path: Path) -> None:
    cases = [Case(np.array([float(index), 0.0]), {"labels": np.array(1)}, index) for index in range(30)]
    given: Any = Given(cases, ("bad", "good"))
    found = Classes(worst=3).review(given)
    (table,) = (to_html(piece) for caption, piece in found.pictures.items() if "surest" in caption)
    assert re.findall(r"example \d+", table) == ["example 29", "example 28", "example 27"]
    assert "bad 1.000" in table
    assert "good 0.000" in table


def test_each_class_has_its_accuracy_where_they_are_few() -> None:
    pairs = [(0, 0), (0, 0), (1, 0), (1, 1), (1, 1), (2, 3)]
    cases = [Case(np.eye(4)[chosen], {"labels": np.array(label)}, place) for place, (chosen, label) in enumerate(pairs)]
    given: Any = Given(cases, ("keep", "left", "right", "<b>brake</b>"))
    found = Classes().review(given)
    each = {name: value for name, value in found.metrics.items() if name.startswith("accuracy_")}
    # none is right
    assert each == pytest.approx({"accuracy_keep": 2 / 3, "accuracy_left": 1, "accuracy_<b>brake</b>": 0})
    assert not any("<b>" in to_html(piece) for piece in found.pictures.values())
    many: Any = Given(cases, tuple(map(str, range(13))))
    assert not any(name.startswith("accuracy_") for name in Classes().review(many).metrics)


def test_the_majority_class_is_measured_as_an_answer_to_everything() -> None:
    found = {name: baseline.value for name, (baseline,) in measure_majority(np.array([2, 2, 2, 0, 1])).items()}
    every = np.tile([0.0, 0.0, 1.0], (5, 1))
    measured = Classes().compute_metrics(every, np.array([2, 2, 2, 0, 1]))
    assert found == pytest.approx({name: measured[name] for name in ("accuracy", "macro_f1", "balanced_accuracy")})


@pytest.mark.slow
def test_a_thousand_classes_have_a_page_of_a_usual_size() -> None:
    draw, names = np.random.default_rng(0), tuple(f"kind $ {number} $" for number in range(1000))
    cases = [Case(draw.normal(size=1000), {"labels": np.array(draw.integers(1000))}, place) for place in range(50)]
    cases += [Case(np.eye(1000)[7], {"labels": np.array(3)}, place) for place in (50, 51)]
    given: Any = Given(cases, names)
    found = Classes(worst=1).review(given)
    matrix = next(piece for caption, piece in found.pictures.items() if "Confusion" in caption)
    assert isinstance(matrix, Matrix)
    drawn = to_html(matrix)
    picture = Image.open(io.BytesIO(base64.b64decode(drawn.partition("base64,")[2].partition('"')[0])))
    assert picture.size == (1000, 1000)
    assert len(drawn) < 100_000
    assert len(list_records(matrix)[1]) <= 52  # examples, not pairs of classes
    mistaken = to_html(found.pictures["What is taken for what most often"])
    assert "<td>kind $ 3 $</td><td>kind $ 7 $</td><td>2</td>" in mistaken
    forty: Any = Given([Case(np.eye(40)[7], {"labels": np.array(3)}, 0)], names[:40])
    assert "Confusion" in next(iter(Classes().review(forty).pictures))


def test_a_review_reaches_the_summary_and_the_report(tmp_path: Path) -> None:
    experiment = dataclasses.replace(
        sentences.experiment(), steps=4, review=Classes(), evaluation=Evaluation(every=4, batch_size=64)
    )
    summary = fit(experiment, tmp_path / "run", "sentences.py", Console(silent=True))
    assert summary["review"]["accuracy"] == pytest.approx(summary["evaluation"]["accuracy"]["value"], abs=1e-6)
    macro = summary["review"]["macro_f1"]
    assert macro is not None
    assert 0 <= macro <= 1
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 2
    share = summary.get("baselines", {})["accuracy"]["majority class"]
    assert share is not None
    assert 0.5 <= share < 1
    assert dict(format_summary(summary))["accuracy"].endswith(f"(majority class {share:.4f})")
    assert "Confusion matrix" in page
    for text in ((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"), json.dumps(summary)):
        assert "Infinity" not in text
        assert 0 < json.loads(text)["evaluation"]["loss"]["interval"] < 1  # also of one batch
    assert "film, number" in page


@pytest.mark.slow
def test_bits_a_character_are_those_of_the_whole_text() -> None:
    one = trained(language_model.experiment(), Jit(), 8)
    found = Language(windows=2).review(one)
    data: Any = one.data
    losses, count = 0.0, 0
    for batch in data.batches("test", 4, 1, None).stream(0, len(data.batches("test", 4, 1, None))):
        logits = one.model.apply({"params": one.params}, batch)
        logits = np.asarray(logits if isinstance(logits, jax.Array) else logits.logits(), np.float64)
        normal = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) + logits.max(
            -1, keepdims=True
        )
        chosen = np.take_along_axis(logits - normal, np.roll(batch["tokens"], -1, 1)[..., None], -1)[:, :-1, 0]
        real = batch["segments"][:, 1:] > 0
        losses, count = losses - chosen[real].sum(), count + real.sum()
    assert found.metrics["perplexity"] == pytest.approx(math.exp(losses / count), rel=1e-4)
    characters = data.characters["test"]
    assert found.metrics["bits_per_character"] == pytest.approx(
        losses / count / math.log(2) * len(data.ids["test"]) / characters, rel=1e-4
    )
    (piece,) = found.pictures.values()
    text = html.unescape(re.sub(r"<[^>]*>", "", to_html(piece)))
    assert text == data.tokens.decode(data.ids["test"][: 2 * data.spec.length].tolist())
    # more than there are, of which the last is short
    (every,) = Language(windows=len(data.ids["test"])).review(one).pictures.values()
    assert html.unescape(re.sub(r"<[^>]*>", "", to_html(every))) == data.tokens.decode(data.ids["test"].tolist())


@pytest.mark.parametrize("wrong", [lambda: Classes(bins=0), lambda: Classes(worst=-1), lambda: Language(windows=-1)])
def test_settings_of_reviews_that_mean_nothing_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="give"):
        wrong()


def test_perplexity_is_of_the_next_token_and_has_the_baseline_of_the_frequencies() -> None:
    one = trained(dataclasses.replace(language_model.experiment(), review=Language(windows=0)), Jit(), 8)
    constant = fit_constant(one.inference, {}, one.measured)
    assert constant is not None
    found = add_constant(one, Findings(), constant).baselines
    (loss,), (perplexity,) = found["loss"], found["perplexity"]
    assert perplexity == Baseline("token frequencies", perplexity.value)
    assert perplexity.value == pytest.approx(math.exp(loss.value))
    assert found["accuracy"][0].greater
    assert not loss.greater
    for name in ("next_token_loss", "token_loss"):  # beside the loss of several tokens, or a smoothed one
        measured = dataclasses.replace(one, measured={"loss": 9.0, name: 2.0})
        assert Language().derive_metrics(measured)["perplexity"] == pytest.approx(math.exp(2))
