"""Explanations of answers: what they sum to, what they name, and the page."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.places import CONFIGS
from tests.train.data.tasks.moving import moving, write
from train.cli import main
from train.engine.folder import open_run, read_run
from train.errors import InputError
from train.objectives import Translation
from train.use.explain import explain
from train.use.explain_inputs import read_frames, shade_frames
from train.use.explain_page import format_short, show_token

PICTURES = """
from models import MLP, Attention, Block, ClassHead, MeanPool, PatchEmbed, Stack, Transformer
from train.data.tasks.images import Images
from train.experiment import Evaluation, Experiment
from train.objectives import Classification
from train.optimizers import AdamW, Constant


def experiment():
    embed = PatchEmbed(16, 4, registers=1)
    return Experiment(
        model=Transformer(embed, Stack(Block(Attention(2), MLP(2.0)), 1), ClassHead(2, MeanPool())),
        objective=Classification(),
        data=Images(path="pictures", size=(8, 8)),
        optimizer=AdamW(Constant(1e-2)),
        batch_size=8,
        steps=40,
        evaluation=Evaluation(batch_size=8, metric="accuracy", greater=True),
    )
"""

CLIPS = """
from pathlib import Path

from tests.train.data.tasks.moving import experiment as make


def experiment():
    return make(Path("clips"))
"""
DRIVES = """
from models import MLP, Attention, Block, EveryToken, FeatureEmbed, LayerNorm, PreNorm, RoPE, Stack
from models import TrajectoryEmbed, Transformer, ValueHead
from train.data.tasks.drives import Drives
from train.experiment import Evaluation, Experiment
from train.objectives import MeanSquaredError
from train.optimizers import AdamW, Constant


def experiment():
    block = Block(Attention(2, causal=True, position=RoPE()), MLP(2.0), PreNorm(LayerNorm()))
    return Experiment(
        model=Transformer({embed}(16), Stack(block, 1, LayerNorm()), ValueHead(2, {head})),
        objective=MeanSquaredError(),
        data=Drives(path="drives", context=6),
        optimizer=AdamW(Constant(1e-2)),
        batch_size=16,
        steps=150,
        evaluation=Evaluation(every=150, batch_size=16),
    )
