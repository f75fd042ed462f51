"""The command that searches: what it reads and refuses, its list of edits, and a real search from end to end."""

import argparse
import json
from pathlib import Path

import pytest

from tests.places import CONFIGS
from train.cli import main
from train.commands.search import add, read_search
from train.study.ledger import NAME
from train.variants import Search

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")


@pytest.fixture(autouse=True)
def _inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)


def test_a_config_may_give_a_search_which_the_command_line_changes(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from train.variants import Search\n\n\ndef search():\n"
        "    return Search('tiny_lm', ('steps=9',), candidates=4, population=2, keep=0.5)\n"
    )
    parser = argparse.ArgumentParser()
    add(parser)
    words = [str(file), "batch_size=2", "--rungs", "1/2,1", "--budget", "30min", "--at", "model.head"]
    assert read_search(parser.parse_args(words)) == Search(
        "tiny_lm",
        ("steps=9", "batch_size=2"),
        ("model.head",),
        candidates=4,
        population=2,
        rungs=(0.5, 1.0),
        keep=0.5,
        minutes=30.0,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rungs", "1/2"], "The rungs of a search are (0.5,); give rising shares of the steps that end in 1"),
        (["--candidates", "0"], "A search has 0 candidates, 8 in a generation"),
        (["--keep", "2"], "A search keeps 2.0"),
        (["--most", "1"], "at most 1"),
        (["--at", "data", "--list"], "--at is 'data'; a search edits the model"),
        (["--budget", "soon"], "--budget is 'soon'; give a time"),
    ],
)
def test_a_search_that_cannot_be_is_a_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", LANGUAGE_MODEL, *words]) == 2
    assert said in capsys.readouterr().err


def test_the_edits_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", LANGUAGE_MODEL, "--at", "model.stack.block.feedforward.activation", "--list"]) == 0
    line = "model.stack.block.feedforward.activation=relu | gelu_tanh | silu | squared_relu | elu_plus_one"
    assert capsys.readouterr().out.strip() == line


@pytest.mark.slow
def test_a_real_search_of_two_workers_gives_its_report_and_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path / "cache"))
    words = ["search", LANGUAGE_MODEL, "steps=8", "--candidates", "4", "--population", "2", "--rungs", "1/2,1"]
    words += ["--keep", "1", "--most", "3", "--workers", "2", "--to", str(tmp_path / "search"), "--json"]
    assert main(words) == 0
    summary = json.loads(capsys.readouterr().out)
    entered = [one for one in summary["candidates"] if one["stage"] == "entered"]
    assert len(entered) == 4
    assert all(set(one["losses"]) == {"4 steps", "8 steps"} for one in entered)
    assert all(abs(one["flops"] / 2_555_904 - 1) <= 0.01 for one in entered)
    lines = (tmp_path / "search" / NAME).read_text()
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == summary
    assert (tmp_path / "search" / NAME).read_text() == lines
    page = (tmp_path / "search" / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    for gain in summary["winners"]:
        assert gain["curse"] == pytest.approx(gain["seen"] - gain["confirmed"])
        assert gain["name"] in page
    assert main(["ledger", str(tmp_path / "search")]) == 0
    assert "search" in capsys.readouterr().out
