"""An application in one file of the user's own: its data set, its head, its objective, its review, its experiment."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT
from train.cli import main
from train.engine.folder import read_run

CONFIG = '''
"""How many of the leading vowels of a word follow each other, told with how sure one is: all of it is in this file."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds

from models import Attention, Block, Context, Stack, TokenEmbed, Transformer
from train.data.tasks.text import Text
from train.experiment import Evaluation, Experiment
from train.sums import Sum
from train.optimizers import AdamW, Constant
from train.contracts import Findings
from train.page import Sentence


class VowelWords(tfds.core.GeneratorBasedBuilder):
    """Words of six letters and the share of their letters that are vowels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"text": tfds.features.Text(), "share": np.float32}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(96, 0), "test": self._generate_examples(32, 1)}

    def _generate_examples(self, count: int, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
        chance = np.random.default_rng(seed)
        for number in range(count):
            word = "".join(chance.choice(list("aeioubcdfg"), 6))
            yield number, {"text": word, "share": sum(letter in "aeiou" for letter in word) / 6}


class SpreadHead(nn.Module):
    """A mean and the logarithm of a standard deviation from the mean of the hidden states.  (b, t, d) -> (b, 2)."""

    scale: float = 0.02

    @nn.compact
    def __call__(self, hidden: jax.Array, ctx: Context, table: jax.Array | None) -> jax.Array:
        seen = (ctx.segments > 0)[..., None]
        mean = (hidden * seen).sum(1) / jnp.maximum(seen.sum(1), 1)
        return nn.Dense(2, kernel_init=nn.initializers.normal(self.scale), name="out")(mean)


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """loss = log s + (y - m)^2 / (2 s^2), the negative log-likelihood of a normal distribution.

    Reads `values` (b, 1), `weights` (b,).
    """

    floor: float = 0.01

    def __call__(self, outputs: jax.Array, batch: Any) -> dict[str, Sum]:
        spread, weights = jnp.exp(outputs[:, 1]) + self.floor, batch["weights"]
        error = batch["values"][:, 0] - outputs[:, 0]
        loss = jnp.log(spread) + jnp.square(error / spread) / 2
        total = weights.sum()
        return {"loss": Sum((loss * weights).sum(), total), "off": Sum((jnp.abs(error) * weights).sum(), total)}

    def answer(self, output: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
        return {"share": float(output[0]), "spread": float(np.exp(output[1]) + self.floor)}


@dataclasses.dataclass(frozen=True)
class Spreads:
    """How many of the true values lie within `times` standard deviations."""

    times: float = 2.0

    def review(self, evidence: Any) -> Findings:
        inside = []
        for case in evidence.cases():
            inside.append(abs(case.target["values"][0] - case.output[0]) < self.times * np.exp(case.output[1]))
        said = Sentence(f"{len(inside)} words were tried")
        return Findings({"within": float(np.mean(inside))}, {"Words: their share of vowels": said})


def experiment() -> Experiment:
    return Experiment(
        model=Transformer(TokenEmbed(256, 16), Stack(Block(Attention(2)), repeats=1), SpreadHead()),
        objective=Likelihood(),
        data=Text("vowel_words", target="share", kind="value", length=8, pack=False),
        optimizer=AdamW(Constant(0.01)),
        batch_size=16,
        steps=40,
        evaluation=Evaluation(every=20, batch_size=32, metric="off"),
        review=Spreads(),
        log_every=10,
    )
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file and a run of it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "vowels.py").write_text(CONFIG, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MORPHAX_CACHE", str(folder / "cache"))
        assert main(["train", "vowels.py", "--run", "run"]) == 0
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MORPHAX_CACHE", str(folder / "cache"))
    return folder


@pytest.mark.slow
def test_it_learns_and_its_own_review_is_in_the_report(here: Path) -> None:
    lines = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < losses[0] - 0.5
    summary = json.loads((here / "run" / "summary.json").read_text(encoding="utf-8"))
    assert 0 <= summary["review"]["within"] <= 1
    assert "32 words were tried" in (here / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_metrics_of_an_objective_that_adds_up_its_examples_are_said_to_have_no_interval(here: Path) -> None:
    summary = json.loads((here / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["evaluation"]["loss"]["interval"] is None
    said = "loss, off have no confidence interval, as Likelihood gives their Sums without `each`"
    assert summary["warnings"] == [f"{said}; make them by train.sums.sum_weighted(values, weights)."]
    assert said in (here / "run" / "report.html").read_text(encoding="utf-8")


def test_the_run_records_every_part_of_it(here: Path) -> None:
    experiment: Any = read_run(here / "run", "vowels.py").experiment
    names = [type(part).__name__ for part in (experiment.model.head, experiment.objective, experiment.review)]
    assert names == ["SpreadHead", "Likelihood", "Spreads"]
    assert experiment.data.dataset == "vowel_words"


def test_eval_and_predict_take_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "run", "--config", "vowels.py", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    summary = json.loads((here / "run" / "summary.json").read_text(encoding="utf-8"))
    assert found["review"] == pytest.approx(summary["review"])
    assert found["evaluation"]["loss"]["value"] == pytest.approx(summary["evaluation"]["loss"]["value"], rel=1e-5)
    assert found["warnings"] == summary["warnings"]
    assert main(["predict", "run", "aeiaei", "bcdbcd", "--config", "vowels.py", "--json"]) == 0
    shares = [answer["share"] for answer in json.loads(capsys.readouterr().out)["answers"]]
    assert shares[0] > shares[1] + 0.2


@pytest.mark.slow
def test_another_process_finds_the_data_set_by_the_file_alone(here: Path) -> None:
    place = ROOT
    code = f"import sys; sys.path.insert(0, {str(place)!r}); from train.cli import main; sys.exit(main(sys.argv[1:]))"
    for command in (["data", "show", "vowel_words", "--config", "vowels.py"], ["eval", "run", "--config", "vowels.py"]):
        shutil.rmtree(here / "cache" / "datasets", ignore_errors=True)
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "preparing vowel_words" in done.stderr


@pytest.mark.usefixtures("here")
def test_settings_of_ones_own_parts_are_overridden_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "vowels.py", "objective.floor=0.1", "review=Spreads(times=3)", "--show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["objective"]["floor"], shown["review"]["times"]) == (0.1, 3.0)
    assert main(["train", "vowels.py", "model.head=SpreadHead(scal=1.0)", "--show"]) == 2
    assert "did you mean 'scale'" in capsys.readouterr().err
    assert main(["train", "vowels.py", "data.dataset=vowel_word", "--run", "wrong"]) == 2
    assert "No data set is called 'vowel_word'" in capsys.readouterr().err


def test_a_file_that_changed_is_read_anew_and_its_data_set_may_have_a_name_of_the_catalogue(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = CONFIG.replace("VowelWords", "Cifar10").replace("vowel_words", "cifar10")
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path))
    for change in ("", "\n# changed\n"):
        (here / "named.py").write_text(text + change, encoding="utf-8")
        assert main(["data", "show", "cifar10", "--config", "named.py", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["data"][0]["splits"] == {"test": 32, "train": 96}
