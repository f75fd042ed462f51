"""The training step of every shipped config, at its own shapes, compiled for the chips of Colab, where it must fit."""

import math
from collections.abc import Callable
from typing import Any

import jax
import pytest

from tests.tpu.conftest import TOPOLOGIES
from train.config import list_configs, load_config
from train.cost.traced import count_flops
from train.engine.prepared import prepare
from train.experiment import Experiment
from train.plan.step import Plan, plan_step

COUNTED = (  # traced on a CPU: where rows are short the TPU's program has the same products
    "drive_decision",
    "drive_highway",
    "images_vit",
    "lm_shakespeare",
    "recall",
    "selective_copy",
    "tiny_lm",
    "traffic_occupancy",
    "traffic_weather",
    "translate_numbers",
)

SMALLER = {"translate_multi30k": ("data.tokenizer=bpe:300",)}  # the vocabulary that a stand-in's few words give


@pytest.mark.parametrize("where", TOPOLOGIES)
@pytest.mark.parametrize("name", list_configs())
def test_a_config_compiles_and_fits(
    name: str,
    where: str,
    record_property: Callable[[str, Any], None],
    monkeypatch: pytest.MonkeyPatch,
    standins: None,
) -> None:
    del standins  # sets that no package ships: a program knows their shapes alone
    programs, compile_it = list[Any](), jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered,
        "compile",
        lambda lowered, *given: programs.append(compile_it(lowered, *given)) or programs[-1],
    )
    # as Colab is used, and as it is
    settings = [*SMALLER.get(name, ()), *(["precision=bfloat16"] if where == TOPOLOGIES[0] else [])]
    experiment, _ = load_config(name, settings)
    plan = plan_step(experiment, name, where)
    record_property("seconds", plan.compile_seconds)
    record_property("name", f"{where} {name}")
    record_property("mib", plan.peak / 2**20)
    record_property("kilocycles", plan.cycles / 1000)
    assert plan.fits
    assert plan.cycles > 0
    if name == "lm_tpu" and where == TOPOLOGIES[0]:
        assert plan.ceiling > 0.6  # compiled at full effort
    if name in COUNTED and where == TOPOLOGIES[0]:
        the_plan_is_what_the_program_the_traced_step_and_its_arrays_have(plan, programs[-1], experiment)


def the_plan_is_what_the_program_the_traced_step_and_its_arrays_have(
    plan: Plan, program: Any, experiment: Experiment
) -> None:
    memory, (state, _) = program.memory_analysis(), program.args_info[0]
    assert plan.parameters == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    assert (plan.arguments, plan.temporaries) == (memory.argument_size_in_bytes, memory.temp_size_in_bytes)
    assert (
        plan.arguments
        <= plan.peak
        <= plan.arguments + plan.temporaries + memory.output_size_in_bytes - memory.alias_size_in_bytes
    )
    prepared = prepare(experiment, experiment.data.open(only="train"))
    given = (prepared.state, prepared.batch)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(given))
    traced = count_flops(prepared.pure_step, *given)
    assert plan.flops == pytest.approx(traced, rel=0.02)  # the compiler drops what nothing reads
    # and pads arrays to its tiles, of 128 columns
    assert held <= plan.arguments <= 2 * held + 4096 * len(jax.tree.leaves(given))
    assert plan.arguments <= plan.peak <= plan.available
