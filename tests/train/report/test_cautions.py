"""Settings that hardly mean what they say are warned of, rows that cannot be read do not keep others from an answer,
classes have names.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.words import join, merge_layers, shorten
from train.cli import main
from train.config import load_config
from train.data.batches import Arrays, Batches, of_examples
from train.data.tasks.text import Text
from train.errors import InputError
from train.experiment import Evaluation
from train.optimizers import AdamW, Constant, Cosine, Linear, Optax, WarmupStableDecay
from train.optimizers.schedules import describe_unreached
from train.report.cautions import find_cautions
from train.use.questions import QuestionBatches


@pytest.mark.parametrize(
    ("rate", "steps", "said"),
    [
        (
            Linear(warmup=500),
            100,
            r"optimizer.rate.warmup is 500 steps and training has 100, so the rate never reaches its peak",
        ),
        (Cosine(warmup=100), 100, "never reaches its peak"),
        (Constant(warmup=99), 100, ""),
        (Linear(warmup=0.06), 10, ""),
        (WarmupStableDecay(warmup=80, decay=30), 100, "are 110 steps and training has 100"),
        (WarmupStableDecay(), 100, ""),
        (None, 100, ""),
    ],
)
def test_a_warm_up_longer_than_training_is_said(rate: Any, steps: int, said: str) -> None:
    assert said in describe_unreached(rate, steps)
    assert bool(said) == bool(describe_unreached(rate, steps))


@pytest.mark.parametrize(
    ("metric", "greater", "said"),
    [
        ("accuracy", False, "set evaluation.greater=true"),
        ("loss", True, "set evaluation.greater=false"),
        ("mean_absolute_error", True, "set evaluation.greater=false"),
        ("map50", False, "set evaluation.greater=true"),
        ("accuracy", True, ""),
        ("loss", False, ""),
        ("of_my_own", True, ""),
    ],
)
def test_a_best_checkpoint_that_would_be_the_worst_is_said(metric: str, greater: bool, said: str) -> None:
    experiment = SimpleNamespace(optimizer=AdamW(), evaluation=Evaluation(metric=metric, greater=greater))
    prepared: Any = SimpleNamespace(experiment=experiment, data=None, steps=1000, uncertain=())
    found = find_cautions(prepared)
    assert len(found) == bool(said)
    assert not said or said in found[0]


@pytest.fixture
def inside(sound: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(sound)
    monkeypatch.setenv("MORPHAX_CACHE", str(cache))
    return sound


@pytest.mark.slow
def test_what_is_odd_is_said_before_training_and_kept_in_the_summary(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = [
        "data.labels=('bad', 'good', 'fair')",
        "model.head.classes=3",
        "optimizer.rate.warmup=50",
        "evaluation.greater=false",
    ]
    assert main(["train", "config.py", "--run", str(tmp_path / "run"), *odd]) == 0
    err = capsys.readouterr().err
    warned = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert [line.split()[1] for line in warned] == ["optimizer.rate.warmup", "No", "evaluation.metric"]
    assert "No example to train on has the class fair; give examples of it, or leave it out" in warned[1]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["warnings"] == [
        line.removeprefix("warning: ") for line in warned
    ]
    assert "never reaches its peak" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_as_it_should_be_warns_of_nothing(inside: Path) -> None:
    assert json.loads((inside / "run" / "summary.json").read_text())["warnings"] == []


def test_rows_that_can_be_answered_are_and_the_others_are_named(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "run", "film", "", "x" * 60, "a dull film", "--json"]) == 0
    out, err = capsys.readouterr()
    answers = json.loads(out)["answers"]
    assert [answer["input"] for answer in answers] == ["film", "", "x" * 60, "a dull film"]
    assert ["label" in answer for answer in answers] == [True, False, False, True]
    assert answers[1]["unanswered"] == "text 2, has no text; remove it or fill it in."
    assert answers[2]["unanswered"].startswith("text 3 has 60 tokens and data.length is 48")
    assert err.startswith("morphax: 2 of 4 inputs are not answered: text 2, has no text")
    (tmp_path / "rows.csv").write_text("text,id\na fine film,1\n,2\nfilm,3\n")
    assert main(["predict", "run", str(tmp_path / "rows.csv")]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [lines[0], lines[2], lines[4]] == ["a fine film", "", "film"]
    assert lines[3] == f"    not answered: {tmp_path / 'rows.csv'}, example 2, has no text; remove it or fill it in."
    alone = [answer["probabilities"] for answer in answers if "probabilities" in answer]
    assert main(["predict", "run", "film", "a dull film", "--json"]) == 0
    together = [answer["probabilities"] for answer in json.loads(capsys.readouterr().out)["answers"]]
    np.testing.assert_allclose(
        [list(one.values()) for one in alone], [list(one.values()) for one in together], atol=1e-6
    )


class Lazy:
    """Questions that are read when their batch is: the numbers that they are."""

    classes, vocab, names = (), 0, ()

    def list_questions(self, given: Sequence[str]) -> list[str]:
        """A name of a file that there is not is refused at once."""
        if "gone" in given:
            raise InputError("gone cannot be read.")
        return [one for text in given for one in text.split("+")]

    def questions(self, asked: Sequence[str], batch_size: int, multiple: int) -> Batches:
        """Batches of numbers."""

        def one(index: int, chance: np.random.Generator | None) -> Arrays:
            del chance
            if not asked[index].isdecimal():
                raise InputError(f"{asked[index]} is no number.")
            return {"number": np.array(int(asked[index]))}

        return of_examples(len(asked), one, batch_size, multiple)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["1", "2", "3"], ["1", "2", "3"]),
        (["1", "a", "3", "4+5", "gone", "b", "c", "8"], ["1", "a!", "3", "4", "5", "gone!", "b!", "c!", "8"]),
        (["a", "b", "c", "7"], ["a!", "b!", "c!", "7"]),
    ],
)
def test_questions_that_fail_when_they_are_read_leave_the_others_in_order(
    given: list[str], expected: list[str]
) -> None:
    data: Any = Lazy()
    asked = QuestionBatches(data, given, 2)
    assert int(asked.first["number"][0]) == int(next(one for one in expected if one.isdecimal()))

    def answers() -> Any:
        for places, batch in asked.batches():
            for row, place in enumerate(places):
                yield place, {"number": int(batch["number"][row])}

    found = [text + "!" * ("unanswered" in answer) for text, answer in asked.order_answers(answers())]
    assert found == expected
    said = [
        text for text, answer in asked.order_answers(answers()) if "number" in answer and answer["number"] != int(text)
    ]
    assert said == []


def test_of_questions_that_all_fail_the_first_reason_is_given() -> None:
    data: Any = Lazy()
    with pytest.raises(InputError, match=r"^a is no number\.$"):
        QuestionBatches(data, ["a", "b", "c"], 2)


@pytest.mark.slow
def test_classes_are_called_by_their_names(inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = "text,label\n" + "".join(f"review {index},{index % 2}\n" for index in range(8))
    (tmp_path / "train.csv").write_text(table)
    paths = [f"data.path={tmp_path / 'train.csv'}", f"data.test={tmp_path / 'train.csv'}", "review=Classes()"]
    assert main(["train", "config.py", *paths, "data.names=('poor', 'fine')", "--run", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"accuracy_poor", "accuracy_fine"} <= set(summary["review"])
    assert "poor" in (tmp_path / "run" / "report.html").read_text()
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), "film", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["answers"][0]["probabilities"]) == {"poor", "fine"}
    assert main(["predict", str(tmp_path / "run"), "film", "--json", "--set", "data.names=('no', 'yes')"]) == 0
    assert set(json.loads(capsys.readouterr().out)["answers"][0]["probabilities"]) == {"no", "yes"}


def test_epochs_and_steps_given_together_are_taken_where_one_makes_room(inside: Path) -> None:
    for given in (["epochs=0.1", "steps=none"], ["steps=None", "epochs=0.1"]):
        experiment, _ = load_config("config.py", given)
        assert (experiment.epochs, experiment.steps) == (0.1, None)
    experiment, _ = load_config("config.py", ["epochs=none", "steps=7"])
    assert (experiment.epochs, experiment.steps) == (None, 7)


def test_many_classes_in_a_message_are_cut_and_counted(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "many.csv").write_text(
        "text,label\n" + "".join(f"review {index},class {index:02d}\n" for index in range(71))
    )
    files = [f"data.path={tmp_path / 'many.csv'}", f"data.test={tmp_path / 'many.csv'}"]
    assert main(["train", "config.py", *files, "model.head.classes=2"]) == 2
    said = capsys.readouterr().err
    assert "The data has 71 classes (class 00, class 01, " in said
    assert " more) and model.head.classes is 2; set model.head.classes=71." in said
    assert len(said) < 400
    assert main(["train", "config.py", "model.head=Zzzzzz()"]) == 2
    said = capsys.readouterr().err
    assert "No component is called 'Zzzzzz'; valid names are ALiBi, Adafactor, AdamW, " in said
    assert len(said) < 500


@pytest.mark.parametrize(
    ("items", "room", "said"),
    [
        ([], 20, ""),
        (["one"], 3, "one"),
        (["one", "two", "three"], 8, "one, two and 1 more"),
        (["one", "two", "three"], 15, "one, two, three"),
        (["a" * 50, "b"], 20, "a" * 17 + "... and 1 more"),
        (range(1000), 10, "0, 1, 2, 3 and 996 more"),
    ],
)
def test_a_list_is_cut_to_its_room(items: Sequence[Any], room: int, said: str) -> None:
    assert join(items, room) == said


def test_layers_are_told_as_spans() -> None:
    names = [
        "stack/layer_0/up",
        "stack/layer_1/up",
        "stack/layer_3/up",
        "head/out",
        "encoder.layer.2.x",
        "encoder.layer.3.x",
        "stack/first_0/a",
    ]
    assert merge_layers(names) == ["stack/layer_0-1+3/up", "head/out", "encoder.layer.2-3.x", "stack/first_0/a"]
    assert shorten(Text()) == "Text(...)"
    assert shorten("x" * 80) == "'" + "x" * 56 + "..."


@pytest.mark.parametrize("field", ["clip"])
def test_every_optimizer_refuses_to_clip_to_nothing(field: str) -> None:
    makers: list[Callable[..., Any]] = [AdamW, Optax]
    for make in makers:
        with pytest.raises(ValueError, match="clip is -1; give a norm above 0"):
            make(**{field: -1})
