"""The ladder of advice, and how it is climbed, with a compiler that is told what fits."""

from collections.abc import Callable
from typing import Any

import pytest

from models.depth.remat import ORDER, POLICIES, keeps_less
from models.structure import part, replace
from train.config import load_config
from train.errors import InputError
from train.experiment import Experiment
from train.objectives import Classification
from train.parallel import Mesh, Pmap
from train.plan.advice import advise, propose_changes
from train.plan.step import Plan


def test_the_ladder_begins_with_what_changes_no_number_and_asks_for_no_policy_twice() -> None:
    experiment, _ = load_config("tiny_lm", [])
    rungs = [*propose_changes(experiment, 1)]
    assert rungs[0] == {"model.head.chunk": "1024"}
    assert [rung.get("model.stack.remat") for rung in rungs[1:4]] == ["context", "dots", "full"]
    assert all("optimizer.momentum" not in rung and "batch_size" not in rung for rung in rungs[:5])
    assert rungs[-1]["batch_size"] == "1"
    assert [rung["accumulate"] for rung in rungs if "accumulate" in rung] == 2 * ["2", "4", "8", "16"]
    odd = [rung for rung in propose_changes(replace(experiment, "batch_size", 25), 1) if "batch_size" in rung]
    assert [rung["batch_size"] for rung in odd] == ["12", "6", "3", "1"]
    whole = propose_changes(replace(experiment, "objective", Classification()), 1)  # which takes whole logits alone
    assert all("model.head.chunk" not in rung for rung in whole)


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        (None, {"context", "dots", "full"}),
        ("everything_saveable", {"context", "dots", "full"}),
        ("dots_saveable", {"context", "dots", "full"}),
        ("context", {"dots", "full"}),
        ("dots", {"full"}),
        ("dots_with_no_batch_dims_saveable", {"full"}),
        ("full", set()),
        ("nothing_saveable", set()),
    ],
)
def test_only_policies_that_keep_less_than_the_own_are_tried(held: str | None, asked: set[str]) -> None:
    experiment = replace(load_config("tiny_lm", [])[0], "model.stack.remat", held)
    rungs = propose_changes(experiment, 1)
    assert {rung["model.stack.remat"] for rung in rungs if "model.stack.remat" in rung} == asked


def test_every_policy_has_its_place_in_the_order() -> None:
    assert sorted(name for same in ORDER for name in same if name is not None) == sorted(POLICIES)
    assert len({POLICIES[name] for name in ORDER[3] if name is not None}) == 1
    assert not keeps_less("context", "context")


def test_each_stack_of_a_translator_has_its_own_policies() -> None:
    experiment, _ = load_config("translate_numbers", ["model.encoder.remat=dots"])
    asked = [
        {name: value for name, value in rung.items() if "remat" in name} for rung in propose_changes(experiment, 1)
    ]
    both = {"model.encoder.remat": "full", "model.decoder.remat": "full"}
    assert [one for one in asked if one][:3] == [
        {"model.decoder.remat": "context"},
        {"model.decoder.remat": "dots"},
        both,
    ]


def test_whatever_is_not_spread_over_all_chips_is_spread() -> None:
    experiment, _ = load_config("tiny_lm", [])
    for parallel in (part(experiment, "parallel"), Mesh(data=8), Mesh(fsdp=2), Pmap()):
        assert {rung.get("parallel") for rung in propose_changes(replace(experiment, "parallel", parallel), 8)} == {
            None,
            "Mesh(fsdp=8)",
        }
    for devices, parallel in ((8, Mesh(fsdp=8)), (1, part(experiment, "parallel"))):
        assert {
            rung.get("parallel") for rung in propose_changes(replace(experiment, "parallel", parallel), devices)
        } == {None}


def test_a_batch_in_parts_is_made_whole_again_where_it_gets_smaller_and_else_nothing_is_said_of_it() -> None:
    experiment, _ = load_config("tiny_lm", [])
    for accumulate, said in ((1, {None}), (2, {"1"})):
        rungs = propose_changes(replace(experiment, "accumulate", accumulate), 1)
        assert {rung.get("accumulate") for rung in rungs if "batch_size" in rung} == said


Climb = Callable[[list[str], Callable[[Experiment], bool]], tuple[tuple[str, ...] | None, list[str]]]


@pytest.fixture
def climbed(monkeypatch: pytest.MonkeyPatch) -> Climb:
    """Advice for tiny_lm with settings, and each try that was made, by a compiler for which a step fits where a
    function says so.
    """

    def climb(settings: list[str], fitting: Callable[[Experiment], bool]) -> tuple[tuple[str, ...] | None, list[str]]:
        tries: list[str] = []

        def planned(experiment: Experiment, name: str, where: str) -> Plan:
            tries.append(name)
            fits = fitting(experiment)
            return Plan(name, where, 1, 1, 1, 1, 1.0, peak=1.0, available=1.0, compile_seconds=0.0, fits=fits)

        monkeypatch.setattr("train.plan.advice.plan_step", planned)
        monkeypatch.setattr("train.plan.advice.find_devices", lambda where: [0])
        found = advise(load_config("tiny_lm", settings)[0], "v5e:1x1")
        return found and found.changes, tries

    return climb


FULL = ["model.stack.remat=full", "model.head.chunk=64", "optimizer.momentum=bfloat16", "batch_size=100"]


def test_the_largest_batch_that_fits_is_looked_for_between_two_of_which_one_does(climbed: Climb) -> None:
    changes, tries = climbed(FULL, lambda experiment: experiment.batch_size <= 45 and experiment.accumulate == 1)
    assert changes == ("batch_size=43",)
    assert tries == ["accumulate=2", "accumulate=4", *(f"batch_size={rows}" for rows in (50, 25, 37, 43, 46))]


def test_what_is_refused_is_on_no_later_rung(climbed: Climb) -> None:
    def fitting(experiment: Any) -> bool:
        if experiment.model.head.chunk is not None:
            raise InputError("This objective needs all logits; set model.head.chunk=None.")
        return experiment.model.stack.remat == "full"

    changes, tries = climbed([], fitting)
    assert changes == ("model.stack.remat=full",)
    assert tries == [
        "model.head.chunk=1024",
        *(f"model.stack.remat={policy}" for policy in ("context", "dots", "full")),
    ]


def test_nothing_is_advised_where_all_is_too_much_and_no_try_is_made_twice(climbed: Climb) -> None:
    def fitting(experiment: Any) -> bool:
        if experiment.optimizer.momentum == "bfloat16":  # without which later rungs are those before
            raise InputError("No such moment.")
        return False

    changes, tries = climbed([], fitting)
    assert changes is None
    assert len(tries) == len(set(tries))
