"""Comparisons: when seeds are added, what is chosen on which part, what a stopped study keeps, and the words."""

import argparse
import dataclasses
import html
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.places import CONFIGS
from train.cli import main
from train.commands.compare import add, read_grid, read_minutes, read_study, read_variants
from train.config import load_config
from train.cost.value import Cost
from train.engine.prepared import prepare
from train.errors import InputError
from train.study.compare import Comparison, Entry, enter
from train.study.costs import load_cost, prepare_config
from train.study.grouped import Grouped
from train.study.leaks import find_leak
from train.study.ledger import NAME, Ledger
from train.study.match import match
from train.study.page import write_page
from train.study.trial import Outcome, Trainer, Unit, make_trial, measure, restrict
from train.study.words import describe, record
from train.study.workers import Pool, Worker, list_cores
from train.variants import BASELINE, Budget, Study

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
STUDY = Study(LANGUAGE_MODEL, variants={"good": ("seed=0",), "same": ("seed=1",)}, budget="none", most=12)
COST = Cost(1000, 10_000)


@pytest.fixture(autouse=True)
def _inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)


def entered(*names: str) -> list[Entry]:
    return [Entry(name, (f"seed={number}",), cost=COST) for number, name in enumerate((BASELINE, *names))]


def make_by(
    loss: Callable[[Unit], float], made: list[Unit]
) -> Callable[[Sequence[Unit]], Iterable[tuple[Unit, Outcome]]]:
    """Trials whose losses are given by a function; each is noted."""

    def make(units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome]]:
        for unit in units:
            made.append(unit)
            value = loss(unit)
            yield unit, Outcome(value, ((5, value + 1), (10, value)), 1.0)

    return make


def noise(unit: Unit) -> float:
    """Of a seed, which all variants share, and a little of the trial."""
    own = np.random.default_rng([unit.seed, len(unit.variant), ord(unit.variant[0])]).normal(0, 0.01)
    return 2.0 + float(np.random.default_rng(unit.seed).normal(0, 0.2)) + float(own)


def losses(unit: Unit) -> float:
    return noise(unit) - 0.1 * (unit.variant == "good")


def test_seeds_are_added_until_each_variant_is_decided_or_there_are_no_more(tmp_path: Path) -> None:
    made: list[Unit] = []
    results = {
        one.entry.name: one for one in Comparison(STUDY, tmp_path, entered("good", "same")).run(make_by(losses, made))
    }
    good, same = results["good"].verdict, results["same"].verdict
    assert good is not None
    assert same is not None
    assert (good.word, same.word) == ("better", "no difference shown")
    assert good.seeds < same.seeds == 12
    assert {unit.part for unit in made} == {"verdict"}
    assert len({unit.key for unit in made}) == len(made)
    assert describe(results["good"]).startswith("good: better by ")
    assert "would have been seen" in describe(results["same"])
    assert record(results["good"])["verdict"] == "better"
    assert results["good"].share[0] == pytest.approx(good.mean / results[BASELINE].loss, rel=0.05)


def test_no_seed_is_added_once_every_variant_is_decided_and_differences_are_of_seeds_that_both_have(
    tmp_path: Path,
) -> None:
    made: list[Unit] = []
    results = Comparison(STUDY, tmp_path, entered("good")).run(make_by(losses, made))
    verdict = results[1].verdict
    assert verdict is not None
    assert verdict.seeds == len(results[0].losses) < 12
    assert {unit.seed for unit in made} == set(range(verdict.seeds))
    pairs = zip(results[1].losses, results[0].losses, strict=True)
    assert results[1].differences == tuple(loss - other for loss, other in pairs)


def test_a_file_that_changed_since_a_study_began_ends_it_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("x = 1\n")
    study = dataclasses.replace(STUDY, files=(str(file),))
    Comparison(study, tmp_path, entered("good"))
    Comparison(study, tmp_path, entered("good"))
    file.write_text("x = 2\n")
    with pytest.raises(InputError, match="has changed since the study .* name another folder with --to"):
        Comparison(study, tmp_path, entered("good"))


