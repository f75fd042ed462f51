"""Counterfactual audits: terms are substituted in whole texts, pairs are read, and planted preferences are found."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.places import CONFIGS
from train.cli import main
from train.engine.folder import open_run
from train.errors import InputError
from train.use.bias.pairs import Pair, Term, read_pairs, read_terms, swap_terms
from train.use.bias.swap import score_texts


def pair(kind: str, first: str, second: str, origin: int = 0) -> Pair:
    return Pair(kind, first, second, origin)


TERMS = [
    Term("sex", "he", "she"),
    Term("sex", "his", "her", False),
    Term("sex", "man", "woman"),
    Term("name", "Jay", "Leroy"),
]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("He saw his man.", [("sex", "He saw his man.", "She saw her woman.")]),
        ("SHE is a woman", [("sex", "HE is a man", "SHE is a woman")]),
        ("she and her man", []),  # both sides
        ("she saw her", []),  # "her" may be his or him
        ("the theme", []),  # parts of words
        ("a jay sings", []),  # a name is written with a capital
        ("Jay: he left", [("sex", "Jay: he left", "Jay: she left"), ("name", "Jay: he left", "Leroy: he left")]),
    ],
)
def test_all_terms_of_a_kind_are_substituted(text: str, pairs: Sequence[tuple[str, str, str]]) -> None:
    assert list(swap_terms([text], TERMS)) == [pair(kind, first, second) for kind, first, second in pairs]


def test_the_shipped_terms_swap_there_and_back() -> None:
    terms = read_terms(None)
    assert {term.kind.split()[0] for term in terms} == {"gender", "name", "nationality"}
    for term in terms:
        text = f"I met {term.first} there."
        (there,) = swap_terms([text], [term])
        assert there.second == f"I met {term.second} there."
        back = list(swap_terms([there.second], [term]))
        assert [each.first for each in back] == ([text] if term.both else [])


def stereoset() -> dict[str, object]:
    """A file of StereoSet's shape."""

    def cluster(kind: str, context: str, texts: Sequence[str]) -> dict[str, object]:
        labels = ("stereotype", "anti-stereotype", "unrelated")
        sentences = [
            {"sentence": text, "gold_label": label, "id": label} for text, label in zip(texts, labels, strict=True)
        ]
        return {"id": kind, "target": "t", "bias_type": kind, "context": context, "sentences": sentences}

    return {
        "version": "1.0",
        "data": {
            "intrasentence": [cluster("gender", "x BLANK", ["x a", "x b", "x c"])],
            "intersentence": [cluster("race", "Before.", ["One.", "Two.", "Three."])],
        },
    }


def test_files_of_two_shapes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "stereoset.json"
    path.write_text(json.dumps(stereoset()))
    assert read_pairs([str(path)]) == [
        Pair("gender", "x b", "x a", 0, "x c"),
        Pair("race", "Before. Two.", "Before. One.", 1, "Before. Three."),
    ]
    lines = {"anti": "he", "pro": "she"}
    for name, word in lines.items():
        (tmp_path / name).write_text(f"1 [The nurse] left because [{word}] was tired.\n")
    found = read_pairs([str(tmp_path / name) for name in lines])
    first, second = (f"The nurse left because {word} was tired." for word in ("he", "she"))
    assert found == [pair("WinoBias", first, second)]
    (tmp_path / "more").write_text("1 a\n2 b\n")
    path.write_text(json.dumps({"data": {"intrasentence": [{"sentences": 3}]}}))
    for files, sentence in (
        ([str(path)], "is not shaped as StereoSet"),
        ([str(tmp_path / "pro"), str(tmp_path / "more")], "has 1 lines and .* has 2"),
        (["a", "b", "c"], "--pairs has 3 files"),
    ):
        with pytest.raises(InputError, match=sentence):
            read_pairs(files)
    table = tmp_path / "terms.csv"
    for text, sentence in (
        ("kind,first\na,b\n", "no column 'second'"),
        ("kind,first,second\na,b,b\n", "the last two unlike"),
        ("kind,first,second\na,b,c\na,c,d\n", "'c' of the kind 'a' twice"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=sentence):
            read_terms(str(table))


def test_the_change_of_predictions_is_that_of_predict(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"he likes film {number}" for number in range(4)]
    Path("texts.csv").write_text("text\n" + "\n".join(texts) + "\n")
    assert main(["audit", "bias", "run", "--swap", "--data", "texts.csv", "--least", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (change,) = said["changes"]
    assert (change["kind"], change["number"], change["examples"]) == ("gender", "p(good)", 4)
    both = [*texts, *(text.replace("he", "she") for text in texts)]
    assert main(["predict", "run", *both, "--json"]) == 0
    answers = [each["probabilities"]["good"] for each in json.loads(capsys.readouterr().out)["answers"]]
    assert change["first"] == pytest.approx(np.mean(answers[:4]), abs=1e-6)
    assert change["second"] == pytest.approx(np.mean(answers[4:]), abs=1e-6)
    low, high = change["interval"]
    assert low <= change["change"] <= high
    assert [share["of"] for share in said["shares"]] == [4]
    page = Path("run/swaps.html").read_text(encoding="utf-8")
    assert "she likes film 0" in page
    for words, sentence in (
        (["--swap"], "None of the 2 texts has a term"),
        (["--swap", "--pairs", "a.json"], "Give one of --groups"),
        (["--swap", "--data", "texts.csv", "--least", "1"], "--least is 1"),
    ):
        assert main(["audit", "bias", "run", *words]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_preferences_of_a_language_model_are_found(
    inside: Path, workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of texts in which nurses are she: log-odds of pairs are those of its own predictions, and are found."""
    del workshop
    chance = np.random.default_rng(0)
    lines = [f"the {('nurse', 'pilot')[n]} is {('she', 'he')[n]}." for n in chance.integers(0, 2, 4000)]
    Path("lines.txt").write_text("\n".join(lines) + "\n")
    config = str(CONFIGS / "language_model.py")
    settings = ["data.path=lines.txt", "data.length=32", "steps=300", "evaluation.every=300", "batch_size=16"]
    assert main(["train", config, *settings, "optimizer.rate.peak=0.01", "--run", "lm"]) == 0
    for name, words in (("anti", ("he", "she")), ("pro", ("she", "he"))):
        text = "\n".join(
            f"{n} [the {job}] is [{word}]." for n, (job, word) in enumerate(zip(("nurse", "pilot"), words, strict=True))
        )
        Path(name).write_text(text + "\n")
    capsys.readouterr()
    assert main(["audit", "bias", "lm", "--pairs", "anti", "pro", "--least", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["changes"][0]["change"] > 0.5
    assert said["shares"][0]["value"] == 1.0
    _, scores, _ = score_texts(Path("lm"), open_run(Path("lm"), None), ["the nurse is he.", "the nurse is she."], False)
    assert scores["the nurse is she."].numbers["log p"] > scores["the nurse is he."].numbers["log p"]
