"""Settings of a model follow the data they are left to, and are refused if the user set them and they do not fit."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models import (
    Along,
    Attention,
    AxialRoPE,
    Block,
    BoxHead,
    ClassHead,
    EncoderDecoder,
    EveryToken,
    FeatureEmbed,
    LearnedPosition,
    LogitsHead,
    MeanPool,
    PatchEmbed,
    Stack,
    TokenEmbed,
    Transformer,
    TubeletEmbed,
    ValueHead,
)
from models.embed.grids import count_positions, find_grids
from models.structure import part
from tests.train.engine.pictures import CLASSIFIED, pictured, seen
from train.cli import main
from train.config import load_config
from train.contracts import Data, Dataset
from train.data.tasks.boxes import Boxes
from train.data.tasks.clips import Clips
from train.data.tasks.corpus import Corpus
from train.data.tasks.drives import Drives
from train.data.tasks.images import Images
from train.data.tasks.series import Series
from train.data.tasks.synthetic import Recall
from train.data.tasks.text import Text
from train.engine.requirements import require, settle
from train.errors import InputError
from train.experiment import Experiment
from train.objectives import MeanSquaredError, Quantiles
from train.optimizers import AdamW
from train.weights import HuggingFace

CLASSES, LEARNED = tuple("abcde"), "model.embed.position.length"


def experiment(model: Any, data: Data, *given: str, objective: Any = CLASSIFIED, **settings: Any) -> Experiment:
    """An experiment of which these paths were overridden."""
    return Experiment(model, objective, data, AdamW(), steps=1, given=given, **settings)


def filmed() -> Transformer:
    """A model for videos of 8 frames of 32 x 32 pixels: 4 x 4 x 4 tokens."""
    space = Block(Along((4, 4, 4), (1, 2), Attention(2, position=AxialRoPE((4, 4)))), None)
    embed = TubeletEmbed(8, 2, 8, position=LearnedPosition(64))
    return Transformer(embed, Stack((space, Block(Along((-1, 4, 4), (0,), Attention(2)))), 1), ClassHead(5, MeanPool()))


def driven(actions: int, longest: int) -> Dataset:
    """Trajectories of so many steps with so many actions, as if they had been read."""
    data = Drives().reader()
    data.actions, data.longest = actions, longest
    return data


FRAMES = "videos of 8 frames of 32 x 24 pixels make a grid of"
FOLLOWING: dict[str, tuple[Experiment, Dataset, dict[str, Any]]] = {  # the experiment, its data, what follows
    "classes": (experiment(seen(ClassHead(7)), Text(), "data.path"), Text().reader(CLASSES), {"model.head.classes": 5}),
    "classes at the default": (
        experiment(seen(ClassHead()), Text()),
        Text().reader(CLASSES),
        {"model.head.classes": 5},
    ),
    "classes of a head that was given": (
        experiment(seen(ClassHead(pool=MeanPool())), Text(), "model.head"),
        Text().reader(CLASSES),
        {"model.head.classes": 5},
    ),
    "classes of boxes": (
        experiment(seen(BoxHead(7)), Boxes(), "data.path"),
        Boxes().reader(CLASSES),
        {"model.head.classes": 5},
    ),
    "classes beside pretrained weights": (
        experiment(seen(ClassHead(7)), Text(), "data.path", initial=HuggingFace("folder")),
        Text().reader(CLASSES),
        {"model.head.classes": 5},
    ),
    "vocabulary of embed and head": (
        experiment(seen(LogitsHead(tied=False, vocab=100), TokenEmbed(64, 8)), Corpus(), "data"),
        Corpus().reader(),
        {"model.embed.vocab": 256, "model.head.vocab": 256},
    ),
    "vocabulary of a source": (
        experiment(EncoderDecoder(TokenEmbed(300, 8), source_embed=TokenEmbed(64, 8)), Corpus(), "data.tokenizer"),
        Corpus().reader(),
        {"model.source_embed.vocab": 256},
    ),
    "vocabulary of a task": (
        experiment(seen(LogitsHead()), Recall(vocab=300), "data.vocab"),
        Recall(vocab=300).reader(),
        {"model.embed.vocab": 300},
    ),
    "positions of a text": (
        experiment(seen(None, TokenEmbed(256, 8, position=LearnedPosition(64))), Text(), "data.length"),
        Text(length=96).reader(),
        {"model.embed.position.length": 96},
    ),
    "one value": (
        experiment(seen(ValueHead(3), TokenEmbed(256, 8)), Text(), "data.kind"),
        Text(kind="value").reader(),
        {"model.head.values": 1},
    ),
    "grid of pictures": (
        experiment(pictured(4), Images(), "data.size"),
        Images(size=(24, 16)).reader(CLASSES),
        {"model.stack.block.mixer.position.grid": (6, 4), "model.embed.position.length": 24},
    ),
    "grid after another embed": (
        experiment(pictured(4), Images(), "model.embed.size"),
        Images(size=(24, 16)).reader(CLASSES),
        {"model.stack.block.mixer.position.grid": (6, 4), "model.embed.position.length": 24},
    ),
    "grid of boxes": (
        experiment(pictured(4, BoxHead(5, (4, 4))), Boxes(), "data.size"),
        Boxes(size=(24, 16)).reader(CLASSES),
        {"model.stack.block.mixer.position.grid": (6, 4), "model.head.grid": (6, 4), "model.embed.position.length": 24},
    ),
    "grid of frames": (
        experiment(filmed(), Clips(), "data.size"),
        Clips(size=(32, 24)).reader(CLASSES),
        {
            "model.stack.block.0.mixer.grid": (4, 4, 3),
            "model.stack.block.0.mixer.mixer.position.grid": (4, 3),
            "model.stack.block.1.mixer.grid": (-1, 4, 3),
            "model.embed.position.length": 48,
        },
    ),
    "actions and steps": (
        experiment(seen(ValueHead(2), FeatureEmbed(8, LearnedPosition(10))), Drives(), "data.path"),
        driven(3, 12),
        {"model.head.values": 3, "model.embed.position.length": 12},
    ),
    "horizon and series": (
        experiment(
            seen(ValueHead(12, EveryToken(1, -6)), FeatureEmbed(8, LearnedPosition(18))),
            Series(),
            "data",
            objective=Quantiles(),
        ),
        Series(context=48, horizon=48, patch=4, channels="together").reader(("north", "south")),
        {"model.head.values": 24, "model.head.pool.first": -12, "model.embed.position.length": 24},
    ),
    "quantiles": (
        experiment(
            seen(ValueHead(72, MeanPool()), FeatureEmbed(8)),
            Series(),
            "objective.levels",
            objective=Quantiles((0.5,)),
        ),
        Series(context=48, horizon=24, patch=4).reader(("north",)),
        {"model.head.values": 24},
    ),
}


@pytest.mark.parametrize("name", FOLLOWING)
def test_settings_left_to_the_data_follow_it(name: str) -> None:
    old, data, expected = FOLLOWING[name]
    new, changes = settle(old, data)
    assert {path: part(new, path) for path in expected} == expected
    assert {change.path for change in changes} == {path for path in expected if part(old, path) != expected[path]}
    require(new, data)
    assert settle(new, data) == (new, ())


@pytest.mark.parametrize("name", FOLLOWING)
def test_settings_of_the_user_that_do_not_fit_are_refused(name: str) -> None:
    old, data, expected = FOLLOWING[name]
    wrong = {path: value for path, value in expected.items() if part(old, path) != value}
    given = dataclasses.replace(old, given=(*old.given, *wrong))
    assert settle(given, data) == (given, ())
    with pytest.raises(InputError) as refused:
        require(given, data)
    said = str(refused.value)
    path = next(path for path in wrong if f" {path} is " in said)
    assert f"{path} is {part(old, path)}; set " in said
    assert said.endswith(f"{path}={wrong[path]}.")


REFUSED: dict[str, tuple[Experiment, Dataset, str]] = {
    "a config's own value": (
        experiment(seen(ClassHead(7)), Text()),
        Text().reader(CLASSES),
        "The data has 5 classes (a, b, c, d, e) and model.head.classes is 7; set model.head.classes=5.",
    ),
    "a value in a head that was given": (
        experiment(seen(ClassHead(7)), Text(), "data.path", "model.head"),
        Text().reader(CLASSES),
        "The data has 5 classes (a, b, c, d, e) and model.head.classes is 7; set model.head.classes=5.",
    ),
    "what pretrained weights are of": (
        experiment(
            seen(None, TokenEmbed(256, 8, position=LearnedPosition(64))),
            Text(),
            "data.length",
            initial=HuggingFace("folder"),
        ),
        Text(length=96).reader(),
        f"data.length is 96 and {LEARNED} is 64; set data.length=64 or {LEARNED}=96.",
    ),
    "a rotation over other cells": (
        experiment(pictured(4), Images()),
        Images(size=(24, 16)).reader(CLASSES),
        "Images of 24 x 16 pixels make a grid of 6 x 4 tokens and model.stack.block.mixer.position.grid is (4, 4); set"
        " model.stack.block.mixer.position.grid=(6, 4).",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_left_to_the_data_is_refused(name: str) -> None:
    given, data, sentence = REFUSED[name]
    assert settle(given, data) == (given, ())
    with pytest.raises(InputError) as refused:
        require(given, data)
    assert str(refused.value) == sentence


def test_what_fits_stays_as_it_is() -> None:
    embed = TokenEmbed(512, 8, position=LearnedPosition(128))
    long = experiment(seen(None, embed), Text(), "data.length", "data.tokenizer")
    assert settle(long, Text(length=96).reader()) == (long, ())
    roomy = experiment(pictured(4, embed=PatchEmbed(8, 4, 1, LearnedPosition(40))), Images(), "data.augment")
    assert settle(roomy, Images(size=(16, 16)).reader(CLASSES)) == (roomy, ())
    last = seen(ValueHead(72, EveryToken(1, -1)), FeatureEmbed(8))  # all of the horizon from the last token
    forecast = experiment(last, Series(), "data.path", objective=Quantiles())
    assert settle(forecast, Series(context=48, horizon=24, patch=4).reader(("north",))) == (forecast, ())
    squared = experiment(last, Series(), "data.path", objective=MeanSquaredError())
    assert settle(squared, Series(context=48, horizon=48, patch=4).reader(("north",))) == (squared, ())


def test_grids_are_those_of_the_embed_that_cuts() -> None:
    assert find_grids(filmed(), (8, 32, 24)) == {
        "stack.block.0.mixer.grid": (4, 4, 3),
        "stack.block.0.mixer.mixer.position.grid": (4, 3),
        "stack.block.1.mixer.grid": (-1, 4, 3),
    }
    assert count_positions(pictured(4, embed=PatchEmbed(8, 4, 3, LearnedPosition(1))), (16, 16)) == {
        "embed.position.length": 19
    }
    assert find_grids(seen(ClassHead(5), mixer=Attention(2, position=AxialRoPE((3, 3)))), (8, 8)) == {}
    decoder = Stack(Block(Attention(2)), 1)
    captions = EncoderDecoder(TokenEmbed(9, 8), pictured(4).stack, decoder, None, PatchEmbed(8, 4, 0))
    assert find_grids(captions, (16, 24)) == {"encoder.block.mixer.position.grid": (4, 6)}
    with pytest.raises(ValueError, match=r"Patches of 4 x 4 \(rows, columns\) do not tile an input of 18 x 16"):
        find_grids(pictured(4), (18, 16))


def test_overridden_paths_are_remembered_and_not_compared() -> None:
    plain, _ = load_config("images_vit", [])
    changed, _ = load_config("images_vit", ["data.path=pictures", "batch_size=64"])
    assert (plain.given, changed.given) == ((), ("data.path", "batch_size"))
    assert dataclasses.replace(plain, given=("seed",)) == plain


CONFIG = """
from tests.train.engine.pictures import pictured
from models import ClassHead, MeanPool
from train.data.tasks.images import Images
from train.experiment import Experiment
from train.objectives import Classification
from train.optimizers import AdamW


