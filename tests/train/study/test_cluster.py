"""Trials on a Ray cluster: what travels, what is refused, and a worker that is killed in the middle of its trial."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT
from train.cli import main
from train.errors import InputError
from train.study.cluster import describe_code, make_remote, send_files
from train.study.trial import Unit
from train.study.workers import open_maker

# tests/configs/language_model.py, with a mixer of a second file, and a process that is killed once in its 13th step
CONFIG = """
import dataclasses
import os
import pathlib
import signal

from models import MLP, Attention, Block, LogitsHead, RoPE, Stack, TokenEmbed, Transformer
from train.data.tasks.corpus import Corpus
from train.experiment import Evaluation, Experiment
from train.objectives import NextToken
from train.optimizers import AdamW, Constant
from train.parallel import Jit


@dataclasses.dataclass(frozen=True)
class Mortal(Jit):
    def compile_step(self, step):
        compiled = super().compile_step(step)

        def take(state, batch):
            if "MARK" in os.environ and int(state.step) == 12:
                try:
                    pathlib.Path(os.environ["MARK"]).touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
                except FileExistsError:
                    pass
            return compiled(state, batch)

        return take


def experiment():
    block = Block(mixer=Attention(heads=2, causal=True, position=RoPE()), feedforward=MLP(expand=2), dropout=0.1)
    return Experiment(
        model=Transformer(embed=TokenEmbed(vocab=256, width=16), stack=Stack(block, repeats=1), head=LogitsHead()),
        objective=NextToken(),
        data=Corpus(path="text.txt", length=16, holdout=0.3),
        optimizer=AdamW(Constant(2e-3)),
        batch_size=4,
        steps=20,
        parallel=Mortal(),
        evaluation=Evaluation(batch_size=8),
    )
"""
MIXER = """
import flax.linen as nn


class Own(nn.Module):
    @nn.compact
    def __call__(self, x, ctx):
        return nn.Dense(x.shape[-1], name="out")(x)
"""
WORDS = ["compare", "own_config.py", "--with", "own_mixer.py", "--vary", "own=model.stack.block.mixer=Own()"]
WORDS += ["--match", "none", "--seeds", "2"]


def test_files_outside_of_the_working_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    inside = Unit("a", str(tmp_path / "here" / "own.py"), (), 0, "verdict", ("parts/mixer.py",))
    assert (send_files(inside).config, send_files(inside).files) == ("own.py", ("parts/mixer.py",))
    assert send_files(Unit("a", "tiny_lm", (), 0, "verdict")).config == "tiny_lm"
    with pytest.raises(InputError, match=r"mixer\.py is outside of the working folder .*; start in a folder that"):
        send_files(Unit("a", "tiny_lm", (), 0, "verdict", ("../mixer.py",)))


def test_a_machine_with_other_code_makes_no_trial() -> None:
    line = json.dumps({"variant": "a", "config": "no", "overrides": [], "seed": 0, "part": "verdict", "files": []})
    other = describe_code() | {"jax": "0.0.1"}
    answer = json.loads(make_remote(line, json.dumps(other)))
    assert answer["error"].startswith("a machine of the cluster has jax ")
    assert answer["error"].endswith(", and not 0.0.1")


def test_the_command_line_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(count: int | None, address: str, said: str) -> None:
        with pytest.raises(InputError, match=said), open_maker(count, address):
            pass

    refuse(2, "", "--workers is 2 and Ray places trials")
    refuse(None, "steps=9", "'steps=9', which is no address")
    monkeypatch.setitem(sys.modules, "ray", None)
    refuse(None, "", r"--ray needs the package ray, which is not installed: pip install 'morphax\[ray\]'")
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "--ray" in capsys.readouterr().out


def compare(folder: Path, to: str, *words: str, **variables: str) -> list[dict[str, Any]]:
    """Lines of the ledger of a study in a process of its own, without what a clock gave, in the order of trials."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MORPHAX_CACHE": str(folder / "cache")} | variables
    command = [sys.executable, "-m", "train", *WORDS, "--to", to, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / to / "ledger.jsonl").read_text().splitlines()]
    return sorted(
        ({**line, "seconds": 0, "machine": None} for line in lines), key=lambda line: json.dumps(line, sort_keys=True)
    )


@pytest.mark.slow
def test_a_worker_that_is_killed_within_its_trial_changes_nothing(workshop: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes((workshop / "text.txt").read_bytes())
    (tmp_path / "own_config.py").write_text(CONFIG)
    (tmp_path / "own_mixer.py").write_text(MIXER)
    alone = compare(tmp_path, "alone", "--workers", "2")
    mark = tmp_path / "mark"
    killed = compare(tmp_path, "killed", "--ray", "local", MARK=str(mark))
    assert mark.exists(), "no worker was killed"
    assert [line["kind"] for line in alone].count("trial") == 4
    assert killed == alone
