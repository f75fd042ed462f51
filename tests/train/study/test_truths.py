"""Studies of which the answer is known: real training, by the command, gives the verdict that it has to give."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT
from train.cli import main
from train.study.compare import enter
from train.variants import Study

pytestmark = pytest.mark.slow
MIXER, RESIDUAL, FEEDFORWARD = (f"model.stack.block.{name}" for name in ("mixer", "residual", "feedforward"))
SMALL = (
    "data=Corpus(path='text.txt', length=32, holdout=0.02)",
    "model.embed.width=32",
    "model.stack.scan=true",
    "optimizer.rate.peak=6e-3",
    "batch_size=8",
    "evaluation.batch_size=16",
)
OWN = '''
import flax.linen as nn

from models import RMSNorm


class NoResidual(nn.Module):
    """branch(norm(x)): nothing is added."""

    @nn.compact
    def __call__(self, state, branch, ctx):
        return branch(RMSNorm()(state))
'''


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """A folder with half a megabyte of text."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "models").rglob("*.py"))]
    (tmp_path / "text.txt").write_text("\n".join(texts), encoding="utf-8")
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def compare(capsys: pytest.CaptureFixture[str], variant: str, *words: str, steps: int = 300) -> dict[str, Any]:
    """The record of one variant against the baseline of a small language model."""
    capsys.readouterr()
    assert (
        main(["compare", "tiny_lm", *SMALL, f"steps={steps}", "--vary", variant, *words, "--to", "study", "--json"])
        == 0
    )
    return json.loads(capsys.readouterr().out)[1]


def test_blocks_without_a_residual_are_worse(capsys: pytest.CaptureFixture[str]) -> None:
    result = compare(capsys, f"none={RESIDUAL}=NoResidual()", "--with", "own.py", "--seeds", "5")
    assert (result["verdict"], result["seeds"]) == ("worse", 5)


def test_rotated_queries_and_keys_are_better_than_no_positions(capsys: pytest.CaptureFixture[str]) -> None:
    result = compare(capsys, f"none={MIXER}.position=none", "--seeds", "5", steps=600)
    assert (result["verdict"], result["seeds"]) == ("worse", 5)
    assert result["difference"] > 0.02


def test_attention_is_better_than_a_state_of_fixed_size_at_the_recall_of_many_pairs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Twelve keys and values are more than a state of 2 x 64 x 4 numbers tells apart (arXiv:2402.01032)."""
    words = ["data=Recall(pairs=12, length=36)", "steps=320", "optimizer.rate.warmup=50", "evaluation.goal=none"]
    words += ["--vary", f"fixed={MIXER}=Mamba2(heads=2, state_width=4)", "--match", "none", "--seeds", "3"]
    assert main(["compare", "recall", *words, "--to", "study", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)[1]
    assert result["verdict"] == "worse"
    assert result["flops"] > 1
    trials = [json.loads(line) for line in Path("study/ledger.jsonl").read_text().splitlines()]
    accuracies = {(line["variant"], line["accuracy"] > 0.9) for line in trials if line["kind"] == "trial"}
    assert accuracies == {("baseline", True), ("fixed", False)}


def test_a_mixer_that_sees_the_future_is_disqualified_before_it_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    result = compare(capsys, f"leak={MIXER}.causal=false", "--seeds", "2")
    assert result["verdict"] == "disqualified"
    ledger = [json.loads(line) for line in Path("study/ledger.jsonl").read_text().splitlines()]
    assert [line for line in ledger if line["kind"] == "trial"] == []


def test_a_variant_of_twice_the_parameters_is_shrunk_or_refused() -> None:
    huge = f"{MIXER}=Sum(({', '.join(['Attention(heads=2, causal=True)'] * 9)},))"
    study = Study("tiny_lm", SMALL, {"wide": (f"{FEEDFORWARD}.expand=16/3",), "huge": (huge,)}, budget="parameters")
    baseline, shrunk, refused = enter(study)
    assert shrunk.out is None
    assert shrunk.moved
    base = baseline.cost.parameters
    assert abs(shrunk.cost.parameters / base - 1) <= 0.01
    assert refused.out is not None
    assert "cannot have the parameters of the baseline" in refused.out
    assert refused.cost.parameters > 1.5 * base
