"""Every application, shortened: its real data, a small model in the place of its own, trained, measured, asked, and
shown.
"""

import datetime
import html
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.short import FAST
from tests.train.data.tasks.moving import moving, write
from train.cli import main

SMALL = "Transformer(TokenEmbed(30522, 16), Stack(Block(Attention(2), MLP(2.0)), 1), ClassHead({}, MeanPool()))"


class Application(NamedTuple):
    """A config, what makes it small, a question, what its answer has, the metrics of its review, what the report
    shows.
    """

    config: str
    small: tuple[str, ...]
    question: str
    answer: set[str]
    metrics: set[str]
    captions: tuple[str, ...]


def part(train: int, test: int) -> str:
    """The first examples of both splits."""
    return f"data.splits=('train[:{train}]', 'test[:{test}]')"


def texts(config: str, classes: int, question: str) -> Application:
    """A classification of texts."""
    small = (
        f"model={SMALL.format(classes)}",
        "initial=none",
        "data.length=32",
        "data.truncate=true",
        "evaluation.batch_size=512",
    )
    # learnt by heart
    small += ("optimizer.rate.peak=0.01", "steps=12", "evaluation.every=6", "data.buckets=(32,)", part(64, 200))
    return Application(config, small, question, {"label", "probabilities"}, CLASSES, CLASSIFIED)


LANGUAGE = (
    "model.embed.width=16",
    "model.stack.repeats=1",
    "model.stack.block.mixer.heads=2",
    "evaluation.batch_size=64",
    "steps=12",
    "evaluation.every=6",
)
TRANSLATION = (
    "model.embed.width=16",
    "model.encoder.repeats=1",
    "model.decoder.repeats=1",
    "evaluation.batch_size=50",
    "steps=12",
    "evaluation.every=6",
)
TRANSLATION += ("objective.beams=2", "objective.longest=16", "data.buckets=(24, 96)", "data.length=96", part(1000, 100))
TRANSLATION += ("data.tokenizer=bpe:500", "model.embed.vocab=500")
SCORES = {"bleu", "chrf", "exact_match"}
SEEN = (
    "model.embed.width=16",
    "model.stack.repeats=1",
    "model.stack.block.mixer.heads=2",
    "optimizer.rate.peak=0.005",
    "steps=12",
    "evaluation.every=6",
)
IMAGES = (
    *SEEN,
    "model.embed.channels=(4, 8)",
    "model.embed.strides=(2, 2)",
    "evaluation.batch_size=500",
    part(2000, 500),
)
DIGITS = (*SEEN, "model.embed.channels=(4, 8, 8)", "batch_size=16", "evaluation.batch_size=250", part(500, 250))
CELLS = (*SEEN, "model.embed.channels=(4, 8, 8, 8)", "batch_size=4", "evaluation.batch_size=36")
CLIPS = (
    "model.embed.width=16",
    "model.stack.repeats=1",
    "optimizer.rate.peak=0.02",
    "steps=12",
    "evaluation.every=6",
    "batch_size=32",
)
SERIES = (*SEEN, "data.stride=50", "evaluation.batch_size=256")
DRIVING = (*SEEN, "data.dataset=highway_drives/tiny", "review.episodes=2", "review.steps=20")
CLASSES = {"accuracy", "macro_f1", "balanced_accuracy", "expected_calibration_error"}
MOVED = CLASSES | {"accuracy_shuffled"}
AHEAD = {"coverage", "mae_1", "rmse_1", "mae_12", "rmse_12"}
BOXES = {"map", "map50", "map75", "recall"}
CELL_BOXES = BOXES | {f"map50_{cell}" for cell in ("RBC", "WBC", "Platelets")}
DIGIT_BOXES = BOXES | {f"map50_{digit}" for digit in range(10)}
DRIVEN = {"collision_rate", "off_road_rate", "time_on_road", "mean_speed", "reward_ratio"}
ASKED = {"return_correlation", "reached_12", "reached_16"}
CLASSIFIED = ("Confusion matrix", "Reliability", "surest of")


def clips(config: str, dataset: str) -> Application:
    """A classification of clips."""
    shown = (*CLASSIFIED, "Clips, with what was predicted")
    return Application(
        config, (*CLIPS, f"data.dataset={dataset}"), "{place}/clip.mp4", {"label", "probabilities"}, MOVED, shown
    )


