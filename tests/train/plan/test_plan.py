"""What `morphax plan` says before it compiles anything; plans themselves are tested where a TPU's compiler is
installed.
"""

import dataclasses
import importlib.util
import json
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from train.cli import main
from train.config import load_config
from train.cost.chips import CHIPS, find_chip
from train.errors import InputError
from train.plan.step import EXCEEDED, TEMPORARIES, Plan, measure_plan, prepare_plan
from train.plan.table import LABEL, format_table, list_figures, record
from train.plan.topology import find_devices, read_topology


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--topology", "v9:1x1"], "'v9:1x1' is no topology; give CHIP:SHAPE with a chip of v2, v3"),
        (["--topology", ",v5e:1x1"], "'' is no topology"),
        (["--topology", "v5e"], "'v5e' is no topology"),
        (["--decode", "--advise"], "--advise finds changes of the training step; leave --decode out."),
        (["--vary", "model.stack.repeat=3"], "repeat"),
        ([], "Compiling for a TPU needs libtpu, which is not installed; run: pip install 'morphax[tpu]'."),
    ],
)
def test_what_cannot_be_planned_is_said_in_a_sentence(
    given: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "libtpu" else find(name, *rest))
    assert main(["plan", "tiny_lm", *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_clocks_of_the_chips_follow_from_their_units() -> None:
    found = {name: round(one.hertz / 1e9, 2) for name, one in CHIPS.items()}
    assert found == {"v2": 0.7, "v3": 0.94, "v4": 1.05, "v5e": 1.5, "v5p": 1.75, "v6e": 1.75, "tpu7x": 2.2}
    half = find_chip("TPU v3")
    assert half is not None
    assert half.flops == CHIPS["v3"].flops / 2
    assert find_chip("cpu") is None


def test_the_compiler_s_two_ways_of_refusing_give_what_was_asked_and_what_there_is() -> None:
    one = EXCEEDED.search(
        "Ran out of memory in memory space hbm. Used 18.52G of 15.75G hbm. Exceeded hbm capacity by 2.77G."
    )
    two = TEMPORARIES.search("the total memory required for HLO temporaries (36.48G) exceeds available HBM (15.75G).")
    assert one is not None
    assert one.groups()[:4] == ("18.52", "G", "15.75", "G")
    assert two is not None
    assert two.groups() == ("36.48", "G", "15.75", "G")


GIB = 2.0**30
GIVEN: dict[str, Any] = {
    "topology": "v5e:1x1",
    "devices": 1,
    "parameters": 7,
    "rows": 2,
    "tokens": 8,
    "model_flops": 9.0,
}
FITS = Plan(
    **GIVEN,
    name="a",
    peak=GIB,
    available=16 * GIB,
    compile_seconds=3.0,
    seconds=0.5,
    kernels={"splash_mha_fwd_residuals": 24},
)
OVER = Plan(**GIVEN, name="b", peak=18 * GIB, available=16 * GIB, compile_seconds=3.0, fits=False)


def test_a_plan_that_does_not_fit_says_by_how_much_and_has_the_same_lines() -> None:
    assert [name for name, _ in list_figures(FITS)] == [name for name, _ in list_figures(OVER)]
    assert [dict(list_figures(FITS))[name] for name in ("memory", "  of", "  too much by")] == [
        "1.00 GiB",
        "16.00 GiB",
        "none",
    ]
    assert [dict(list_figures(OVER))[name] for name in ("memory", "  of", "  too much by")] == [
        "18.00 GiB",
        "16.00 GiB",
        "2.00 GiB",
    ]
    assert dict(list_figures(OVER))["expected step"] == "-"
    assert record(OVER)["seconds"] is record(OVER)["kernels"] is record(OVER)["tokens_per_second"] is None
    assert record(FITS)["seconds"] == 0.5
    assert record(OVER)["peak"] == 18 * GIB
    assert record(OVER)["fits"] is False
    assert FITS.tokens_per_second == 16


def test_six_plans_stand_beside_each_other_in_80_columns_and_what_is_long_has_a_line_of_its_own() -> None:
    names = [f"model.stack.block.mixer=[blue]GatedDeltaNet[/b](heads={heads})" for heads in range(7)]
    plans = [dataclasses.replace(FITS, name=name) for name in names]
    lines = format_table(plans[:6]).splitlines()
    assert lines[:7] == [*(f"{number}  v5e:1x1, {name}" for number, name in enumerate(names[:6], 1)), ""]
    figured = lines[7 : 8 + len(list_figures(FITS))]
    assert max(map(len, figured)) <= 80
    assert [line[:LABEL].rstrip() for line in figured] == ["", *(name for name, _ in list_figures(FITS))]
    assert figured[0].split() == list("123456")
    assert lines[-1] == "kernels of 6: 24 splash_mha_fwd_residuals"
    assert format_table(plans).count("ceiling of MFU") == 2  # the seventh is below
    unknown = format_table([dataclasses.replace(FITS, uncounted=("splash_mha_fwd_residuals",))])
    assert unknown.endswith("kernels of 1: 24 splash_mha_fwd_residuals (not counted)")


class Refusing:
    """A program that the compiler refuses."""

    def __init__(self, said: str) -> None:
        self.said = said

    def __call__(self, *given: Any) -> None: ...

    def lower(self, *given: Any) -> "Refusing":
        """Itself."""
        return self

    def compile(self) -> Any:
        """Raises what it was given."""
        raise RuntimeError(self.said)


class V5e:
    """As jax calls it."""

    platform, process_index = "tpu", 0
    device_kind = "TPU v5 lite"


def test_a_program_that_the_compiler_refuses_is_a_sentence() -> None:
    with pytest.raises(InputError) as caught:
        measure_plan(OVER, Refusing("Mosaic failed to compile TPU kernel: no layout\nThe operation\n"), (), V5e())
    assert str(caught.value) == (
        "b cannot be compiled for v5e:1x1: Mosaic failed to compile TPU kernel: no layout; change what it names, or"
        " the chip."
    )


def test_what_no_plan_is_made_for_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        platform, process_index = "cpu", 0
        device_kind = "cpu"

    with pytest.raises(
        InputError,
        match="^'cpu' is no chip whose speed is known here; plan for one of v2, v3, v4, v5e, v5p, v6e, tpu7x.$",
    ):
        measure_plan(OVER, Refusing(""), (), Other())

    def unknown(**given: Any) -> Any:
        raise ValueError("Not divisible.\nTrace")

    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: name)
    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", unknown)
    with pytest.raises(
        InputError, match="^libtpu knows no topology v5e:3x5: Not divisible; give another shape, such as v5e:2x2x1.$"
    ):
        find_devices("v5e:3x5")
    monkeypatch.setattr("train.plan.step.find_devices", lambda name: [])
    experiment, _ = load_config("tiny_lm", ["parallel=Mesh()"])
    with pytest.raises(InputError, match=r"^--decode plans one device, and parallel is Mesh; add parallel=Jit\(\).$"):
        prepare_plan(experiment, "a", "v5e:2x4", decode=True)


def test_what_every_device_has_of_the_arrays_is_added_to_the_temporaries() -> None:
    mesh = jax.sharding.AbstractMesh((8,), ("data",))
    whole, split = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in ((), ("data",)))
    given = tuple(jax.ShapeDtypeStruct((8, 2**25), jnp.float32, sharding=place) for place in (whole, split))
    said = "the total memory required for HLO temporaries (36.00G) exceeds available HBM (15.75G)."
    plan = measure_plan(dataclasses.replace(OVER, devices=8), Refusing(said), given, V5e())
    assert (plan.fits, plan.peak / GIB, plan.available / GIB) == (False, 36 + 1 + 1 / 8, 15.75)


