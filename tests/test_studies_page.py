"""The page of the studies that come with the project: each has a section, and tables say what the kept trials say."""

import csv
import importlib
import importlib.util
import re
from collections.abc import Mapping
from types import ModuleType

import pytest

from tests.places import ROOT
from train.config import list_searches, list_studies
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


def read_trials(name: str) -> Mapping[tuple[str, ...], list[float]]:
    """The losses of the kept trials by variant, and by training FLOPs if there are several sizes."""
    losses: dict[tuple[str, ...], list[float]] = {}
    with (ROOT / "docs" / "_static" / "studies" / f"{name}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            size = (f"{float(row['flops']):.3g}",) if "flops" in row else ()
            losses.setdefault((row["variant"], *size), []).append(float(row["loss"]))
    return losses


def test_every_study_has_a_section_with_its_command(generated: ModuleType) -> None:
    page = generated.expand((ROOT / "docs" / "studies.md").read_text(encoding="utf-8"))
    names = sorted([*list_studies(), *list_searches()])
    assert re.findall(r"^## (\w+)$", page, flags=re.MULTILINE) == names
    assert all(re.search(rf"^morphax (compare|scale|search) {name}$", page, flags=re.MULTILINE) for name in names)
    assert page.count("```{raw} html") == len(KEPT)
    assert "{studies}" not in page


@pytest.mark.parametrize("name", [path.stem for path in KEPT])
def test_a_figure_has_every_variant_and_the_table_is_of_its_trials(generated: ModuleType, name: str) -> None:
    module, trials = importlib.import_module(f"configs.{name}"), read_trials(name)
    cells = re.findall(
        r"^\| (\w+) +\| ([^ |]+) +\| ([\d.]+) +\|[^|]+\| (\d+) ", module.__doc__ or "", flags=re.MULTILINE
    )
    told = {(variant, flops)[: len(next(iter(trials)))]: (loss, count) for variant, flops, loss, count in cells}
    variants = set(module.study().variants) if hasattr(module, "study") else {name for name, *_ in told} - {BASELINE}
    assert {variant for variant, *_ in trials} == {BASELINE, *variants}
    (shown,) = generated.figures(name)
    assert all(f">{variant}</text>" in shown for variant in variants)
    assert {key: (float(loss), int(count)) for key, (loss, count) in told.items()} == {
        key: (pytest.approx(sum(losses) / len(losses), abs=1e-4), len(losses)) for key, losses in trials.items()
    }
