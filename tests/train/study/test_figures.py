"""Figures of a comparison: axes, bands, fronts, confidence sequences, and the files of the page."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from train.charts import Plot
from train.cost.value import Cost
from train.study.compare import Entry, Result
from train.study.curves import compute_band
from train.study.figures import (
    describe_band,
    draw_curves,
    draw_fronts,
    draw_sequence,
    find_front,
    has_intervals,
)
from train.study.page import write_page
from train.study.records import to_latex
from train.study.verdict import judge
from train.study.words import describe, find_speed, make_columns, make_rows, record
from train.variants import BASELINE, Study

STUDY = Study("tiny_lm", variants={"wide": ("x=1",)}, smallest=0.01)


def make_result(name: str, loss: float, seeds: int, cost: Cost, **more: float) -> Result:
    """A result whose curves fall to the loss, each seed a hundredth above the one before."""
    losses = tuple(loss + 0.01 * seed for seed in range(seeds))
    curves = tuple(tuple((step, last + 10 / step) for step in (10, 20, 40)) for last in losses)
    mean = tuple((step, float(np.mean(losses)) + 10 / step) for step in (10, 20, 40))
    result = Result(
        Entry(name, (), cost=cost, tokens=64), None, float(np.mean(losses)), curve=mean, losses=losses, curves=curves
    )
    return dataclasses.replace(result, parameters=1.0, flops=1.0, seconds=1.0, step_seconds=0.5, **more)


BASE = make_result(BASELINE, 2.0, 5, Cost(1000, 100))
SMALL = dataclasses.replace(
    make_result("wide", 1.9, 5, Cost(1000, 50)),
    verdict=judge({"wide": [-0.1, -0.11, -0.09, -0.1, -0.1]})["wide"],
    differences=(-0.1, -0.11, -0.09, -0.1, -0.1),
    share=(-0.05, -0.06, -0.04),
    flops=0.5,
    seconds=0.8,
    compute=0.5,
)


def test_losses_are_drawn_over_tokens_flops_and_seconds_in_bands() -> None:
    plots = draw_curves([BASE, SMALL])
    assert list(plots) == ["tokens", "training FLOPs", "seconds of training"]
    line = plots["training FLOPs"].series[3]
    assert line.name == "wide"
    assert [x for x, _ in line.points] == [500.0, 1000.0, 2000.0]
    assert plots["tokens"].series[1].points[-1] == (40 * 64, pytest.approx(2.02 + 0.25))
    assert plots["seconds of training"].series[0].look == "band"
    unknown = dataclasses.replace(BASE, step_seconds=math.nan, entry=dataclasses.replace(BASE.entry, tokens=0))
    assert list(draw_curves([unknown, SMALL])) == ["steps", "training FLOPs"]


def test_the_band_is_the_t_interval_or_the_range_and_says_so() -> None:
    step, low, high = compute_band(BASE.curves, is_interval=True)[-1]
    values = [curve[-1][1] for curve in BASE.curves]
    expected = scipy.stats.t.interval(0.95, 4, np.mean(values), scipy.stats.sem(values))
    assert (step, low, high) == pytest.approx((40, *expected))
    assert compute_band(BASE.curves, is_interval=False)[-1] == (40, min(values), max(values))
    few = make_result("few", 1.0, 2, Cost(1, 1))
    assert has_intervals([BASE])
    assert not has_intervals([BASE, few])
    assert describe_band([BASE, SMALL]) == "Mean over 5 seeds; band: 95 % t interval of the mean"
    assert describe_band([BASE, few]) == "Mean over 2 to 5 seeds; band: lowest to highest seed"
    assert compute_band([((1, math.inf),), ((1, 1.0),)], is_interval=True) == []


def test_the_front_is_what_no_other_has_for_less_and_is_left_out_for_equal_costs() -> None:
    assert list(find_front([(3, 1.0), (1, 2.0), (2, 2.5), (4, 1.0)])) == [(1, 2.0), (3, 1.0)]
    plots = draw_fronts([BASE, SMALL])
    assert list(plots) == ["training FLOPs"], "parameters and seconds are equal"
    front = plots["training FLOPs"].series[-1]
    assert (front.name, front.points) == ("front", ((2000.0, SMALL.loss), (4000.0, SMALL.loss)))
    assert draw_fronts([BASE]) == {}
    saving = [dataclasses.replace(BASE, memory=2e6), dataclasses.replace(SMALL, memory=1e6)]
    assert "bytes of a step" in draw_fronts(saving)


def test_memory_is_a_column_where_all_that_were_trained_have_it() -> None:
    assert "memory" not in make_columns([dataclasses.replace(BASE, memory=2e6), SMALL])
    saving = [dataclasses.replace(BASE, memory=2e6), dataclasses.replace(SMALL, memory=1e6)]
    place = make_columns(saving).index("memory")
    assert [row[place] for row in make_rows(saving)] == ["1.000", "0.500"]
    assert record(saving[1])["memory"] == 1e6


def test_a_confidence_sequence_is_drawn_in_percent_without_its_first_very_wide_intervals() -> None:
    x = np.random.default_rng(0).normal(0.1, 0.02, 12).tolist()
    plot = draw_sequence(x, 2.0, 0.05, 0.01)
    assert isinstance(plot, Plot)
    band = next(series for series in plot.series if series.name == "confidence sequence").points
    assert band[-1][0] == 12
    assert band[-1][1] < 100 * np.mean(x) / 2 < band[-1][2]
    assert max(high - low for _, low, high in band) <= 8 * (band[-1][2] - band[-1][1])
    assert plot.series[0].points[0][1:] == (-1.0, 1.0)
    assert draw_sequence([0.1], 2.0, 0.05) is None


def test_the_speed_up_counts_the_flops_and_the_time_of_a_step() -> None:
    assert find_speed(SMALL) == pytest.approx((1 / (0.5 * 0.5), 1 / (0.5 * 0.8)))
    assert "for the same loss 4.00 times less compute and 2.50 times less time;" in describe(SMALL)
    slow = dataclasses.replace(SMALL, seconds=4.0)
    assert "4.00 times less compute and 2.00 times more time;" in describe(slow)
    elsewhere = dataclasses.replace(SMALL, step_seconds=math.nan)
    assert "for the same loss 4.00 times less compute;" in describe(elsewhere)
    assert record(elsewhere)["speed_up"] == [pytest.approx(4.0), None]
    assert SMALL.verdict is not None
    worse = dataclasses.replace(
        SMALL, share=(0.05, 0.04, 0.06), verdict=dataclasses.replace(SMALL.verdict, word="worse")
    )
    assert find_speed(worse) == pytest.approx((0.5 / 0.5, 0.8 / 0.5))
    assert "1.00 times more compute and 1.60 times more time;" in describe(worse)


@pytest.mark.slow
def test_the_page_and_the_files_are_of_the_same_figures(tmp_path: Path) -> None:
    write_page(tmp_path, STUDY, [BASE, dataclasses.replace(SMALL, pilot=(-0.05, -0.055, -0.045))])
    page = (tmp_path / "report.html").read_text()
    names = sorted(path.stem for path in (tmp_path / "figures").glob("*.pdf"))
    assert names == [
        "difference_of_wide",
        "front_over_training_flops",
        "loss_over_seconds_of_training",
        "loss_over_tokens",
        "loss_over_training_flops",
    ]
    assert len(re.findall("<svg", page)) == len(names)
    assert "There is no front over parameters, which are equal within 2%." in page
    assert "a difference of 1% of the loss would be found within about " in page
    first, second = json.loads((tmp_path / "summary.json").read_text())
    assert second["speed_up"] == [4.0, 2.5]
    assert "plans" not in first
    plans = second["plans"]
    assert plans["pilot"]["seeds"] == 3
    assert plans["pilot"]["spread"] == pytest.approx(0.005)
    assert f"within about {plans['pilot']['needed']} seeds" in page
    assert plans["all"]["seeds"] == len(SMALL.differences)


def test_a_table_of_latex_escapes_and_aligns() -> None:
    table = to_latex(("variant", "loss"), (("a_b", "2.1"), ("c", "")))
    assert table.splitlines()[1:] == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"variant & loss \\",
        r"\midrule",
        r"a\_b & 2.1 \\",
        r"c &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert r"$-$1\% (a-b)" in to_latex(("x",), (("-1% (a-b)",),))