@pytest.mark.parametrize("json_too", [False, True])
def test_the_other_columns_go_on_where_one_cannot_be_compiled(
    json_too: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepared(experiment: Any, name: str, where: str, decode: bool) -> Any:
        def compiled() -> Plan:
            return (
                measure_plan(dataclasses.replace(OVER, name=name), Refusing("no eig\nhere"), (), V5e())
                if name != "as it is"
                else FITS
            )

        return compiled

    monkeypatch.setattr("train.plan.step.prepare_plan", prepared)
    monkeypatch.setattr("train.plan.topology.find_devices", lambda name: [])
    reason = "steps=3 cannot be compiled for v5e:1x1: no eig; change what it names, or the chip."
    assert main(["plan", "tiny_lm", "--vary", "steps=3", "--vary", "steps=4", *["--json"] * json_too]) == 0
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    if json_too:
        found = json.loads(out)
        assert [plan["name"] for plan in found["plans"]] == ["a"]
        assert found["refused"][0] == {"name": "steps=3", "topology": "v5e:1x1", "reason": reason}
    else:
        assert out.startswith("1  v5e:1x1, a\n")
        assert reason in out.splitlines()
    monkeypatch.setattr("train.plan.step.prepare_plan", lambda *given: prepared(given[0], "steps=3", *given[2:]))
    assert main(["plan", "tiny_lm"]) == 2
    assert capsys.readouterr().err.endswith(f"morphax: {reason}\n")


def test_a_count_of_chips_is_a_topology() -> None:
    names = {"v5e-1": "v5e:1x1", "v5litepod-8": "v5e:2x4", "v6e-32": "v6e:4x8", "v5p:2x2x1": "v5p:2x2x1"}
    assert {name: read_topology(name) for name in names} == names
    for name in ("v5e-3", "v4-8", "v5e-"):  # v4 counts cores
        with pytest.raises(InputError, match=f"'{name}' is no topology"):
            read_topology(name)
