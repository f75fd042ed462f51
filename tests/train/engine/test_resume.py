"""A run that is killed, stopped or damaged ends where it would have ended."""

import dataclasses
import json
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.conftest import contents
from tests.train.engine.runs import (
    LANGUAGE_MODEL,
    SENTENCES,
    SHORT,
    abstract,
    launched,
    log,
    reached,
    restored,
    same_bits,
    same_end,
    train,
)
from train.cli import main
from train.engine.checkpoint import Progress, Store, fingerprint


@pytest.fixture(scope="module", autouse=True)
def _inside(workshop: Path) -> Iterator[None]:
    """The workshop as the working folder and the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop)
        patch.setenv("MORPHAX_CACHE", str(workshop / "cache"))
        yield


@pytest.fixture(scope="module")
def finished(workshop: Path) -> Path:
    """A short run of the language model that nothing happened to."""
    assert train(workshop / "finished", *SHORT) == 0
    return workshop / "finished"


@pytest.mark.slow
@pytest.mark.represented_by("sentences")
@pytest.mark.parametrize("config", [LANGUAGE_MODEL, SENTENCES], ids=["language_model", "sentences"])
def test_killed_or_stopped_at_any_line_a_run_ends_bit_identical(workshop: Path, tmp_path: Path, config: str) -> None:
    reference = tmp_path / "reference"
    assert launched(reference, config)[0] == 0
    draw = random.Random(Path(config).stem)
    instants = [(signal.SIGKILL, draw.randint(12, 17))]  # where a checkpoint is whole
    # also before one can be, once more after, and by a signal as an evaluation begins and anywhere
    if config == LANGUAGE_MODEL:
        instants = [(signal.SIGKILL, draw.randint(0, 6)), *instants]
        instants += [
            (signal.SIGKILL, draw.randint(21, 26)),
            (signal.SIGTERM, 30),
            (signal.SIGINT, draw.randint(36, 41)),
        ]
    for asked, at in instants:
        code, said = launched(
            tmp_path / "run", config, lambda line, at=at, asked=asked: asked if at <= reached(line) else 0
        )
        if asked == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            assert code == 128 + asked
            assert f"stopped by {asked.name} at step" in said
            assert "the state is saved" in said
    code, said = launched(tmp_path / "run", config)
    assert code == 0
    assert "continuing from step" in said
    same_end(tmp_path / "run", reference, config)


# At a checkpoint, between two lines of the log, before an evaluation, in one that is made up for (the second batch,
# then the first), and in
# the last: each in a process that continues the one before.
PLACES = (
    "step 4 SIGINT",
    "step 7 SIGTERM",
    "step 10 SIGTERM",
    "evaluation 2 SIGTERM",
    "evaluation 1 SIGINT",
    "evaluation 3 SIGTERM",
)


@pytest.mark.represented_by("two")
@pytest.mark.parametrize("places", [PLACES, PLACES[2:4]], ids=["all", "two"])
def test_stopped_by_signals_everywhere_a_run_ends_bit_identical(
    tmp_path: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    places: tuple[str, ...],
) -> None:
    for place in places:
        monkeypatch.setenv("MORPHAX_SIGNAL", place)
        name = place.split()[-1]
        assert train(tmp_path / "run", *SHORT) == 128 + signal.Signals[name]
        assert f"stopped by {name} at step" in capsys.readouterr().err
    monkeypatch.delenv("MORPHAX_SIGNAL")
    assert train(tmp_path / "run", *SHORT) == 0
    same_end(tmp_path / "run", finished, LANGUAGE_MODEL)


def test_a_signal_in_the_last_measurement_leaves_the_run_to_be_finished(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unfinished(finished, tmp_path)
    monkeypatch.setenv("MORPHAX_SIGNAL", "evaluation 1 SIGTERM")
    assert train(folder, *SHORT) == 128 + signal.SIGTERM
    assert not (folder / "summary.json").exists()
    monkeypatch.delenv("MORPHAX_SIGNAL")
    assert train(folder, *SHORT) == 0
    same_end(folder, finished, LANGUAGE_MODEL)


def unfinished(finished: Path, scratch: Path) -> Path:
    """A copy of a finished run, as a kill would leave it between its last checkpoint and its summary."""
    folder = scratch / "unfinished"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(finished, folder)
    (folder / "summary.json").unlink()
    return folder


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path) -> None:
    """Changes one bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {"truncated": half, "flipped": flipped, "deleted": Path.unlink}
NEEDED = (
    "params/manifest.ocdbt",
    "rest/manifest.ocdbt",
    "params/_METADATA",
    "rest/_METADATA",
    "progress/metadata",
    "metrics/metrics",
)


