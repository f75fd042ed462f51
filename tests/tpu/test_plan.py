"""Plans of several structures and chips, of devices together, of decoding, and advice that compiles."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from models.structure import part, replace
from train.cli import main
from train.config import load_config
from train.cost.chips import find_chip
from train.errors import InputError
from train.parallel import Mesh
from train.plan.advice import advise
from train.plan.step import measure_plan, plan_step
from train.plan.topology import find_devices


def test_structures_stand_side_by_side_on_several_chips(capsys: pytest.CaptureFixture[str]) -> None:
    mixer = "model.stack.block.mixer=GatedLinearAttention(heads=4)"
    command = [
        "plan",
        "tiny_lm",
        "batch_size=8",
        "model.stack.repeats=1",
        "--topology",
        "v5e:1x1,v6e:1x1",
        "--vary",
        mixer,
    ]
    assert main([*command, "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert [(plan["topology"], plan["name"]) for plan in plans] == [
        (where, name) for where in ("v5e:1x1", "v6e:1x1") for name in ("as it is", mixer)
    ]
    assert plans[0]["flops"] == plans[2]["flops"] != plans[1]["flops"] == plans[3]["flops"]
    assert all(plan["tokens_per_second"] == pytest.approx(plan["tokens"] / plan["seconds"]) for plan in plans)
    assert all(plan["seconds"] >= plan["roofline"] > 0 and 0 < plan["ceiling"] < 1 for plan in plans)
    available = [plan["available"] / 2**30 for plan in plans]
    # of 16 and 32, and the rest is the system's
    assert available == pytest.approx([15.75, 15.75, 31.25, 31.25], abs=0.02)


def test_of_structures_of_which_one_cannot_be_none_is_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "tiny_lm", "--vary", "model.stack.block.mixer=Attention(heads=7)"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("morphax: ")
    assert "7" in err


def test_the_products_inside_of_attention_s_kernel_are_counted_as_often_as_the_program_calls_it() -> None:
    experiment, _ = load_config(
        "tiny_lm", ["data.length=512", "precision=bfloat16", "batch_size=2", "model.stack.repeats=2"]
    )
    plan = plan_step(experiment, "splash", "v5e:1x1")
    t, d, layers, rows = 512, 128, 2, 2
    forward, backward = 2 * 2 * rows * t * t * d, 5 * 2 * rows * t * t * d
    assert sum(plan.kernels.values()) == 2 * layers
    assert plan.kernel_flops == layers * (forward + backward)
    shared = plan_step(*meshed(replace(experiment, "batch_size", 8 * rows)), "v5e:2x4")
    assert (shared.kernels, shared.kernel_flops) == (plan.kernels, plan.kernel_flops)
    plain = plan_step(replace(experiment, "model.stack.block.mixer.implementation", "xla"), "plain", "v5e:1x1")
    assert (plain.kernels, plain.kernel_flops, plain.model_flops) == ({}, 0.0, plan.model_flops)


def test_kernels_of_two_shapes_in_one_model_are_each_counted_by_its_own() -> None:
    experiment, _ = load_config(
        "tiny_lm", ["data.length=512", "precision=bfloat16", "batch_size=2", "model.stack.repeats=1"]
    )
    narrow, wide = (replace(part(experiment, "model.stack.block"), "mixer.head_width", width) for width in (32, 64))
    plans = [
        plan_step(replace(experiment, "model.stack.block", blocks), "mixed", "v5e:1x1")
        for blocks in (narrow, wide, [narrow, wide])
    ]
    assert plans[2].kernel_flops == plans[0].kernel_flops + plans[1].kernel_flops == 3 * plans[0].kernel_flops
    assert plans[2].uncounted == ()


@pytest.mark.parametrize(
    ("where", "devices", "kernels"),
    [("v2:1x1", 2, 0), ("v3:1x1", 2, 0), ("v4:1x1x1", 1, 2), ("v5p:1x1x1", 1, 2), ("tpu7x:1x1x1", 2, 2)],
)
def test_every_other_chip_has_plans_with_the_kernels_that_it_can_run(where: str, devices: int, kernels: int) -> None:
    changes = ["data.length=512", "precision=bfloat16", "batch_size=4", "model.stack.repeats=1", "parallel=Pmap()"]
    experiment, _ = load_config("tiny_lm", changes)
    plan, own = plan_step(experiment, where, where), find_chip(find_devices(where)[0].device_kind)
    assert own is not None
    assert (plan.devices, sum(plan.kernels.values()), plan.uncounted) == (devices, kernels, ())
    assert 0.9 < plan.available / own.memory < 1.01
    assert plan.fits
    assert 0 < plan.ceiling < 1
    sent = plan.collectives["all-reduce"][1] if devices > 1 else 0.0
    assert sent == pytest.approx(4 * plan.parameters * 2 * (devices - 1) / devices, rel=0.01)  # gradients in float32


def test_products_that_are_offloaded_are_in_the_host_s_memory() -> None:
    changes = ["data.length=256", "precision=bfloat16", "batch_size=128", "model.stack.scan=true"]
    dots, offloaded = (
        plan_step(load_config("tiny_lm", [*changes, f"model.stack.remat={name}"])[0], name, "v5e:1x1")
        for name in ("dots", "offload")
    )
    assert dots.host == 0
    assert offloaded.host > 0
    assert offloaded.temporaries < dots.temporaries
    assert offloaded.peak < dots.peak


def test_devices_share_the_rows_and_the_plan_names_what_they_say_to_each_other() -> None:
    experiment, _ = load_config("tiny_lm", ["model.stack.repeats=1"])
    alone, shared = plan_step(experiment, "alone", "v5e:2x4"), plan_step(*meshed(experiment), "v5e:2x4")
    assert (alone.devices, shared.devices) == (1, 8)
    assert alone.collectives == {}
    assert shared.collectives["all-reduce"][1] > 0
    assert shared.flops == pytest.approx(alone.flops / 8, rel=0.05)


def meshed(experiment: Any) -> tuple[Any, str]:
    """The experiment over all devices."""
    return replace(experiment, "parallel", Mesh()), "meshed"


def test_what_a_tpu_cannot_do_is_a_sentence() -> None:
    experiment, _ = load_config("tiny_lm", ["batch_size=1"])
    plan, device = plan_step(experiment, "own", "v5e:1x1"), find_devices("v5e:1x1")[0]
    given = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=SingleDeviceSharding(device))
    with pytest.raises(
        InputError, match="^own cannot be compiled for v5e:1x1: .*eig.*; change what it names, or the chip.$"
    ):
        measure_plan(plan, jax.jit(jnp.linalg.eigvals), (given,), device)


def test_a_step_of_decoding_is_planned_for_every_row() -> None:
    experiment, _ = load_config("tiny_lm", [])
    plan = plan_step(experiment, "decoding", "v5e:1x1", decode=True)
    assert plan.tokens == experiment.batch_size
    assert plan.model_flops == pytest.approx(2 * plan.parameters * plan.tokens, rel=0.2)
    assert plan.fits


def test_advice_makes_a_decoder_of_a_billion_parameters_trainable_on_one_chip() -> None:
    wide = [
        "model.embed.vocab=32768",
        "model.embed.width=2048",
        "model.stack.repeats=19",
        "model.stack.block.mixer.heads=16",
    ]
    experiment, _ = load_config(
        "tiny_lm", [*wide, "model.stack.scan=true", "precision=bfloat16", "data.length=1024", "batch_size=7"]
    )
    before, found = plan_step(experiment, "as it is", "v5e:1x1"), advise(experiment, "v5e:1x1")
    assert before.parameters > 1e9
    assert not before.fits
    assert before.peak > before.available
    assert found is not None
    # the least: each was left out, and did not fit
    assert found.changes == ("model.stack.remat=full", "optimizer.momentum=bfloat16")
    assert found.plan.fits
    assert found.plan.peak < found.plan.available


def test_advice_takes_the_fewest_parts_that_fit() -> None:
    experiment, _ = load_config(
        "tiny_lm", ["batch_size=4096", "model.stack.scan=true", "model.stack.remat=full", "model.head.chunk=1024"]
    )
    experiment = replace(experiment, "data.length", 1024)
    assert not plan_step(experiment, "as it is", "v5e:1x1").fits
    found = advise(experiment, "v5e:1x1")
    assert found is not None
    assert found.changes == ("accumulate=4",)  # and 2 was tried before
    assert found.plan.fits
