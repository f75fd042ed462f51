"""What a user does: new components in a config file of one's own, plugged in by one override each."""

import json
from pathlib import Path
from typing import Any

import pytest

from models import part
from train.cli import main
from train.config import load_config
from train.engine.folder import read_run
from train.sinks.json_lines import read_metrics

CONFIG = '''
"""A residual and a mixer of my own."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import Attention, Block, Context, LogitsHead, RMSNorm, Stack, TokenEmbed, Transformer
from train.data.tasks.corpus import Corpus
from train.experiment import Evaluation, Experiment
from train.objectives import NextToken
from train.optimizers import AdamW, Constant


class GatedMean(nn.Module):
    """The mean of all tokens so far, through a learned gate.  (b, t, d) -> (b, t, d)."""

    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        values = nn.Dense(x.shape[-1], use_bias=self.bias, name="value")(x)
        mean = jnp.cumsum(values, axis=1) / jnp.arange(1, x.shape[1] + 1)[:, None]
        return nn.sigmoid(nn.Dense(x.shape[-1], use_bias=self.bias, name="gate")(x)) * mean


class Spectral(nn.Module):
    """Broken: eigenvectors, which have no gradient."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], x.shape[-1]))
        return x @ jnp.linalg.eig(kernel)[1].real


class HyperConnections(nn.Module):
    """Static hyper-connections: `streams` copies of the stream, read, written and mixed by learned weights.

    arXiv:2409.19606.
    """

    streams: int = 2

    def expand(self, x: jax.Array, ctx: Context) -> jax.Array:
        return jnp.broadcast_to(x, (self.streams, *x.shape))

    def reduce(self, state: jax.Array, ctx: Context) -> jax.Array:
        return state.mean(0)

    @nn.compact
    def __call__(self, state: jax.Array, branch: Callable[[jax.Array], jax.Array], ctx: Context) -> jax.Array:
        read = self.param("read", nn.initializers.constant(1 / self.streams), (self.streams,))
        write = self.param("write", nn.initializers.ones, (self.streams,))
        mix = self.param("mix", lambda key, count: jnp.eye(count), self.streams)
        out = branch(RMSNorm(name="norm")(jnp.einsum("n,nbtd->btd", read, state)))
        return jnp.einsum("nm,mbtd->nbtd", mix, state) + write[:, None, None, None] * out


def experiment() -> Experiment:
    return Experiment(
        model=Transformer(TokenEmbed(256, 16), Stack(Block(Attention(2, causal=True)), repeats=1), LogitsHead()),
        objective=NextToken(),
        data=Corpus(path="text.txt", length=16),
        optimizer=AdamW(Constant(0.02)),
        batch_size=8,
        steps=30,
        evaluation=Evaluation(every=30, batch_size=8),
        log_every=10,
    )
'''
MIXER = "model.stack.block.mixer=GatedMean()"
RESIDUAL = "model.stack.block.residual=HyperConnections(streams=3)"
RUNS = {
    "mixer": [MIXER],
    "both": [MIXER, RESIDUAL, "model.stack.scan=true", "model.stack.repeats=2"],
}


# `make test` trains a structure of one's own in test_readme.py
EACH = pytest.mark.parametrize("name", ["mixer", "both"], indirect=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config and its text."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "mine.py").write_text(CONFIG, encoding="utf-8")
    (folder / "text.txt").write_text("a rose is a rose is a rose; " * 60, encoding="utf-8")
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MORPHAX_CACHE", str(folder / "cache"))
    return folder


@pytest.fixture
def name(here: Path, request: pytest.FixtureRequest) -> str:
    """The name of a run in this folder, by default the mixer's, trained for the first test that asks for it."""
    name: str = getattr(request, "param", "mixer")
    if not (here / name).is_dir():
        assert main(["train", "mine.py", *RUNS[name], "--run", name]) == 0
    return name


@pytest.mark.slow
@EACH
def test_a_component_of_ones_own_learns(here: Path, name: str) -> None:
    losses = [value for line in read_metrics(here / name) if (value := line.get("train/loss")) is not None]
    assert len(losses) == 3
    assert losses[2] < losses[1] < losses[0]
    assert losses[2] < 0.75 * losses[0]


def test_what_has_no_gradient_is_a_sentence_about_the_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mine.py", "model.stack.block.mixer=Spectral()", "--run", "broken"]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("morphax: The model cannot take a training step: ")
    assert "eigenvectors" in said
    assert not (here / "broken").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "path", "written"),
    [
        ("mixer", "mixer", {"class": "GatedMean", "from": "config_mine", "bias": True}),
        ("both", "residual", {"class": "HyperConnections", "from": "config_mine", "streams": 3}),
    ],
    indirect=["name"],
)
def test_the_run_records_the_class_and_its_fields(here: Path, name: str, path: str, written: dict[str, Any]) -> None:
    data = json.loads((here / name / "experiment.json").read_text(encoding="utf-8"))
    assert data["experiment"]["model"]["stack"]["block"][path] == written
    assert data["config"] == "mine.py"
    experiment = read_run(here / name, "mine.py").experiment
    assert type(part(experiment, f"model.stack.block.{path}")).__name__ == written["class"]
    assert experiment == load_config("mine.py", RUNS[name])[0]


