"""A run stays what it was: other code, other data, another place of its files are told; more steps and a fresh start
are given.
"""

import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import contents
from train.cli import main
from train.engine.checkpoint import Store
from train.engine.folder import read_run
from train.sinks.json_lines import read_metrics

MINE = '''
"""One layer of my own."""
import flax.linen as nn
import jax.numpy as jnp

from models import Block, LogitsHead, Stack, TokenEmbed, Transformer
from train.data.tasks.corpus import Corpus
from train.experiment import Checkpoints, Evaluation, Experiment
from train.objectives import NextToken
from train.optimizers import AdamW, Constant


class Decay(nn.Module):
    """Reads the token itself."""

    @nn.compact
    def __call__(self, x, ctx):
        return nn.Dense(x.shape[-1])(jnp.tanh(x))


def experiment():
    return Experiment(
        model=Transformer(TokenEmbed(vocab=256, width=8), Stack(Block(mixer=Decay()), repeats=1), LogitsHead()),
        objective=NextToken(),
        data=Corpus(path="text.txt", length=16, holdout=0.3),
        optimizer=AdamW(Constant(1e-2)),
        batch_size=4,
        steps=4,
        evaluation=Evaluation(every=2, batch_size=8),
        checkpoints=Checkpoints(every=1, keep=9),
        log_every=1,
    )
'''
TEXT = "".join(f"line {number}: to be or not to be\n" for number in range(40))
TRAIN = ("train", "mine.py", "--run", "run")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, workshop: Path) -> Iterator[Path]:
    """A folder with a config, a text, and a finished run of four steps."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "mine.py").write_text(MINE)
    (folder / "text.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MORPHAX_CACHE", str(workshop / "cache"))
        patch.chdir(folder)
        assert main(TRAIN) == 0
        yield folder


@pytest.fixture(autouse=True)
def _restored(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    saved = tmp_path_factory.mktemp("saved") / "project"
    shutil.copytree(project, saved)
    yield
    for place in project.iterdir():
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    shutil.copytree(saved, project, dirs_exist_ok=True)


@pytest.fixture
def say(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in the project; its exit code, its output, and the last line that it said."""
    monkeypatch.chdir(project)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def stopped(folder: Path, step: int) -> None:
    """Makes a run look as if it had been killed after a step."""
    (folder / "summary.json").unlink()
    for checkpoint in (folder / "checkpoints").iterdir():
        if int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)


def losses(folder: Path) -> list[float]:
    return [value for line in read_metrics(folder) if (value := line.get("train/loss")) is not None]


def loss(out: str) -> float:
    return json.loads(out)["evaluation"]["loss"]["value"]


Say = Callable[..., tuple[int, str, str]]


def test_an_edited_class_is_told_by_every_command_and_the_run_can_be_asked_as_it_was(project: Path, say: Say) -> None:
    before = loss(say("eval", "run", "--json")[1])
    (project / "mine.py").write_text(MINE.replace("tanh(x)", "sin(x)"))
    whole = contents(project / "run")
    for command in (TRAIN, ("eval", "run"), ("generate", "run", "line")):
        code, out, err = say(*command)
        assert (code, out) == (2, "")
        assert "Decay" in err
    assert "--fresh" in say(*TRAIN)[2]
    assert "--config run/config.py" in say("eval", "run")[2]
    assert contents(project / "run") == whole
    assert loss(say("eval", "run", "--config", "run/config.py", "--json")[1]) == before
    code, out, err = say("eval", "run", "--config", "mine.py", "--json")
    assert code == 0
    assert loss(out) != before
    assert "Decay of mine.py is not what run was trained with" in err


def test_comments_and_settings_that_stay_the_same_are_no_edit(project: Path, say: Say) -> None:
    text = MINE.replace("Reads the token itself.", "Reads it.").replace(
        "        batch_size=4,\n", "        batch_size=2 + 2,  # small\n"
    )
    (project / "mine.py").write_text(text)
    code, _, err = say(*TRAIN)
    assert code == 0
    assert "nothing to do" in err


@pytest.mark.slow
def test_fresh_keeps_the_old_run_under_another_name(project: Path, say: Say) -> None:
    whole = contents(project / "run")
    (project / "mine.py").write_text(MINE.replace("tanh(x)", "sin(x)"))
    code, _, err = say(*TRAIN, "--fresh")
    assert code == 0
    assert "the run that run held is kept as run.1" in err
    assert contents(project / "run.1") == whole
    assert losses(project / "run") != losses(project / "run.1")
    assert say("eval", "run")[0] == 0
    # One that cannot be trained moves nothing, and what is no run is never moved.
    assert say(*TRAIN, "--fresh", "data.path=gone.txt")[0] == 2
    (project / "notes").mkdir()
    (project / "notes" / "note.txt").write_text("mine")
    assert "exists and is no run" in say("train", "mine.py", "--run", "notes", "--fresh")[2]
    assert not (project / "run.2").exists()
    assert (project / "notes" / "note.txt").is_file()


