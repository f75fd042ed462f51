"""Probes: each is a study that any structure can be trained on, and the heat map says what was measured."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests.places import CONFIGS
from train.cli import main
from train.config import load_config
from train.engine.prepared import prepare
from train.engine.requirements import settle
from train.errors import InputError
from train.study.probes import PROBES, compute_cell, gather_cells, make_heat_table, plan_probes, run_probes
from train.study.trial import Outcome, Unit
from train.variants import BASELINE, Study

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
STUDY = Study(LANGUAGE_MODEL, variants={"none": ("model.stack.block.mixer.position=none",)}, budget="none", seeds=3)


@pytest.fixture(autouse=True)
def _inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_a_probe_trains_the_structure_of_a_language_model(name: str) -> None:
    study = plan_probes(STUDY, [name], 3)[name]
    experiment, _ = load_config(study.config, list(study.overrides))
    data = experiment.data.open()
    settled, _ = settle(experiment, data)
    prepared = prepare(settled, data)
    assert prepared.steps == 3
    assert 0 < PROBES[name].chance < 1
    state, batch = prepared.begin().state, prepared.parallel.put(prepared.batches[0])
    _, sums = prepared.step(state, batch)
    assert 0 <= float(sums["accuracy"].value / sums["accuracy"].weight) <= 1


def make(units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome]]:
    for unit in units:
        right = 0.9 if unit.variant == BASELINE else 0.5
        yield unit, Outcome(1 - right, ((1, 2.0), (2, 1.0)), 1.0, right + 0.01 * unit.seed)


def test_the_heat_map_has_the_mean_over_seeds_with_its_interval(tmp_path: Path) -> None:
    studies = plan_probes(STUDY, ["copy"], 2)
    results = run_probes(studies, tmp_path, make)
    cells = gather_cells(results)
    cell = cells[BASELINE]["copy"]
    assert (cell.mean, cell.seeds) == (pytest.approx(0.91), 3)
    assert cell.high - cell.mean == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-3)
    assert cells["none"]["copy"].mean == pytest.approx(0.51)
    assert compute_cell(results["copy"][0]) == cell
    assert [str(column.header) for column in make_heat_table(cells).columns] == ["probe", BASELINE, "none", "chance"]


def test_what_cannot_be_asked_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="There is no probe 'x'; there are recall, "):
        plan_probes(STUDY, ["x"], 2)
    assert main(["probe"]) == 2
    assert "No config was given" in capsys.readouterr().err
    assert main(["probe", "--list"]) == 0
    assert "Parity" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_measures_a_structure_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path / "cache"))
    words = ["probe", LANGUAGE_MODEL, "--probes", "parity", "--steps", "4", "--seeds", "2", "--workers", "1", "--json"]
    words += ["--to", str(tmp_path / "probe")]
    assert main(words) == 0
    cells = json.loads(capsys.readouterr().out)
    assert list(cells) == [BASELINE]
    assert cells[BASELINE]["parity"]["seeds"] == 2
    assert "Accuracy by probe" in (tmp_path / "probe" / "report.html").read_text()
