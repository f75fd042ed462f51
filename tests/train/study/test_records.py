"""Ledgers as tables: studies with their outcomes, trials by variant and by failure, in each form."""

import csv
import io
import json
from pathlib import Path

import pytest

from train.cli import main
from train.study.ledger import Ledger


def write_study(folder: Path) -> None:
    folder.mkdir(parents=True)
    ledger = Ledger(folder)
    ledger.add({"kind": "study", "config": "tiny_lm"})
    for variant, seed, loss, error in (
        ("baseline", 0, 2.0, None),
        ("baseline", 1, 4.0, None),
        ("wide", 0, 1.8, None),
        ("wide", 1, 3.6, None),
        ("broken", 0, None, "ValueError: a | b"),
    ):
        ledger.add(
            {"kind": "trial", "variant": variant, "overrides": ["x=1"], "seed": seed, "part": "verdict", "error": error}
            | {"loss": loss, "curve": [], "seconds": 0.5, "accuracy": None}
        )


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_study_is_a_row_with_what_came_out(capsys: pytest.CaptureFixture[str]) -> None:
    write_study(Path("runs/first"))
    folder = Path("runs/campaign")
    folder.mkdir()
    campaign = Ledger(folder)
    campaign.add({"kind": "campaign", "config": "tiny_lm"})
    campaign.add({"kind": "proposal", "stage": "kept"})
    campaign.add({"kind": "proposal", "stage": "not kept"})
    assert main(["ledger", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == [
        {"study": "runs/campaign", "kind": "campaign", "config": "tiny_lm", "trials": "2", "failed": "0"}
        | {"outcome": "1 kept, 1 not kept"},
        {"study": "runs/first", "kind": "study", "config": "tiny_lm", "trials": "5", "failed": "1"}
        | {"outcome": "wide -10.00% over 2 seeds"},
    ]
    assert main(["ledger"]) == 0
    assert "wide -10.00%" in capsys.readouterr().out


def test_trials_are_chosen_and_written_as_csv_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    write_study(Path("runs/first"))
    write_study(Path("runs/below/second"))
    assert main(["ledger", "--trials", "--variant", "wide", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["study"], row["seed"], row["loss"]) for row in rows] == [
        ("runs/below/second", "0", "1.8"),
        ("runs/below/second", "1", "3.6"),
        ("runs/first", "0", "1.8"),
        ("runs/first", "1", "3.6"),
    ]
    assert main(["ledger", "runs/first", "--trials", "--failed", "--markdown"]) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.startswith("| study | variant |")
    assert "ValueError: a \\| b" in row


def test_what_is_no_study_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger"]) == 2
    assert "There is no folder runs; give the folder of a study" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    assert main(["ledger"]) == 2
    assert "runs holds no study; `morphax compare` makes one" in capsys.readouterr().err
    assert main(["ledger", "--failed"]) == 2
    assert "give --trials too" in capsys.readouterr().err
