"""Ladders: sizes, tokens in proportion, the fits over them, and that one that was stopped goes on."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.places import CONFIGS
from train.cli import main
from train.commands.scale import read_multiples
from train.errors import InputError
from train.study.ladder import climb, collect_runs, describe_trend, find_trends, plan_ladder, record_ladder
from train.study.ladder_page import draw_laws, draw_sizes, make_rows, write_ladder_page
from train.study.trial import Outcome, Unit
from train.variants import BASELINE, Study

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
STUDY = Study(
    LANGUAGE_MODEL,
    overrides=("steps=40",),
    variants={"steep": ("model.stack.block.feedforward.activation=relu",)},
    budget="none",
    seeds=2,
)


@pytest.fixture(autouse=True)
def _inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)


def find_steps(unit: Unit) -> int:
    return int(next(text for text in reversed(unit.overrides) if text.startswith("steps=")).partition("=")[2])


def make(units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome]]:
    """Trials whose loss falls with the steps, faster for the variant, with a little noise."""
    for unit in units:
        steps = find_steps(unit)
        exponent, factor = (0.5, 2.5) if unit.variant == "steep" else (0.3, 1.8)
        noise = float(np.random.default_rng([unit.seed, steps, len(unit.variant)]).normal(0, 1e-4))
        yield unit, Outcome(1.0 + factor * (steps / 40) ** -exponent + noise, ((1, 3.0), (2, 2.0)), 1.0)


@pytest.mark.slow
def test_a_size_multiplies_width_and_depth_and_tokens_follow_the_parameters() -> None:
    rungs = plan_ladder(STUDY, [2, 1], [1.0, 0.5])
    assert [(rung.size, rung.multiple) for rung in rungs] == [(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0)]
    assert [rung.width for rung in rungs] == [16, 16, 32, 32]
    assert [rung.steps for rung in rungs[:2]] == [20, 40]
    assert rungs[3].steps == pytest.approx(2 * rungs[2].steps, abs=1)
    assert rungs[3].steps > 80, "a model of twice the width and depth has more than twice the parameters"
    assert rungs[3].tokens / rungs[3].steps == rungs[0].tokens / rungs[0].steps
    for text in ("model.parametrization=mup", "model.base_width=16", "model.embed.width=32"):
        assert text in rungs[3].study.overrides
    plain = plan_ladder(STUDY, [1], parametrization="standard")[0]
    assert not any("mup" in text for text in plain.study.overrides)
    with pytest.raises(InputError, match="1 and 1.01 are the same structure of width 16; give sizes further apart"):
        plan_ladder(STUDY, [1, 1.01])


@pytest.mark.slow
def test_laws_are_fitted_over_sizes_and_a_ladder_that_was_stopped_goes_on(tmp_path: Path) -> None:
    rungs = plan_ladder(STUDY, [1, 2, 3, 4])
    made: list[Unit] = []

    def counted(units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome]]:
        for pair in make(units):
            made.append(pair[0])
            yield pair

    points = climb(rungs[:2], tmp_path, counted)
    assert find_trends(collect_runs(points)) == []
    shares: list[float] = []
    points = climb(rungs, tmp_path, counted, lambda rung, results, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert len({(unit.overrides, unit.seed, unit.variant) for unit in made}) == len(made) == 2 * 2 * 4
    trends = {trend.name: trend for trend in find_trends(collect_runs(points))}
    assert trends["steep"].law.exponents[0] > trends[BASELINE].law.exponents[0]
    crossing = trends["steep"].crossing
    assert crossing is not None
    # 2.5 s^-0.5 = 1.8 s^-0.3 at s = 5.2 times the steps of size 1
    flops = sorted(point.flops for point in points if point.name == BASELINE)
    assert flops[0] < crossing[0] < flops[-1]
    assert "it crosses the baseline at" in describe_trend(trends["steep"])
    assert all(trend.reach <= flops[-1] * flops[-1] / flops[0] * 1.001 for trend in trends.values())
    write_ladder_page(tmp_path, STUDY, points, list(trends.values()))
    page = (tmp_path / "report.html").read_text()
    assert "it crosses the baseline at" in page
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(
        json.dumps(record_ladder(points, list(trends.values())))
    )
    assert len(make_rows(points)) == 8
    drawn = draw_laws(collect_runs(points), list(trends.values()))
    (span,) = [series.points for series in drawn.series if series.name == "steep crosses"]
    assert 10 ** span[0][0] == pytest.approx(crossing[1])
    assert 10 ** span[1][0] == pytest.approx(crossing[2])
    assert (tmp_path / "figures" / "loss_over_compute.pdf").is_file()
    assert (tmp_path / "table.tex").is_file()
    head, *lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert head == "variant,flops,parameters,tokens,loss"
    assert len(lines) == 16


@pytest.mark.slow
def test_parameters_and_tokens_that_both_vary_give_the_form_of_both(tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, variants={"same": ("seed=1",)})
    points = climb(plan_ladder(study, [1, 2, 3], [0.5, 1.0, 2.0]), tmp_path, make)
    sizes = find_trends(collect_runs(points))[0].sizes
    assert sizes is not None
    assert len(sizes.exponents) == 2
    trends = find_trends(collect_runs(points))
    assert "FLOPs best at" in describe_trend(trends[0])
    write_ladder_page(tmp_path, study, points, trends)
    page = (tmp_path / "report.html").read_text()
    assert "baseline: a parabola through losses of all sizes at " in page
    assert (tmp_path / "figures" / "loss_over_parameters_baseline.pdf").is_file()
    plot = draw_sizes(points, trends[0])
    assert plot is not None
    curves = [series.points for series in plot.series if series.name.endswith("FLOPs")]
    best = [point for series in plot.series if series.name == "least loss" for point in series.points]
    lows = [min(loss for _, loss in curve) for curve in curves if curve]
    assert all(any(0 <= low - loss < 0.01 for low in lows) for _, loss in best)
    assert len(curves) == 4


def test_multiples_are_read_and_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert read_multiples("--sizes", "1/2, 1,2.5") == [0.5, 1, 2.5]
    for text in ("", "a", "0", "1,1", "1/0", "-1"):
        with pytest.raises(InputError, match="give multiples above 0, such as 1/2,1,2"):
            read_multiples("--sizes", text)
    assert main(["scale", LANGUAGE_MODEL, "--sizes", "x"]) == 2
    assert "--sizes is 'x'" in capsys.readouterr().err