def test_a_worker_that_is_killed_makes_its_trial_once_more(tmp_path: Path) -> None:
    script = (
        "import json, os, pathlib, signal, sys\n"
        "for line in sys.stdin:\n"
        "    mark = pathlib.Path(sys.argv[1]) / str(json.loads(line)['seed'])\n"
        "    if not mark.exists():\n"
        "        mark.touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    print(json.dumps({'loss': 1.0, 'curve': [], 'seconds': 0.1, 'accuracy': 0.5, 'memory': 64}), flush=True)\n"
    )
    units = [Unit("a", "config", (), seed, "verdict") for seed in range(4)]
    broken = "import sys; sys.exit('no such module')"
    with Pool(1, (sys.executable, "-c", broken)) as pool:
        ((_, error),) = pool(units[:1])
    assert error == "its process ended with exit code 1, and its last line was: no such module"
    with Pool(2, (sys.executable, "-c", script, str(tmp_path))) as pool:
        outcomes = dict(pool(units))
    assert [outcomes[unit] for unit in units] == [Outcome(1.0, (), 0.1, 0.5, 64)] * 4


def test_a_study_that_is_stopped_anywhere_goes_on_to_the_same_results(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = Comparison(STUDY, tmp_path / "whole", entered("good", "same"))
    expected = whole.run(make_by(losses, []))
    (tmp_path / "cut").mkdir()
    path = tmp_path / "cut" / NAME
    made: list[Unit] = []

    class KilledError(Exception): ...

    def dying(units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome]]:
        for count, pair in enumerate(make_by(losses, made)(units)):
            if count == 1:
                raise KilledError
            yield pair

    stops = 0
    while True:
        try:
            again = Comparison(STUDY, tmp_path / "cut", entered("good", "same")).run(dying)
            break
        except KilledError:
            stops += 1
            text = path.read_text()
            path.write_text(text + text.splitlines()[-1][:25])  # a line that was being written
    assert stops > 5
    assert again == expected
    assert len(made) - stops == len(Ledger(tmp_path / "whole").lines) - 1, "a finished trial was made again"


def test_another_study_does_not_go_on_in_a_folder(tmp_path: Path) -> None:
    Comparison(STUDY, tmp_path, entered("good", "same"))
    with pytest.raises(InputError, match="holds another study; name another folder with --to"):
        Comparison(dataclasses.replace(STUDY, alpha=0.01), tmp_path, entered("good", "same"))
    Comparison(dataclasses.replace(STUDY, most=30), tmp_path, entered("good", "same"))


def test_settings_are_chosen_for_all_alike_on_seeds_and_examples_of_their_own(tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, grid=("a=1", "a=2"), tuning_seeds=2, seeds=2)
    made: list[Unit] = []

    def loss(unit: Unit) -> float:
        return noise(unit) + (("a=1" in unit.overrides) == (unit.variant == "good"))

    Comparison(study, tmp_path, entered("good", "same")).run(make_by(loss, made))
    tuning = [unit for unit in made if unit.part == "tuning"]
    verdict = [unit for unit in made if unit.part == "verdict"]
    assert len(tuning) == 3 * 2 * 2
    assert {unit.seed for unit in tuning} & {unit.seed for unit in verdict} == set()
    assert {(unit.variant, unit.overrides[-1]) for unit in verdict} == {
        (BASELINE, "a=1"),
        ("good", "a=2"),
        ("same", "a=1"),
    }


def test_a_setting_at_an_end_of_the_grid_is_said_and_all_losses_of_the_tuning_are_in_the_report(tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, grid=("rate=3e-4", "rate=1e-3", "rate=1e-2"), seeds=3)
    best = {BASELINE: "rate=1e-3", "good": "rate=1e-2", "same": "rate=3e-4"}

    def loss(unit: Unit) -> float:
        if unit.part == "tuning" and unit.variant == "same" and unit.overrides[-1] == "rate=1e-2":
            return math.inf
        return noise(unit) + (unit.overrides[-1] != best[unit.variant])

    results = Comparison(study, tmp_path, entered("good", "same")).run(make_by(loss, []))
    assert {result.entry.name: result.tuned.best for result in results if result.tuned is not None} == best
    said = [describe(result) for result in results[1:]]
    assert said[0].endswith("; best at rate=1e-2, the greatest of the grid, so a wider one may change this")
    assert said[1].endswith("; best at rate=3e-4, the least of the grid, so a wider one may change this")
    recorded = record(results[2])["tuned"]
    assert isinstance(recorded, dict)
    assert (recorded["best"], recorded["end_of_grid"]) == ("rate=3e-4", "least")
    means = recorded["losses"]
    assert isinstance(means, dict)
    assert [name for name, value in means.items() if value is None] == ["rate=1e-2"]
    write_page(tmp_path, study, results)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<td>diverged</td>") == 1
    assert page.count("(best)</td>") == 3
    assert "<strong>baseline</strong>" not in page.partition("Tuning")[2]