def experiment():
    data = Images("fashion_mnist", size=(16, 16), holdout=0.3)
    return Experiment(pictured(4, ClassHead(10, MeanPool())), Classification(), data, AdamW(), batch_size=4, steps=1)
"""


@pytest.mark.slow
def test_a_run_on_other_data_records_what_followed_and_goes_on(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    for name in ("cat", "dog", "owl"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(4):
            grey = np.random.default_rng(number).integers(0, 255, (24, 16), np.uint8)
            Image.fromarray(grey).save(tmp_path / "pictures" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(CONFIG, encoding="utf-8")
    train = ["train", "own.py", "data.path=pictures", "data.size=(24, 16)", "--run", "run"]
    assert main([*train, "model.head.classes=10"]) == 2
    assert "The data has 3 classes (cat, dog, owl) and model.head.classes is 10" in capsys.readouterr().err
    assert not Path("run").exists()
    assert main(train) == 0
    said = capsys.readouterr().err
    assert said.count("model.head.classes: 10 -> 3, as the data has 3 classes (cat, dog, owl)\n") == 1
    rotation = "model.stack.block.mixer.position.grid: (4, 4) -> (6, 4)"
    assert f"{rotation}, as images of 24 x 16 pixels make a grid of 6 x 4 tokens\n" in said
    assert "model.embed.position.length: 16 -> 24, as images of 24 x 16 pixels make 24 tokens\n" in said
    written = json.loads(Path("run/experiment.json").read_text(encoding="utf-8"))
    assert written["experiment"]["model"]["head"]["classes"] == 3
    assert [change["path"] for change in written["settled"]][:1] == ["model.head.classes"]
    assert main(train) == 0
    assert "is finished" in capsys.readouterr().err
    assert main([*train, "steps=2"]) == 0
    assert main(["predict", "run", "pictures/cat/0.png", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["answers"][0]["probabilities"]) == {
        "cat",
        "dog",
        "owl",
    }
    assert main([*train, "model.head.classes=4"]) == 2
    assert "another experiment (model.head.classes: 3 -> 4;" in capsys.readouterr().err
