"""What notebooks call: fit, curves, bands, pictures, predictions, and classes that stand in a cell."""

import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import flax.linen as nn
import jax
import pytest

from models import Context
from models.structure import replace
from tests.places import CONFIGS
from train.engine.signals import InterruptedRunError
from train.errors import InputError
from train.notebook import Changing, Inline, Run, bands, beside, compare, configured, costs, fit
from train.summary import Summary
from train.variants import Study

CONFIG = str(CONFIGS / "language_model.py")
SHORT = ("steps=4", "evaluation.every=2", "log_every=2")


class Doubled(nn.Module):
    """A layer that stands in no file of the project."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return nn.Dense(x.shape[-1])(2 * x)


@pytest.fixture
def folder(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the text, and a cache for this test alone."""
    (tmp_path / "text.txt").write_bytes((workshop / "text.txt").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MORPHAX_CACHE", str(workshop / "cache"))
    return tmp_path


@pytest.fixture
def in_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class as a notebook has it."""
    monkeypatch.setattr(Doubled, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Doubled", Doubled, raising=False)


def pieces(shown: Any) -> str:
    return shown._repr_html_()


def read_numbers(shown: str) -> list[str]:
    """Lines of the CSV that the figure links to."""
    return unquote(re.findall(r'href="data:text/csv;charset=utf-8,([^"]*)"', shown)[0]).splitlines()


def test_a_config_trains_is_shown_and_is_only_read_the_second_time(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(CONFIG, "run", *SHORT)
    assert run.summary["steps"] == 4
    assert "parameters" in pieces(run)
    assert list(run.curve("loss", "train")[0]) == list(run.curve("loss", "evaluation")[0]) == [2, 4]
    shown = pieces(run.curves("loss", "accuracy"))
    assert shown.count("<svg") == 2
    assert shown.count("<circle") == 8  # two steps in training and on the test split, of two metrics
    assert "<img" not in shown
    assert read_numbers(shown)[1] == f"loss,train,2.0,{run.curve('loss', 'train')[1][0]}"
    assert "step 4/4" in capsys.readouterr().out
    assert fit(CONFIG, "run", *SHORT).summary == run.summary
    assert "nothing to do" in capsys.readouterr().out


def test_a_run_answers_and_writes(folder: Path) -> None:
    run = fit(CONFIG, "run", *SHORT, brief=True)
    following = run.predict("a fine")[0]["next"]
    assert isinstance(following, dict)
    assert sum(following.values()) <= 1
    (asked, rounded) = (run.predict("a fine", settings=settings) for settings in ([], ["precision=bfloat16"]))
    assert asked == run.predict("a fine") != rounded
    with pytest.raises(InputError, match="txt"):
        run.predict("a fine", settings=["data.txt=review"])
    text = run.generate("a fine", tokens=5)
    assert text.startswith("a fine")
    assert len(text) > len("a fine")


@pytest.mark.slow
def test_a_fresh_run_takes_the_place_of_what_the_folder_holds_and_of_nothing_else(folder: Path) -> None:
    fit(CONFIG, "run", *SHORT)
    assert fit(CONFIG, "run", *SHORT, "seed=1", fresh=True).summary["steps"] == 4
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="is no run"):
        fit(CONFIG, "mine", *SHORT, fresh=True)
    assert (folder / "mine" / "thesis.txt").is_file()


@pytest.mark.slow
def test_a_class_of_a_cell_is_trained_named_in_an_override_and_read_back(folder: Path, in_a_cell: None) -> None:
    base = configured(CONFIG, *SHORT, "parallel=Jit()")
    changed = replace(base, "model.stack.block.mixer", Doubled())
    assert configured(base, "model.stack.block.mixer=Doubled()") == changed
    run = fit(changed, "run", brief=True)
    assert run.recorded().experiment.model == changed.model
    assert run.predict("a fine")
    found = pieces(costs({"attention": base, "doubled": changed}))
    counts = [int(one.replace(",", "")) for one in re.findall(r">([\d,]+)</td>", found)]
    assert counts[0] > counts[1] == run.summary["parameters"]
    assert counts[2] > counts[3]


@pytest.mark.slow
def test_bands_say_the_mean_and_the_range_of_the_seeds(folder: Path) -> None:
    runs = [fit(CONFIG, f"run_{seed}", *SHORT, f"seed={seed}", brief=True) for seed in (0, 1)]
    last = [run.curve("loss", "evaluation")[1][-1] for run in runs]
    shown = pieces(bands({"attention": runs}))
    assert f">attention: {sum(last) / 2:.3f} ({min(last):.3f} to {max(last):.3f})</text>" in shown
    assert shown.count("<polygon") == shown.count("<polyline") == 1
    lows = [float(row.split(",")[2]) for row in read_numbers(shown)[1:3]]
    assert lows[-1] == min(last)


@pytest.mark.slow
def test_a_study_of_a_class_of_a_cell_ends_in_verdicts_and_figures_and_knows_when_the_class_is_another(
    folder: Path, in_a_cell: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = {"doubled": ("model.stack.block.mixer=Doubled()",)}
    study = Study(CONFIG, overrides=SHORT, variants=variants, budget="none", seeds=3)
    shown = pieces(compare(study, "study"))
    assert "doubled: " in shown
    assert "after 3 seeds" in shown
    assert shown.count("<svg") >= 3
    assert (folder / "study" / "figures" / "loss_over_training_flops.pdf").is_file()
    ledger = (folder / "study" / "ledger.jsonl").read_text()
    assert pieces(compare(study, "study")) == shown
    assert (folder / "study" / "ledger.jsonl").read_text() == ledger

    class Tripled(Doubled):
        def extra(self) -> None:
            """Makes it another class."""

    Tripled.__module__, Tripled.__name__ = "__main__", "Doubled"
    monkeypatch.setattr(sys.modules["__main__"], "Doubled", Tripled)
    with pytest.raises(InputError, match="has changed since the study in study began"):
        compare(study, "study")
    compare(study, "study", fresh=True)
    assert (folder / "study.1" / "ledger.jsonl").read_text() == ledger


def test_what_a_run_does_not_have_is_said_in_one_sentence(folder: Path) -> None:
    run = fit(CONFIG, "run", *SHORT, brief=True)
    with pytest.raises(InputError, match=r"run has no metric 'bleu'; it has .*loss"):
        run.curves("bleu")
    with pytest.raises(InputError, match=r"run has no picture 'Film'; it has none"):
        run.picture("Film")
    with pytest.raises(InputError, match="batch_size"):
        configured(CONFIG, "batch_sise=3")


def test_a_notebook_shows_the_sentence_of_an_error_alone() -> None:
    for error in (InputError("Give a number."), InterruptedRunError(2, 7)):
        assert error._render_traceback_() == [f"morphax: {error}"]


def test_a_table_has_a_row_for_each_key_and_escapes_what_it_shows() -> None:
    shown = pieces(beside({"a": {"x": "<1>"}, "b": {"y": "2"}}))
    assert shown.count("<tr>") == 3
    assert "&lt;1&gt;" in shown
    assert shown.count('style="text-align: left"') == 9


def test_the_bar_has_operations_a_second_and_the_share_of_what_the_chip_can_do() -> None:
    shown: list[Any] = []
    console = Inline(Path("runs/here"))
    console.example_work = 2e9

    class Handle:
        def update(self, piece: Any) -> None:
            shown.append(pieces(piece))

    Changing(console, Handle(), 0, 10).update(5, {"loss": 1.0, "rate": 0.1, "examples_per_second": 100.0, "mfu": 0.2})
    assert "here: step 5/10" in shown[0]
    assert "MFU 20.0%, 200.0 GFLOP/s" in shown[0]
    assert 'value="5" max="10"' in shown[0]


def test_a_summary_is_a_table_by_itself() -> None:
    summary: Summary = {
        "parameters": 7,
        "flops_per_step": 2000,
        "steps": 3,
        "seconds_to_first_step": None,
        "peak_memory_bytes": 2**20,
        "evaluation": {"loss": {"value": 0.5, "interval": 0.1}},
        "review": {},
    }
    assert "0.5000&nbsp;±&nbsp;0.1000" in pieces(Run(Path("run"), summary))