def test_a_variant_whose_loss_is_not_finite_is_out_and_the_others_go_on(tmp_path: Path) -> None:
    study = dataclasses.replace(STUDY, seeds=3)
    results = Comparison(study, tmp_path, entered("good", "same")).run(
        make_by(lambda unit: math.inf if (unit.variant, unit.seed) == ("same", 1) else losses(unit), [])
    )
    assert describe(results[2]) == "same: disqualified (its loss is not finite on some seed)"
    assert results[1].verdict is not None


def test_the_parts_of_the_held_out_data_are_all_of_it_and_share_nothing() -> None:
    trainer = Trainer(load_config(LANGUAGE_MODEL, [])[0])
    params = trainer.prepared.begin().state.params
    data, size = trainer.prepared.data, trainer.prepared.experiment.evaluation.batch_size
    batches = data.batches("test", size, 1, None)
    start, counts = 0, []
    for batch in batches.stream(0, len(batches)):
        parts = [restrict(batch, part, start)["segments"] > 0 for part in ("tuning", "verdict")]
        assert not (parts[0] & parts[1]).any()
        np.testing.assert_array_equal(parts[0] | parts[1], batch["segments"] > 0)
        counts.append([part.sum() for part in parts])
        start += len(batch["tokens"])
    both = np.sum(counts, 0)
    assert abs(both[0] - both[1]) <= data.batches("test", 1, 1, None)[0]["tokens"].shape[1]
    assert measure(trainer.prepared, params, "tuning") != measure(trainer.prepared, params, "verdict")


def test_a_model_that_sees_later_tokens_is_disqualified() -> None:
    experiment, _ = load_config(LANGUAGE_MODEL, [])
    data = experiment.data.open()
    assert find_leak(prepare(experiment, data)) is None
    study = Study(LANGUAGE_MODEL, variants={"leak": ("model.stack.block.mixer.causal=false",)}, budget="none")
    leak = enter(study)[1]
    assert leak.out is not None
    assert leak.out.startswith("later tokens move earlier outputs")


def test_a_variant_is_shrunk_until_its_budget_is_the_baselines_or_says_why_it_cannot() -> None:
    path = "model.stack.block.feedforward.expand"
    target = load_cost(LANGUAGE_MODEL, [f"{path}=128/16"])
    found = match(LANGUAGE_MODEL, [f"{path}=200/16"], [], "flops", target, 16)
    assert (found.ratio, found.overrides) == (1, (f"{path}=128/16",))
    asked: list[int] = []

    def count(config: str, overrides: Sequence[str]) -> Cost:
        """Costs of one feedforward beside a fixed part."""
        del config
        hidden = int(overrides[-1].partition("=")[2].partition("/")[0])
        asked.append(hidden)
        return Cost(5000 + 40 * hidden, 10_000 + 100 * hidden)

    cases: tuple[tuple[int, Budget], ...] = ((333, "parameters"), (77, "flops"), (4000, "flops"))
    for wanted, budget in cases:
        hidden = match(LANGUAGE_MODEL, [f"{path}=200/16"], [], budget, count("", [f"={wanted}/16"]), 16, count)
        assert abs(hidden.ratio - 1) <= 0.01
    assert len(asked) < 60
    with pytest.raises(InputError, match=r"cannot have the FLOPs .* with .*expand=1/16 it has 5\.050 times as many"):
        match(LANGUAGE_MODEL, [f"{path}=200/16"], [], "flops", Cost(0, 2000), 16, count)


def test_the_command_line_is_read_and_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert read_variants(["a=x.y=1", "b=z=Call(k=2)", "a=w=3"]) == {"a": ("x.y=1", "w=3"), "b": ("z=Call(k=2)",)}
    assert read_grid("m=A(1, 2),B(),3") == ("m=A(1, 2)", "m=B()", "m=3")
    assert [read_minutes(text) for text in (None, "30", "30min", "90s", "2h")] == [None, 30, 30, 1.5, 120]
    for words, said in (
        ([], "nothing to compare; give --vary"),
        (["--vary", "x=1"], "give NAME=path=value"),
        (["--vary", "baseline=a=1"], "called baseline"),
        (["--vary", "a=b=1", "--seeds", "1"], "give 2 seeds or more"),
        (["--vary", "a=b=1", "--seeds", "3", "--until", "decided"], "contradict each other"),
        (["--vary", "a=b=1", "--budget", "soon"], "--budget is 'soon'; give a time, such as 30min"),
        (["--vary", "a=b=1", "--tune", "rate"], "--tune is 'rate'; give path=A,B"),
    ):
        assert main(["compare", LANGUAGE_MODEL, *words]) == 2
        assert said in capsys.readouterr().err