"""


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["explain", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_answer_is_explained_on_a_page(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("run", "other")
    answered = ask(capsys, "run", "a fine film", "--nearest", "3", "--compare", "other")
    said, other = answered["runs"]
    assert said | {"run": "other"} == other
    change = said["score"] - said["baseline"]
    total = sum(token["integrated gradients"] for token in said["tokens"])
    assert total == pytest.approx(change, abs=max(1e-3 * abs(change), 1e-5))
    assert "".join(token["token"] for token in said["tokens"]).strip().endswith("film")
    assert list(said["depth"]) == ["stack.0:input", "stack.0"]
    assert said["depth"]["stack.0"] == pytest.approx(said["score"], abs=1e-5)
    assert [len(heads) for heads in said["heads"].values()] == [2]
    assert said["left_out"] == {}
    page = Path(answered["page"]).read_text(encoding="utf-8")
    assert all(f"<h2>{name}</h2>" in page for name in ("Answer", "What it read", "Over depth", "Heads"))
    assert "among all 8 training examples" in page
    assert page.count("<td>review ") == 2 * 2 * 3
    assert page.count("<h3>other</h3>") == 6
    assert "summed over the checkpoint of step 1 (TracIn)" in page
    assert [one["example"] for one in said["nearest"]["examples"]] != []
    values = [abs(one["value"]) for one in said["influential"]["examples"]]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0
    assert "http" not in page.replace("http://www.w3.org", "")


def test_what_cannot_be_explained_is_said_in_a_sentence(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inside / "page.html").touch()
    for words, said in (
        (["--to", "page.html"], "page.html exists; name another page"),
        (["--nearest", "-1"], "--nearest is -1 and --among 1000; give 0 or more"),
        (["--number", "2"], "The input makes 1 questions and --number is 2; give --number from 1 to 1."),
    ):
        assert main(["explain", "run", "a fine film", *words]) == 2
        assert said in capsys.readouterr().err
    run = read_run(Path("run"), "config.py")
    searching = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, objective=Translation()))
    with pytest.raises(InputError, match="Answers of the objective Translation cannot be explained: .* by a search"):
        explain(Path("run"), searching, ["a fine film"])


def test_short_answers_and_tokens_are_legible() -> None:
    assert format_short({"label": "good", "probabilities": {"bad": 0.25, "good": 0.75}}) == "good 0.750"
    assert format_short({"next": {" ": 0.5, "a": 0.1}}) == "' ' 0.500"
    assert format_short({"value": 1.5}) == "value 1.5"
    assert format_short({"value": [0.25, -1.0]}) == "value 0.25, -1"
    assert format_short({"forecast": {"0.1": [1.0], "0.5": [2.0, 3.0], "0.9": [4.0]}}) == "forecast 0.5: 2, ..."
    assert (show_token(" film"), show_token(" ")) == ("film", "' '")


@pytest.mark.slow
def test_the_word_that_decides_is_named(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workshop)
    config, run = str(CONFIGS / "sentences.py"), str(tmp_path / "run")
    assert main(["train", config, "steps=120", "epochs=none", "--run", run]) == 0
    explained = explain(Path(run), open_run(Path(run), config), ["a lovely film, number 3"])
    order = np.argsort(-np.abs(explained.methods["integrated gradients"]))
    start = explained.question.index("lovely")
    decisive = {start + place for place in range(len("lovely"))}
    assert explained.answer["label"] == "good"
    first, *_ = explained.influential.first
    assert (first.label == "good") == (first.value > 0)  # a step on a good film raises the score of good
    assert set(order[:3].tolist()) & decisive


@pytest.mark.slow
def test_the_next_token_of_a_language_model_is_explained(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workshop)
    config, run = str(CONFIGS / "language_model.py"), str(tmp_path / "run")
    words = ["steps=4", "model.stack.repeats=11", "model.stack.scan=true"]
    assert main(["train", config, *words, "--run", run]) == 0
    (said,) = ask(capsys, run, "to be or", "--config", config)["runs"]
    assert [token["token"] for token in said["tokens"]] == list("to be or")
    assert list(said["depth"]) == ["stack.0:input", *(f"stack.{block}" for block in range(11))]
    assert list(said["heads"]) == [f"stack.{block}.mixer" for block in range(11)]
    assert said["score_of"].startswith("log odds of ")


@pytest.mark.slow
def test_a_series_of_a_file_is_chosen_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    waves = np.sin(np.arange(900)[:, None] * [0.26, 0.3]) + 2
    np.savetxt("waves.csv", waves, delimiter=",", header="left,right", comments="")
    words = ["data.path=waves.csv", "data.values=()", "steps=2", "epochs=none", "batch_size=4"]
    assert main(["train", "traffic_occupancy", *words, "--run", "run"]) == 0
    assert main(["explain", "run", "waves.csv"]) == 2
    assert "The input makes 2 questions; give --number from 1 to 2." in capsys.readouterr().err
    (said,) = ask(capsys, "run", "waves.csv", "--number", "2", "--among", "20")["runs"]
    assert "right" in said["question"]
    assert said["score_of"] == "mean forecast"
    assert [token["token"] for token in said["tokens"]] == [str(n + 1) for n in range(len(said["tokens"]))]


@pytest.mark.slow
def test_patches_of_a_picture_that_decide_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bright upper left quarter tells one class from the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    (tmp_path / "config.py").write_text(PICTURES, encoding="utf-8")
    draw = np.random.default_rng(0)
    for name, level in (("dark", 0), ("light", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(24):
            pixels = draw.integers(0, 50, (8, 8), np.uint8)
            pixels[:4, :4] += np.uint8(level)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{index}.png")
    assert main(["train", "config.py", "--run", "run"]) == 0
    explained = explain(Path("run"), open_run(Path("run"), "config.py"), ["pictures/light/0.png"])
    assert (explained.registers, explained.grid) == (1, (2, 2))
    cells = np.abs(explained.methods["integrated gradients"][1:])
    assert int(cells.argmax()) == 0
    assert len(explained.neighbours.first) == 5
    assert {near.label for near in explained.neighbours.first} == {"light"}
    said = ask(capsys, "run", "pictures/light/0.png", "--config", "config.py")
    page = Path(said["page"]).read_text(encoding="utf-8")
    assert "red speaks for the answer, blue against it" in page
    assert page.count("<img") == 2 + 2 * 5  # the picture and its cells, nearest and most influential ones
    assert explained.names[1] == "row 1, column 1"


@pytest.mark.slow
def test_frames_of_a_clip_are_taken_away_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, way in (("right", 1), ("left", -1)):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for seed in range(2):
            write(tmp_path / "clips" / name / f"{seed}.mp4", moving(seed, way))
    (tmp_path / "config.py").write_text(CLIPS, encoding="utf-8")
    assert main(["train", "config.py", "steps=2", "--run", "run"]) == 0
    explained = explain(Path("run"), open_run(Path("run"), "config.py"), ["clips/right/0.mp4"], nearest=0)
    assert (explained.grid, explained.names[4]) == ((3, 2, 3), "frames 1-2, row 2, column 2")
    assert explained.frames is not None
    assert explained.pictures is not None
    assert (explained.frames.shape, explained.pictures.shape) == ((3,), (6, 8, 12, 3))
    (said,) = ask(capsys, "run", "clips/right/0.mp4", "--config", "config.py", "--nearest", "0")["runs"]
    assert said["frames"] == pytest.approx(explained.frames.tolist())


@pytest.mark.slow
@pytest.mark.parametrize(("embed", "head"), [("FeatureEmbed", "EveryToken()"), ("TrajectoryEmbed", "EveryToken(3, 1)")])
def test_the_action_of_a_step_is_explained_by_the_observations_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], embed: str, head: str
) -> None:
    """The larger action is the third feature of the same step."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drives").mkdir()
    for seed in range(12):
        features = np.random.default_rng(seed).standard_normal((24, 4)).astype(np.float32)
        actions = np.stack([0.01 * features[:, 0], features[:, 2]], 1)
        np.savez(tmp_path / "drives" / f"{seed}.npz", features=features, actions=actions, rewards=np.ones(24, "f4"))
    (tmp_path / "config.py").write_text(DRIVES.format(embed=embed, head=head), encoding="utf-8")
    assert main(["train", "config.py", "--run", "run"]) == 0
    with np.load("drives/3.npz") as arrays:
        actions = arrays["actions"][:, 1]
    number = 6 + int(np.abs(actions[5:]).argmax())  # a step whose action is no accident, after five others
    words = ("--number", str(number), "--config", "config.py", "--nearest", "2")
    (said,) = ask(capsys, "run", "drives/3.npz", *words)["runs"]
    assert said["score"] == pytest.approx(actions[number - 1], rel=0.3)
    assert said["score_of"] == "value 2 of 2"
    last = {"FeatureEmbed": f"{number}", "TrajectoryEmbed": f"action {number}"}[embed]
    assert said["tokens"][-1]["token"] == last
    observed = np.abs(said["observations"])
    assert observed.shape == (6, 4)
    assert np.unravel_index(observed.argmax(), (6, 4)) == (5, 2)
    assert len(said["nearest"]["examples"]) == len(said["influential"]["examples"]) == 2


def test_frames_are_shaded_by_the_cells_over_them() -> None:
    frames = np.full((4, 2, 6, 3), 100, np.uint8)
    cells = np.zeros((2, 1, 3))
    cells[1, 0, 2], cells[0, 0, 0] = 1, -0.5
    shaded = shade_frames(frames, cells)
    plain = shaded[0, 0, 2]
    red, blue = shaded[..., 0].astype(int) - plain[0], shaded[..., 2].astype(int) - plain[2]
    assert (shaded == plain).all(-1).sum() == 4 * 2 * 6 - 2 * (2 * 2) * 2
    assert (red[2:, :, 4:] > 0).all()
    assert (blue[:2, :, :2] > 0).all()
    picture = {"image": np.array([-1, 0, 1, 0.5], np.float32).reshape(1, 2, 2, 1)}
    read = read_frames(picture)
    assert read is not None
    assert read[0, ..., 0].tolist() == [[0, 128], [255, 191]]
