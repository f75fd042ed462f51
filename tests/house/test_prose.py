"""Docstrings open with a noun phrase or a verb, and planted faults quote lines that exist."""

from pathlib import Path

from tests.house.prose import headless
from tests.house.sizes import ROOT
from tests.planted.faults import FAULTS


def test_docstrings_open_with_a_noun_or_a_verb() -> None:
    assert headless(ROOT, ("models", "train", "configs")) == []


def test_a_docstring_that_opens_headless_is_seen(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text('"""What is in it."""\n\n\ndef f():\n    """Asks what."""\n')
    assert headless(tmp_path, ("models",)) == ["models/__init__.py:1 What is in it."]


def test_planted_faults_quote_text_that_stands_once_in_its_file() -> None:
    texts = {fault.file: (ROOT / fault.file).read_text(encoding="utf-8") for fault in FAULTS}
    assert [(fault.file, fault.old) for fault in FAULTS if texts[fault.file].count(fault.old) != 1] == []