def test_config_and_data_are_found_from_anywhere(
    project: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = loss(say("eval", "run", "--json")[1])
    monkeypatch.chdir(tmp_path)
    assert loss(say("eval", str(project / "run"), "--json")[1]) == before
    assert "nothing to do" in say("train", str(project / "mine.py"), "--run", str(project / "run"))[2]
    # A run that is moved alone finds both where they were; a project that is moved has its own data.
    shutil.move(project / "run", tmp_path / "moved")
    assert loss(say("eval", "moved", "--json")[1]) == before
    shutil.copytree(project, tmp_path / "whole")
    shutil.copytree(tmp_path / "moved", tmp_path / "whole" / "run")
    (tmp_path / "whole" / "text.txt").write_text(TEXT.upper())
    assert loss(say("eval", "whole/run", "--json")[1]) != before


def test_a_config_that_is_gone_is_asked_for(project: Path, say: Say) -> None:
    before = loss(say("eval", "run", "--json")[1])
    (project / "mine.py").rename(project / "renamed.py")
    code, _, err = say("eval", "run")
    assert code == 2
    assert re.search(
        r"mine\.py, which defines Decay of run, is not there: give the file with --config FILE, such as run/config\.py",
        err,
    )
    assert loss(say("eval", "run", "--config", "renamed.py", "--json")[1]) == before


def test_data_that_changed_between_stop_and_resume_is_told(project: Path, say: Say) -> None:
    stopped(project / "run", 2)
    whole = contents(project / "run")
    with (project / "text.txt").open("a") as text:
        text.write("a line that was appended\n")
    code, _, err = say(*TRAIN)
    assert code == 2
    assert re.search(r"data is not what run began with \(data\.path: \d+ -> \d+ bytes\): .*--changed.*--fresh", err)
    assert contents(project / "run") == whole
    assert say(*TRAIN, "--changed")[0] == 0
    (entry,) = read_run(project / "run", "mine.py").said.get("continued", [])
    assert entry["step"] == 2
    assert "data" in entry["before"]
    # The same size, other content, and a run that is finished.
    (project / "text.txt").write_text((project / "text.txt").read_text().upper())
    assert "data.path: other content of the same size" in say(*TRAIN)[2]
    _, out, err = say("eval", "run", "--json")
    assert json.loads(out)["changed"] == "data.path: other content of the same size"
    assert "this measures the data as it is now" in err


@pytest.mark.slow
def test_a_finished_run_goes_on_to_more_steps_as_one_that_had_them_from_the_start(project: Path, say: Say) -> None:
    assert say("train", "mine.py", "--run", "long", "steps=6")[0] == 0
    code, _, err = say(*TRAIN, "steps=6")
    assert code == 0
    assert "continuing from step 4 of 6" in err
    assert losses(project / "run") == losses(project / "long")
    assert loss(say("eval", "run", "--json")[1]) == loss(say("eval", "long", "--json")[1])
    said = json.loads((project / "run" / "experiment.json").read_text())
    assert said["experiment"]["steps"] == 6
    assert said["continued"][0]["changes"] == ["steps: 4 -> 6"]
    assert json.loads((project / "run" / "summary-4.json").read_text())["steps"] == 4
    assert json.loads((project / "run" / "summary.json").read_text())["steps"] == 6
    whole = contents(project / "run")
    code, _, err = say(*TRAIN)
    assert code == 2
    assert "run holds another experiment (steps: 6 -> 4)" in err
    assert contents(project / "run") == whole
    assert say(*TRAIN, "epochs=1")[0] == 0  # of twelve steps
    assert losses(project / "run")[:6] == losses(project / "long")


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(
    project: Path, say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(project / "run", tmp_path / "whole")
    stopped(project / "run", 1)
    save, free = Store.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(store: Store, state: Any, *rest: Any) -> None:
        if int(state.step) == 3:
            store.wait()  # from here on the system refuses to write more than this to a file
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, free[1]))
        save(store, state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", full)
        code, out, err = say(*TRAIN)
        resource.setrlimit(resource.RLIMIT_FSIZE, free)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    sentence = err.splitlines()[-1]
    assert re.search(
        r"^morphax: run cannot be written: File too large\. The checkpoint of step 2 is kept\. .*the same command"
        r" again\.$",
        sentence,
    )
    code, _, err = say(*TRAIN)
    assert code == 0
    assert "continuing from step 2 of 4" in err
    assert losses(project / "run") == losses(tmp_path / "whole")
