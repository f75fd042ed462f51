"""Model cards: Hugging Face's library reads them, and their numbers are those of the run."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData

from train.cli import main


def test_a_card_has_the_schema_and_the_numbers(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit = {"examples": 2, "tests": 0, "found": [], "all": {"accuracy": {}}, "groups": []}
    level = {"value": 0.5, "interval": 0.1, "count": 2}
    audit["groups"] = [
        {"columns": ["sex"], "group": "f", "examples": 2, "small": True, "measures": {"accuracy": level}}
    ]
    Path("run/bias.json").write_text(json.dumps(audit))
    summary = json.loads(Path("run/summary.json").read_text())
    summary |= {"examples_per_second": 10.0, "privacy": {"epsilon": 3.0, "delta": 1e-5}}
    Path("run/summary.json").write_text(json.dumps(summary))
    assert main(["card", "run", "--licence", "apache-2.0", "--watts", "90"]) == 0
    text = Path("run/model_card.md").read_text(encoding="utf-8")
    data = ModelCard(text).data
    assert isinstance(data, ModelCardData)
    assert (data.license, data.pipeline_tag) == ("apache-2.0", "text-classification")
    found = {result.metric_type: result.metric_value for result in data.eval_results or []}
    assert found == {name: both["value"] for name, both in summary["evaluation"].items()}
    assert "| sex | f | 2 | 0.5000 ± 0.1000 (too few to say) |" in text
    assert "epsilon 3, delta 1e-05" in text
    seconds = summary["steps"] * 4 / 10
    assert f"About {seconds * 90 / 3.6e6:.2g} kWh" in text
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    wanted = ["Data", "Metrics", "Groups", "Privacy", "Limits", "Energy and time", "Licence"]
    assert [name for name in headings if name in wanted] == wanted
    capsys.readouterr()
    Path("run/summary.json").unlink()
    for words, sentence in (([], "finish the run first"), (["--watts", "-1"], "give a power above 0")):
        assert main(["card", "run", *words]) == 2
        assert sentence in capsys.readouterr().err
