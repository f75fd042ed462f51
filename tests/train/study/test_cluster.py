"""Trials on a Ray cluster: what travels, what is refused, and workers and machines that are lost within a trial."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT
from train.cli import main
from train.errors import InputError
from train.study.cluster import describe_code, make_remote, send_files
from train.study.trial import Unit
from train.study.workers import open_maker

# tests/configs/language_model.py, with a mixer of a second file, and a process that is killed once in its 13th step:
# with MARK the worker, with FIRST the raylet, and so the machine, unless that is the first one of the cluster
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
            if "MARK" in os.environ and int(state.step) == 12 and self.may_be_killed():
                try:
                    pathlib.Path(os.environ["MARK"]).touch(exist_ok=False)
                    os.kill(os.getppid() if "FIRST" in os.environ else os.getpid(), signal.SIGKILL)
                except FileExistsError:
                    pass
            return compiled(state, batch)

        return take

    def may_be_killed(self):
        if "FIRST" not in os.environ:
            return True
        import ray

        return ray.get_runtime_context().get_node_id() != os.environ["FIRST"]


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
MACHINES = """
import os
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
os.environ["FIRST"] = cluster.head_node.node_id
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
input()
cluster.shutdown()
"""
COMPARE = ["compare", "own_config.py", "--with", "own_mixer.py", "--vary", "own=model.stack.block.mixer=Own()"]
COMPARE += ["--match", "none", "--seeds", "2"]
SEARCH = ["search", "own_config.py", "--at", "model.stack.block.feedforward", "--match", "none", "--candidates", "3"]
SEARCH += ["--population", "3", "--rungs", "0.5,1", "--winners", "1", "--most", "3"]


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


@pytest.fixture
def folder(workshop: Path, tmp_path: Path) -> Path:
    """A working folder with the config, the mixer and their text."""
    (tmp_path / "text.txt").write_bytes((workshop / "text.txt").read_bytes())
    (tmp_path / "own_config.py").write_text(CONFIG)
    (tmp_path / "own_mixer.py").write_text(MIXER)
    return tmp_path


def carry_out(folder: Path, to: str, *words: str, **variables: str) -> list[dict[str, Any]]:
    """Lines of the ledgers of a study in a process of its own, without what a clock gave, in the order of trials."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MORPHAX_CACHE": str(folder / "cache")} | variables
    command = [sys.executable, "-m", "train", *words, "--to", to]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ledgers = sorted((folder / to).rglob("ledger.jsonl"))
    lines = [json.loads(line) for ledger in ledgers for line in ledger.read_text().splitlines()]
    return sorted(
        ({**line, "seconds": 0, "machine": None} for line in lines), key=lambda line: json.dumps(line, sort_keys=True)
    )


@pytest.mark.slow
def test_a_worker_that_is_killed_within_its_trial_changes_nothing(folder: Path) -> None:
    alone = carry_out(folder, "alone", *COMPARE, "--workers", "2")
    mark = folder / "mark"
    killed = carry_out(folder, "killed", *COMPARE, "--ray", "local", MARK=str(mark))
    assert mark.exists(), "no worker was killed"
    assert [line["kind"] for line in alone].count("trial") == 4
    assert killed == alone


@pytest.fixture
def machines(folder: Path) -> Iterator[tuple[str, Path]]:
    """The address of a Ray cluster of two machines with a core each, and the file that marks the second as lost."""
    mark = folder / "mark"
    process = subprocess.Popen(
        [sys.executable, "-c", MACHINES],
        env=os.environ | {"MARK": str(mark)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip(), mark
    process.communicate("\n")


@pytest.mark.slow
def test_a_machine_that_is_lost_within_a_trial_changes_nothing(machines: tuple[str, Path], folder: Path) -> None:
    address, mark = machines
    killed = carry_out(folder, "killed", *COMPARE, "--ray", address)
    assert mark.exists(), "no machine was lost"
    assert [line["kind"] for line in killed].count("trial") == 4
    assert killed == carry_out(folder, "alone", *COMPARE, "--workers", "2")


@pytest.mark.slow
def test_a_search_by_tasks_of_ray_is_that_of_workers(folder: Path) -> None:
    mark = folder / "mark"
    killed = carry_out(folder, "killed", *SEARCH, "--ray", "local", MARK=str(mark))
    assert mark.exists(), "no worker was killed"
    assert [line["kind"] for line in killed].count("candidate") >= 3
    assert killed == carry_out(folder, "alone", *SEARCH, "--workers", "2")
