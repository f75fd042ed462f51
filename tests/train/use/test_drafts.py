"""`morphax generate --draft`: the same text in fewer passes, and drafts that cannot foretell it are refused."""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places import CONFIGS
from train.cli import main

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
PROMPTS = ("a fine film, number 1", "a dull film")
TOKENS = 24


def say(*arguments: str) -> tuple[int, str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def runs(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a language model, `large`, a narrower one, `small`, and one of other tokens."""
    folder = tmp_path_factory.mktemp("drafts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop)
        patch.setenv("MORPHAX_CACHE", str(folder / "cache"))
        rest = ("optimizer.rate.peak=1e-2", "evaluation.every=60", "checkpoints.every=60")
        forms = {
            "large": ("steps=60",),
            "small": ("steps=60", "model.embed.width=8"),
            "other": ("steps=1", "data.tokenizer=bpe:280"),
        }
        for name, settings in forms.items():
            code, _, told = say("train", LANGUAGE_MODEL, *settings, *rest, "--run", str(folder / name))
            assert code == 0, told
        yield folder


def test_a_draft_gives_the_same_text_in_fewer_passes(runs: Path) -> None:
    command = ("generate", str(runs / "large"), *PROMPTS, "--tokens", str(TOKENS), "--json")
    expected = json.loads(say(*command)[1])
    passes = {}
    for draft in ("lookup", str(runs / "large"), str(runs / "small")):
        code, out, told = say(*command, "--draft", draft)
        assert code == 0
        found = json.loads(out)
        passes[draft] = found.pop("passes")
        assert found == expected
        assert told.splitlines()[-1] == f"{TOKENS} tokens in {passes[draft]} passes of the model"
    assert passes[str(runs / "large")] == 1 + -(-(TOKENS - 1) // 5)
    assert passes["lookup"] < TOKENS
    found = json.loads(say(*command, "--draft", str(runs / "large"), "--foretell", "11")[1])
    assert found["passes"] == 1 + -(-(TOKENS - 1) // 12)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--draft", "nowhere"), "--draft is 'nowhere'; give lookup, or the folder of a run"),
        (("--draft", "other"), "was trained on other tokens"),
        (("--draft", "lookup", "--beams", "2"), "leave one of them out"),
        (("--foretell", "3"), "a --draft that foretells them"),
        (("--draft", "lookup", "--foretell", "0"), "--foretell is 0"),
    ],
    ids=["nowhere", "tokens", "beams", "alone", "none"],
)
def test_a_draft_that_cannot_foretell_is_refused(runs: Path, words: tuple[str, ...], reason: str) -> None:
    words = tuple(str(runs / word) if word == "other" else word for word in words)
    code, out, told = say("generate", str(runs / "large"), PROMPTS[0], *words)
    assert (code, out) == (2, "")
    assert reason in told
    assert len(told.strip().splitlines()) == 1
