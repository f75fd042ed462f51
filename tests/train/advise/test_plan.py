"""Prices of a recommended model on a device that is not there, by a compiler that is told what it takes."""

import dataclasses

import numpy as np
import pytest

from train.advise.advice import choose
from train.advise.measured import Deal, Measured
from train.advise.plan import describe_plan
from train.advise.problem import Problem
from train.advise.terms import MODEL
from train.plan.step import Plan

PROBLEM = Problem("language", "x.txt", "tiny_lm", (), "loss", False, ())
PLAN = Plan("x", "v5e:2x4", 8, 100, 16, 1024, 1e9, 0.0, 2.0**34, 1.0)


def test_price_is_that_of_all_chips_for_the_time_of_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dataclasses.replace(PLAN, arguments=2.0**20, temporaries=2.0**20, seconds=0.009)
    monkeypatch.setattr("train.advise.plan.plan_step", lambda experiment, name, where: plan)
    name = "4 layers of width 128"
    trial = Measured(name, "from scratch", np.arange(20.0), 1.0, 0.1, "", MODEL, steps=100_000)
    said = describe_plan(choose(PROBLEM, Deal(20), [trial]), "v5e:2x4")
    # 100,000 steps of 9 ms are a quarter of an hour, of 8 chips at 1.2 dollars an hour
    assert "takes 2 MiB and at least 9 ms a step: 15:00 for its 100000 steps" in said
    assert "At 1.2 dollars an hour of a chip (a list price of 2025; --price gives today's) that is 2.40 dollars" in said
    assert "of training, and 1.50 dollars for a million" in said
    other = describe_plan(choose(PROBLEM, Deal(20), [trial]), "v5e:2x4", price=2.4)
    assert "that is 4.80 dollars of training" in other
    assert "give --price" in describe_plan(choose(PROBLEM, Deal(20), [trial]), "v2:1x1")


def test_a_model_that_does_not_fit_and_no_model_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dataclasses.replace(PLAN, fits=False, peak=2.0**35)
    monkeypatch.setattr("train.advise.plan.plan_step", lambda experiment, name, where: plan)
    trial = Measured("4 layers of width 256", "from scratch", np.arange(20.0), 1.0, 0.1, "", MODEL, steps=10)
    assert "does not fit v5e:1x1: it takes 32.00 GiB, of which it has 16.00." in describe_plan(
        choose(PROBLEM, Deal(20), [trial]), "v5e:1x1"
    )
    grams = Measured("3-grams", "simple", np.arange(20.0), 1.0, 0.1, "", MODEL)
    assert "No model was tried" in describe_plan(choose(PROBLEM, Deal(20), [grams]), "v5e:1x1")