@pytest.mark.slow
@pytest.mark.represented_by("flipped")
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_of_the_newest_checkpoint_is_harmless_or_noticed(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    like = abstract(finished, LANGUAGE_MODEL)
    with Store(finished / "checkpoints", reading=True) as store:
        newest, before = store.list_steps()[:2]
    older = unfinished(finished, tmp_path)
    shutil.rmtree(older / "checkpoints" / str(newest))
    states = {newest: restored(finished, like)[0], before: restored(older, like)[0]}
    whole = finished / "checkpoints" / str(newest)
    files = sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file())
    needed = {*NEEDED, *(file for file in files if file.startswith(("params/d/", "rest/d/")))}
    assert len(needed) > len(NEEDED)
    assert needed <= set(files)
    noticed: set[str] = set()
    for file in files if damage is half else sorted(needed):
        folder = unfinished(finished, tmp_path)
        damage(folder / "checkpoints" / str(newest) / file)
        capsys.readouterr()
        with Store(folder / "checkpoints") as store:
            found = store.restore(like)
        assert found is not None
        step = int(found[0].step)
        assert same_bits(found[0], states[step])
        said = capsys.readouterr()
        assert not said.out  # which belongs to --json
        if step != newest:
            noticed.add(file)
            assert f"checkpoint {newest} is damaged (" in said.err
            assert (folder / "checkpoints" / f"damaged-{newest}").is_dir()
    # One flipped bit may fall into a name or a blank that nothing reads, but not into a number; parameters are read by
    # the model's shapes.
    assert noticed >= (needed if damage is half else {file for file in needed if not file.endswith("_METADATA")})


@pytest.mark.slow
@pytest.mark.represented_by("metrics/metrics")
@pytest.mark.parametrize("file", ["params/d/*", "progress/metadata", "metrics/metrics"])
def test_a_run_continued_from_before_a_damaged_checkpoint_ends_bit_identical(
    tmp_path: Path, finished: Path, file: str
) -> None:
    folder = unfinished(finished, tmp_path)
    for path in (folder / "checkpoints" / "15").glob(file):
        half(path)
    assert train(folder, *SHORT) == 0
    same_end(folder, finished, LANGUAGE_MODEL)


def test_parameters_that_do_not_match_their_checksum_are_refused(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like = abstract(finished, LANGUAGE_MODEL)
    state, _ = restored(finished, like)
    sealed = {"tree": jax.tree.map(lambda leaf: leaf, state.params), "fingerprint": fingerprint(state.params)}
    sealed["tree"]["embed"]["token"] = one_bit(state.params["embed"]["token"], 1000)
    rest = dataclasses.replace(state, params=None)
    args = {"params": sealed, "rest": {"tree": rest, "fingerprint": fingerprint(rest)}}
    with Store(tmp_path) as store:
        store.save(dataclasses.replace(state, step=jnp.int32(1)), Progress(), None)
        items = {name: ocp.args.StandardSave(tree) for name, tree in args.items()}
        store.wait()
        progress = json.loads((tmp_path / "1" / "progress" / "metadata").read_text(encoding="utf-8"))
        store.manager.save(2, args=ocp.args.Composite(**items, progress=ocp.args.JsonSave(progress)), force=True)
        store.wait()
        found = store.restore(like)
    assert found is not None
    assert int(found[0].step) == 1
    assert "params do not have the checksum" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [ValueError("no such device"), MemoryError(), PermissionError(13, "Permission denied")], ids=repr
)
def test_a_whole_checkpoint_that_cannot_be_read_here_is_left_as_it_is(
    tmp_path: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    folder = unfinished(finished, tmp_path)
    before = contents(folder)

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, "restore", refuse)
    assert train(folder, *SHORT) == 2
    *_, sentence = capsys.readouterr().err.splitlines()
    assert re.search(r"^morphax: The checkpoint .*15 cannot be read here \(.*it is left as it is", sentence)
    assert contents(folder) == before


