"""The page of the studies that come with the project: each has a section, and tables say what the kept trials say."""

import csv
import importlib
import importlib.util
import re
from collections.abc import Mapping
from types import ModuleType

import pytest

from tests.places import ROOT
from train.config import list_studies
from train.variants import BASELINE

KEPT = sorted((ROOT / "docs" / "_static" / "studies").glob("*.csv"))


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_losses(name: str) -> Mapping[str, list[float]]:
    losses: dict[str, list[float]] = {}
    with (ROOT / "docs" / "_static" / "studies" / f"{name}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            losses.setdefault(row["variant"], []).append(float(row["loss"]))
    return losses


def test_every_study_has_a_section_with_its_command(generated: ModuleType) -> None:
    page = generated.expand((ROOT / "docs" / "studies.md").read_text(encoding="utf-8"))
    assert re.findall(r"^## (\w+)$", page, flags=re.MULTILINE) == list_studies()
    assert all(re.search(rf"^morphax (compare|scale) {name}$", page, flags=re.MULTILINE) for name in list_studies())
    assert page.count("```{raw} html") == len(KEPT)
    assert "{studies}" not in page


@pytest.mark.parametrize("name", [path.stem for path in KEPT])
def test_a_figure_has_every_variant_and_the_table_is_of_its_trials(generated: ModuleType, name: str) -> None:
    study, losses = importlib.import_module(f"configs.{name}"), read_losses(name)
    assert set(losses) == {BASELINE, *study.study().variants}
    (shown,) = generated.figures(name)
    assert all(f">{variant}</text>" in shown for variant in study.study().variants)
    rows = re.findall(r"^\| (\w+) +\|[^|]+\| ([\d.]+) +\|[^|]+\| (\d+) ", study.__doc__ or "", flags=re.MULTILINE)
    assert {variant: (float(loss), int(seeds)) for variant, loss, seeds in rows} == {
        variant: (pytest.approx(sum(values) / len(values), abs=1e-4), len(values)) for variant, values in losses.items()
    }
