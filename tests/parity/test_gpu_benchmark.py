"""The script for a GPU, at toy size on this machine: every part of its page is there."""

import json
from pathlib import Path

import pytest

from tests.benchmarks import gpu


def test_every_part_of_the_page_is_there_at_toy_size(tmp_path: Path) -> None:
    assert gpu.main(["--toy", "--rounds", "1", "--minutes", "60", "--to", str(tmp_path)]) == 0
    (page,) = tmp_path.glob("*.md")
    text = page.read_text(encoding="utf-8")
    assert "toy size: these are no figures" in text
    assert "left out" not in text
    figures = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert len(figures["attention"]) == 2 * len(gpu.FORMS)
    for name in gpu.TOYS:
        facts = figures[f"training, {name}"]["facts"]
        assert facts["morphax"]["parameters"] == facts["torch"]["parameters"]
        assert f"| {name} |" in text
    for name in gpu.TOY_TEXT:
        assert figures[f"decoding, {name}"] > 0


def test_what_the_minutes_do_not_suffice_for_is_named(tmp_path: Path) -> None:
    assert gpu.main(["--toy", "--minutes", "0", "--to", str(tmp_path)]) == 0
    text = next(tmp_path.glob("*.md")).read_text(encoding="utf-8")
    parts = ["attention", "roof", *(f"training, {name}" for name in gpu.TOYS)]
    parts += [f"decoding, {name}" for name in gpu.TOY_TEXT]
    assert all(f"{name}: left out, since the minutes were over." in text for name in parts)


def test_without_a_gpu_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert "give --toy to try it" in capsys.readouterr().err