def test_checkpoints_none_of_which_can_be_read_are_left_as_they_are(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = unfinished(finished, tmp_path)
    for manifest in (folder / "checkpoints").glob("*/rest/manifest.ocdbt"):
        half(manifest)
    before = contents(folder)
    assert train(folder, *SHORT) == 2
    assert re.search(r"cannot be read .*no other one is whole; it is left as it is: .*--run", capsys.readouterr().err)
    assert contents(folder) == before


def test_continuing_draws_and_reads_no_first_parameters(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unfinished(finished, tmp_path)
    shutil.rmtree(folder / "checkpoints" / "15")

    def refuse(*_: Any) -> None:
        raise AssertionError("parameters were drawn")

    monkeypatch.setattr("train.engine.prepared.initialised", refuse)
    monkeypatch.setattr("train.engine.prepared.Prepared.begin", refuse)
    assert train(folder, *SHORT) == 0
    same_end(folder, finished, LANGUAGE_MODEL)


def one_bit(leaf: jax.Array, place: int) -> jax.Array:
    """The same array but for one bit."""
    content = bytearray(np.asarray(leaf).tobytes())
    content[place // 8] ^= 1 << place % 8
    return jnp.asarray(np.frombuffer(bytes(content), leaf.dtype).reshape(leaf.shape))


def test_every_single_flipped_bit_changes_the_fingerprint() -> None:
    tree = {
        "a": jnp.arange(12, dtype=jnp.float32).reshape(3, 4) / 7,
        "b": jnp.arange(3, dtype=jnp.int32),
        "c": jnp.ones(2, jnp.bfloat16),
    }
    whole = fingerprint(tree)
    for name, leaf in tree.items():
        for place in range(8 * leaf.nbytes):
            assert int((fingerprint(tree | {name: one_bit(leaf, place)}) != whole).sum()) == 1


def test_a_finished_run_does_nothing_again_and_says_so(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert train(finished, *SHORT) == 0
    said = capsys.readouterr()
    assert "is finished; nothing to do" in said.err
    assert train(finished, *SHORT, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((finished / "summary.json").read_text(encoding="utf-8"))
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_another_experiment_is_refused_with_every_difference(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(finished, *SHORT, "batch_size=2", "model.stack.block.dropout=0.2") == 2
    said = capsys.readouterr().err
    assert "batch_size: 4 -> 2" in said
    assert "model.stack.block.dropout: 0.1 -> 0.2" in said


def test_what_a_kill_leaves_before_the_first_step_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".write").touch()
    (folder / "experiment.json.partial").write_text("{", encoding="utf-8")
    assert train(folder, "steps=1", "evaluation.every=1") == 0
    assert not list(folder.glob("*.partial"))


@pytest.mark.slow
def test_patience_stops_once_and_for_all_and_the_best_checkpoint_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A rate that rises linearly first improves the loss and then spoils it.
    settings = (
        "steps=40",
        "evaluation.every=2",
        "evaluation.patience=3",
        "checkpoints.keep=1",
        "checkpoints.every=none",
    )
    settings += ("optimizer.rate=Linear(3.0, warmup=40)",)
    assert train(tmp_path / "run", *settings) == 0
    said = capsys.readouterr().err
    assert "no better loss in 3 evaluations: stopping early" in said
    measured = {line["step"]: line["evaluation/loss"] for line in log(tmp_path / "run") if "evaluation/loss" in line}
    best = min(measured, key=lambda step: measured[step])
    last = max(measured)
    assert last == best + 6 < 40
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["steps"], summary["best_step"]) == (last, best)
    with Store(tmp_path / "run" / "checkpoints", keep=1, reading=True) as store:
        assert store.list_steps() == [last, best]
    for option, step in (("--best", best), ("--json", last)):
        assert main(["eval", str(tmp_path / "run"), "--config", LANGUAGE_MODEL, "--json", option]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["step"] == step
        assert result["evaluation"]["loss"]["value"] == measured[step]
    # Killed before its summary, it does not start to train again.
    folder = unfinished(tmp_path / "run", tmp_path)
    assert train(folder, *settings) == 0
    assert "stopping early" in capsys.readouterr().err
    same_end(folder, tmp_path / "run", LANGUAGE_MODEL)


def test_only_the_last_checkpoints_and_the_best_are_kept(finished: Path) -> None:
    with Store(finished / "checkpoints", reading=True) as store:
        best = store.find_best()
        assert best is not None
        assert set(store.list_steps()) == {15, 12, best}
    assert not list((finished / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


@pytest.mark.slow
def test_a_goal_stops_once_and_for_all(tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = {line["step"]: line["evaluation/loss"] for line in log(finished) if "evaluation/loss" in line}
    assert losses[5] > losses[10] > losses[15]
    settings = (*SHORT, f"evaluation.goal={losses[10]}")  # which is as good as the goal itself
    capsys.readouterr()
    assert train(tmp_path / "run", *settings) == 0
    assert "loss has reached" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["steps"] == 10
    # Killed before its summary, it does not start to train again.
    folder = unfinished(tmp_path / "run", tmp_path)
    assert train(folder, *settings) == 0
    assert "loss has reached" in capsys.readouterr().err
    same_end(folder, tmp_path / "run", LANGUAGE_MODEL)
    # Where greater is better, the first loss is good enough.
    assert train(tmp_path / "greater", *SHORT, "evaluation.greater=true", f"evaluation.goal={losses[10]}") == 0
    assert json.loads((tmp_path / "greater" / "summary.json").read_text(encoding="utf-8"))["steps"] == 5