def test_a_config_may_give_a_study_which_the_command_line_changes(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from train.variants import Study\n\n\ndef study():\n"
        "    return Study('tiny_lm', ('steps=9',), {'a': ('seed=1',)}, seeds=4, grid=('x=1', 'x=2'))\n"
    )
    parser = argparse.ArgumentParser()
    add(parser)
    study = read_study(parser.parse_args([str(file), "batch_size=2", "--vary", "b=seed=2", "--alpha", "0.01"]))
    assert study == Study(
        "tiny_lm",
        ("steps=9", "batch_size=2"),
        {"a": ("seed=1",), "b": ("seed=2",)},
        seeds=4,
        grid=("x=1", "x=2"),
        alpha=0.01,
    )


def test_trials_of_this_process_are_those_of_a_worker_and_their_errors_are_lines(compilations: list[str]) -> None:
    short = ("steps=2", "parallel=Jit()")
    units = [Unit("a", LANGUAGE_MODEL, short, 3, "tuning"), Unit("b", LANGUAGE_MODEL, ("steps=0",), 3, "tuning")]
    (_, outcome), (_, error) = Grouped()(units)
    compilations.clear()
    expected = Trainer(load_config(LANGUAGE_MODEL, list(short))[0]).run(3, "tuning")
    assert len(compilations) == 3, "first state, step, evaluation; memory is read off the step"
    prepared = prepare_config(LANGUAGE_MODEL, [])
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(prepared.state))
    assert expected.memory is not None
    assert state < expected.memory < 10 * state
    assert isinstance(outcome, Outcome)
    assert (outcome.loss, outcome.curve) == (expected.loss, expected.curve)
    assert isinstance(error, str)
    assert error.startswith("InputError: ")


@pytest.mark.slow
def test_trials_side_by_side_are_to_the_last_bit_those_of_one_worker_on_a_core() -> None:
    units = [Unit("a", LANGUAGE_MODEL, ("steps=6",), seed, "verdict") for seed in (0, 1)]
    with Pool(2) as pool:
        beside = dict(pool(units))
        swapped = dict(pool(units[::-1]))
    worker = Worker(list_cores()[-1])
    try:
        after = {unit: worker.make(unit) for unit in units}
    finally:
        worker.stop()
    made = [outcome for outcomes in (beside, swapped, after) for outcome in (outcomes[unit] for unit in units)]
    numbers = [(outcome.loss, outcome.curve) for outcome in made if isinstance(outcome, Outcome)]
    assert numbers == numbers[:2] * 3
    assert numbers[0] != numbers[1]


@pytest.mark.slow
def test_a_real_study_of_two_workers_gives_what_trials_give_and_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path / "cache"))
    path = "model.stack.block.feedforward.expand"
    words = ["compare", LANGUAGE_MODEL, "steps=8", "--vary", f"wide={path}=4", "--seeds", "2", "--workers", "2"]
    words += ["--match", "none", "--to", str(tmp_path / "study"), "--json"]
    assert main(words) == 0
    results = json.loads(capsys.readouterr().out)
    assert [one["variant"] for one in results] == [BASELINE, "wide"]
    alone = Trainer(load_config(LANGUAGE_MODEL, ["steps=8", f"{path}=4"])[0]).run(1, "verdict")
    assert results[1]["losses"][1] == pytest.approx(alone.loss, rel=1e-5)
    lines = (tmp_path / "study" / NAME).read_text()
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == results
    assert (tmp_path / "study" / NAME).read_text() == lines
    page = (tmp_path / "study" / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert results[1]["sentence"].removeprefix("wide: ") in html.unescape(page)


@pytest.mark.slow
def test_a_model_of_several_tokens_is_compared_by_the_next_one() -> None:
    ahead = ("steps=2", "objective=NextTokens()", "model.head=MultiTokenHead(2)")
    one, two = (make_trial(Unit("a", LANGUAGE_MODEL, words, 3, "tuning")) for words in (("steps=2",), ahead))
    assert two.loss == pytest.approx(one.loss, rel=0.1)  # and not the sum of two losses
    assert two.curve[-1][1] == pytest.approx(one.curve[-1][1], rel=0.1)
