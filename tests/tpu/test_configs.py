"""The training step of every shipped config, at its own shapes, compiled for the chips of Colab, where it must fit."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.tpu.conftest import TOPOLOGIES
from train.run import config_names, load_config
from train.study.plan import planned


@pytest.mark.parametrize("where", TOPOLOGIES)
@pytest.mark.parametrize("name", config_names())
def test_a_config_compiles_and_fits(name: str, where: str, record_property: Callable[[str, Any], None]) -> None:
    experiment, _ = load_config(name, ["precision=bfloat16"])
    plan = planned(experiment, name, where)
    record_property("seconds", plan.compile_seconds)
    record_property("name", f"{where} {name}")
    record_property("mib", plan.peak / 2**20)
    record_property("kilocycles", plan.cycles / 1000)
    assert plan.fits
    assert plan.cycles > 0