@pytest.mark.slow
@EACH
def test_eval_measures_what_training_measured_last(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["eval", name, "--config", "mine.py", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    summary = json.loads((here / name / "summary.json").read_text(encoding="utf-8"))
    assert found["step"] == summary["steps"] == 30
    assert found["evaluation"]["loss"]["value"] == pytest.approx(summary["evaluation"]["loss"]["value"], rel=1e-5)


@pytest.mark.slow
def test_a_run_is_measured_on_all_of_ones_own_file(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "own.txt").write_text("any other name is as sweet as a rose. " * 20, encoding="utf-8")
    found: list[float] = []
    for options in ([], ["--data", "own.txt"], ["data.path=own.txt", "data.test=own.txt"]):
        assert main(["eval", name, *options, "--config", "mine.py", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["evaluation"]["loss"]["value"])
    assert found[1] == found[2] > found[0] + 0.5
    assert main(["eval", name, "--data", "nowhere.txt", "--config", "mine.py"]) == 2
    assert "nowhere.txt cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.slow
@EACH
def test_predict_continues_a_text(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["predict", name, "a ros", "a rose", "--config", "mine.py", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [answer["input"] for answer in answers] == ["a ros", "a rose"]
    assert all(0 < sum(answer["next"].values()) <= 1 + 1e-6 for answer in answers)
    for answer in answers:
        chances = list(answer["next"].values())
        assert len(chances) == 5
        assert chances == sorted(chances, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["eval"], ["predict", "a rose"]], ids=["eval", "predict"])
def test_without_its_config_the_error_says_how(
    here: Path, name: str, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (here / "mine.py").rename(here / "away.py")
    try:
        assert main([command[0], name, *command[1:]]) == 2
    finally:
        (here / "away.py").rename(here / "mine.py")
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert "mine.py, which defines GatedMean" in err
    assert "is not there: give the file with --config FILE" in err


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_training_goes_on_only_with_the_same_components(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mine.py", MIXER, "--run", name]) == 0
    assert main(["train", "mine.py", RESIDUAL, "--run", name]) == 2
    err = capsys.readouterr().err
    assert "model.stack.block.mixer: GatedMean(...) -> Attention(...)" in err
    assert "model.stack.block.residual: PreNorm(...) -> HyperConnections(...)" in err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.stack.block.mixer=GatdMean()", "did you mean 'GatedMean'"),
        ("model.stack.block.mixer=GatedMean(bais=true)", "did you mean 'bias'"),
        ("model.stack.block.mixer=GatedMean(bias=none)", "GatedMean.bias takes true or false; None was given"),
        (
            "model.stack.block.mixer=HyperConnections()",
            "model.stack.block.mixer takes a Layer; 'HyperConnections' was given",
        ),
        (
            "model.stack.block.residual=HyperConnections(streams=2.5)",
            "HyperConnections.streams takes a whole number; 2.5 was given",
        ),
    ],
)
def test_a_component_of_ones_own_is_checked_as_any_other(
    here: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert main(["train", "mine.py", override, "--run", "wrong"]) == 2
    assert message in capsys.readouterr().err
    assert not (here / "wrong").exists()


def test_postponed_annotations_are_checked_as_written_ones(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CONFIG.replace("from collections.abc", "from __future__ import annotations\n\nfrom collections.abc", 1)
    (here / "postponed.py").write_text(text, encoding="utf-8")
    assert main(["train", "postponed.py", RESIDUAL, MIXER, "--show"]) == 0
    assert "streams = 3" in capsys.readouterr().out
    assert main(["train", "postponed.py", "model.stack.block.residual=HyperConnections(streams='3')", "--show"]) == 2
    assert "HyperConnections.streams takes a whole number; '3' was given" in capsys.readouterr().err