APPLICATIONS = {
    one.config: one
    for one in (
        texts("sentiment_bert", 2, "a delightful film"),
        texts("topics_bert", 8, "the bank raised its prime rate"),
        texts("tweets_bert", 3, "@united never again"),
        Application(
            "translate_numbers",
            (*TRANSLATION, "data.dataset=number_words/few"),
            "forty-two",
            {"translation"},
            SCORES,
            ("the first", "the worst"),
        ),
        Application(
            "translate_multi30k", TRANSLATION, "A dog runs.", {"translation"}, SCORES, ("the first", "the worst")
        ),
        Application("images_vit", IMAGES, "{place}/picture.png", {"label", "probabilities"}, CLASSES, CLASSIFIED),
        Application("detect_digits", DIGITS, "{place}/picture.png", {"objects"}, DIGIT_BOXES, ("Boxes found",)),
        Application("detect_cells", CELLS, "{place}", {"objects"}, CELL_BOXES, ("Boxes found",)),
        clips("video_motion", "moving_digits/few"),
        clips("video_manoeuvres", "highway_manoeuvres/few"),
        Application(
            "traffic_occupancy",
            SERIES,
            "{place}/roads.csv",
            {"forecast"},
            AHEAD | {"mae_3", "rmse_3"},
            ("Errors", "Forecasts"),
        ),
        Application(
            "traffic_weather",
            SERIES,
            "{place}/roads.csv",
            {"forecast"},
            AHEAD | {"mae_24", "rmse_24"},
            ("Errors", "Forecasts"),
        ),
        Application(
            "drive_highway", DRIVING, "{place}/drive.npz", {"value"}, DRIVEN, ("2 drives", "The model's drive above")
        ),
        Application(
            "drive_decision",
            (*DRIVING, "review.asked=(12.0, 16.0)"),
            "{place}/drive.npz",
            {"value"},
            DRIVEN | ASKED,
            ("2 drives", "Return reached", "The model's drive above"),
        ),
        Application(
            "lm_shakespeare",
            (*LANGUAGE, part(4, 1)),
            "To be",
            {"next"},
            {"perplexity", "bits_per_character"},
            ("Surprise",),
        ),
    )
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("applications")
    (folder / "asked").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "asked" / "picture.png")
    write(folder / "asked" / "clip.mp4", moving(0, 1))
    hours = [f"{datetime.datetime(2026, 1, 5) + datetime.timedelta(hours=hour)}" for hour in range(800)]
    columns = ["vehicles", "kelvin", "clouds", "rain", "snow", *(f"sensor_{number:02}" for number in range(20))]
    rows = [
        f"{time},{','.join(str(hour % 24 + place) for place in range(len(columns)))}" for hour, time in enumerate(hours)
    ]
    (folder / "asked" / "roads.csv").write_text("\n".join([",".join(["time", *columns]), *rows]) + "\n")
    features, actions = (np.random.default_rng(0).uniform(0, 1, shape) for shape in ((6, 31), (6, 2)))
    np.savez(folder / "asked" / "drive.npz", features=features, actions=actions, rewards=np.ones(6))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("standins")
@pytest.mark.represented_by(*FAST)
@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_application_trains_is_measured_answers_and_is_shown(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, run = APPLICATIONS[name], str(place / name)
    assert main(["train", name, "log_every=2", *one.small, "--run", run, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["steps"] == 12
    names = json.loads((Path(run) / "experiment.json").read_text())["classes"]
    assert (
        one.metrics
        <= set(summary["review"])
        <= one.metrics | {f"accuracy_{each}" for each in names if one.metrics >= CLASSES}
    )
    losses = [json.loads(line).get("train/loss") for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    found = [loss for loss in losses if loss is not None]
    assert found[-1] < found[0]
    page = (Path(run) / "report.html").read_text(encoding="utf-8")
    assert all(html.escape(caption) in page for caption in one.captions)

    assert main(["eval", run, "evaluation.batch_size=100", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["review"] == pytest.approx(summary["review"], rel=1e-4)
    assert again["evaluation"]["loss"]["value"] == pytest.approx(summary["evaluation"]["loss"]["value"], rel=1e-4)

    assert main(["predict", run, one.question.format(place=place / "asked"), "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert answers
    assert all(one.answer <= set(answer) for answer in answers)
