"""What `morphax plan` says before it compiles anything; plans themselves are tested where a TPU's compiler is installed."""

import dataclasses
import importlib.util

import pytest

from train.cli import main
from train.study.chips import CHIPS, chip
from train.study.plan import EXCEEDED, TEMPORARIES, Plan
from train.study.plan_table import lines


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
    half = chip("TPU v3")
    assert half is not None
    assert half.flops == CHIPS["v3"].flops / 2
    assert chip("cpu") is None


def test_the_compiler_s_two_ways_of_refusing_give_what_was_asked_and_what_there_is() -> None:
    one = EXCEEDED.search("Ran out of memory in memory space hbm. Used 18.52G of 15.75G hbm. Exceeded hbm capacity by 2.77G.")
    two = TEMPORARIES.search("the total memory required for HLO temporaries (36.48G) exceeds available HBM (15.75G).")
    assert one is not None
    assert one.groups()[:4] == ("18.52", "G", "15.75", "G")
    assert two is not None
    assert two.groups() == ("36.48", "G", "15.75", "G")


def test_a_plan_that_does_not_fit_says_by_how_much_and_has_the_same_lines() -> None:
    gib = 2.0**30
    given = {"name": "a", "topology": "v5e:1x1", "devices": 1, "parameters": 7, "rows": 2, "tokens": 8, "model_flops": 9.0}
    fits = Plan(**given, peak=gib, available=16 * gib, compile_seconds=3.0, seconds=0.5)
    over = Plan(**given, peak=18 * gib, available=16 * gib, compile_seconds=3.0, fits=False)
    assert [name for name, _ in lines(fits)] == [name for name, _ in lines(over)]
    assert dict(lines(fits))["memory"] == "fits: 1.00 GiB of 16.00 GiB"
    assert dict(lines(over))["memory"] == "too much by 2.00 GiB: 18.00 GiB of 16.00 GiB"
    assert dict(lines(over))["expected step"] == "-"
    assert fits.tokens_per_second == 16
    assert dict(lines(dataclasses.replace(fits, uncounted=("own",))))["  in kernels"] == "0, own not counted"
