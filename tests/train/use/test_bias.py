"""Audits of bias by group: equal to fairlearn's numbers, no false findings, planted gaps found, the command."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    count,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss

from train.cli import main
from train.contracts import Case
from train.data.groups import Grouping, make_grouping, name_group, parse_cuts, read_groupings
from train.data.tasks.images import Images
from train.errors import InputError
from train.objectives import Classification, MeanSquaredError, Quantiles
from train.sums import compute_interval, compute_moments, sum_up
from train.use.bias.gaps import (
    compare_groups,
    compute_newcombe,
    compute_permuted,
    compute_welch,
    estimate,
    measure_levels,
)
from train.use.bias.measures import Measure, compute_calibration_error, find_classes, list_measures
from train.use.bias.parity import measure_parity
from train.use.bias.thresholds import fit_thresholds

NAMES = ("no", "yes")
ONE = np.ones((), np.float32)


def draw(seed: int, count: int = 300, groups: int = 3, gap: float = 0.0) -> tuple[list[Case], list[Grouping]]:
    """Cases of two classes with groups by two columns; with `gap`, the first group of the first is answered worse."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 2, count)
    first, second = chance.integers(0, groups, count), chance.integers(0, 2, count)
    sharp = chance.exponential(2.0, count) * np.where(chance.random(count) < 0.85 - gap * (first == 0), 1, -1)
    logits = np.stack([np.zeros(count), np.where(labels == 1, sharp, -sharp)], -1).astype(np.float32)
    cases = [
        Case(logit, {"labels": np.array(label, np.int32), "weights": ONE}, index)
        for index, (logit, label) in enumerate(zip(logits, labels, strict=True))
    ]
    cells = [(f"a{one}", f"b{two}") for one, two in zip(first, second, strict=True)]
    groupings = [
        make_grouping(("a",), [cell[:1] for cell in cells]),
        make_grouping(("b",), [cell[1:] for cell in cells]),
        make_grouping(("a", "b"), cells),
    ]
    return cases, groupings


def measures_of(cases: list[Case]) -> list[Measure]:
    return list_measures(Classification(), cases, find_classes(cases, NAMES), [1])


@pytest.mark.represented_by("0", "1", "2")
@pytest.mark.parametrize("seed", range(100))
def test_measures_are_those_of_fairlearn(seed: int) -> None:
    cases, groupings = draw(seed, (60, 150, 300)[seed % 3], 2 + seed % 4, 0.3)
    classed = find_classes(cases, NAMES)
    assert classed is not None
    true, chosen = classed.labels, classed.chosen
    theirs: dict[str, Any] = {
        "accuracy": accuracy_score,
        "selection_rate_yes": selection_rate,
        "true_positive_rate_yes": true_positive_rate,
        "false_positive_rate_yes": false_positive_rate,
        "count": count,
    }
    measures = measures_of(cases)
    for grouping in groupings:
        cells = [name.split(", ") for name in grouping.names]
        columns = {name: [cells[m][at] for m in grouping.members] for at, name in enumerate(grouping.columns)}
        frame = MetricFrame(metrics=theirs, y_true=true, y_pred=chosen, sensitive_features=columns).by_group
        for measure in measures:
            for cell, level in zip(cells, measure_levels(measure, grouping), strict=True):
                row = frame.loc[tuple(cell) if len(cell) > 1 else cell[0]]
                if measure.name in theirs and level.count:
                    assert level.value == pytest.approx(row[measure.name], abs=1e-6)
                if measure.name == "accuracy":
                    assert level.count == row["count"]
        kept = [p for p in measure_parity(classed, [1], [grouping], 1) if not p.left]
        both = {"demographic parity": demographic_parity_difference, "equalised odds": equalized_odds_difference}
        for parity in kept:
            given = {"y_true": true, "y_pred": chosen, "sensitive_features": grouping.members}
            assert parity.difference == pytest.approx(both[parity.kind](**given))
            assert parity.low <= parity.difference <= parity.high
    loss = next(measure for measure in measures if measure.name == "loss")
    first = groupings[0].members == 0
    expected = log_loss(true[first], classed.probabilities[first], labels=[0, 1])
    assert measure_levels(loss, groupings[0])[0].value == pytest.approx(expected, rel=1e-5)


def test_intervals_and_tests_are_those_of_references() -> None:
    terms = np.random.default_rng(1).random((2, 30))
    total = sum_up(jnp.asarray(terms[0]), jnp.asarray(terms[1]))
    expected = compute_interval([compute_moments(total, total.each, {})], 0.9)
    assert estimate(terms[0], terms[1], 0.9) == pytest.approx(expected, rel=1e-5)
    assert compute_newcombe(56, 70, 48, 80, 0.95) == pytest.approx((0.0524, 0.3339), abs=5e-5)  # Newcombe 1998
    chance = np.random.default_rng(0)
    left, right = chance.normal(size=40), chance.normal(0.4, 2, size=90)
    welch = stats.ttest_ind(left, right, equal_var=False)
    sides = [(left, np.ones(40)), (right, np.ones(90))]
    assert compute_welch(*sides, level=0.95) == pytest.approx(tuple(welch.confidence_interval()))
    values, members = np.concatenate([left, right]), np.repeat([0, 1], [40, 90])
    p = compute_permuted(values[None], np.ones((1, 130)), members, [0, 1], 20_000)
    assert p[0, 0] == p[1, 0] == pytest.approx(np.asarray(welch)[1], abs=0.015)


def test_a_planted_gap_is_found_and_a_small_group_is_not_compared() -> None:
    cases, groupings = draw(1, 1200, 3, 0.3)
    small = Grouping(("c",), ("few", "many"), (np.arange(1200) >= 29).astype(int))
    gaps = compare_groups(measures_of(cases), [*groupings, small], 30)
    found = {(gap.columns, gap.group, gap.measure): gap for gap in gaps if gap.found}
    gap = found[("a",), "a0", "accuracy"]
    assert gap.low <= -0.3 <= gap.high < 0
    assert {group for columns, group, _ in found if columns == ("b",)} == set()
    assert {gap.columns for gap in gaps} == {("a",), ("b",), ("a", "b")}
    assert gap.p <= 0.05 / len(gaps)


@pytest.mark.slow
def test_an_unbiased_set_has_at_most_five_percent_false_findings() -> None:
    wrong = 0
    for seed in range(400):
        cases, groupings = draw(seed, 300, 2)
        wrong += any(gap.found for gap in compare_groups(measures_of(cases), groupings, 30))
    assert wrong / 400 <= 0.05 + 1.96 * (0.05 * 0.95 / 400) ** 0.5


def test_values_and_quantiles_have_measures() -> None:
    chance = np.random.default_rng(0)
    true, said = chance.normal(size=(2, 50, 1)).astype(np.float32)
    cases = [
        Case(output, {"values": value, "weights": ONE}, index)
        for index, (output, value) in enumerate(zip(said, true, strict=True))
    ]
    measures = {each.name: each for each in list_measures(MeanSquaredError(), cases, None, [])}
    assert measures["mean_squared_error"].values.mean() == pytest.approx(((said - true) ** 2).mean(), rel=1e-5)
    assert measures["excess"].values.mean() == pytest.approx((said - true).mean(), rel=1e-4)
    outputs = np.sort(chance.normal(size=(50, 4, 1, 3)), -1).astype(np.float32)
    values = chance.normal(size=(50, 4, 1)).astype(np.float32)
    cases = [
        Case(output.reshape(-1), {"values": value, "weights": ONE}, index)
        for index, (output, value) in enumerate(zip(outputs, values, strict=True))
    ]
    measures = {each.name: each for each in list_measures(Quantiles(), cases, None, [])}
    assert measures["coverage_0.9"].values.mean() == pytest.approx((values <= outputs[..., 2]).mean())


def test_calibration_is_that_of_a_hand_count() -> None:
    cases, _ = draw(3)
    classed = find_classes(cases, NAMES)
    assert classed is not None
    sure, right = classed.probabilities.max(-1), classed.chosen == classed.labels
    bins = [(sure >= low / 10) & (sure < (low + 1) / 10 if low < 9 else sure <= 1) for low in range(10)]
    expected = sum(some.mean() * abs(right[some].mean() - sure[some].mean()) for some in bins if some.any())
    assert compute_calibration_error(classed, np.ones(300, bool)) == pytest.approx(expected)


def test_cells_are_named_or_cut_into_ranges() -> None:
    named = [name_group(cell, "age", ()) for cell in (" x ", b"y", None, "", 3, np.int64(4), float("nan"), True)]
    assert named == ["x", "y", "(missing)", "(missing)", "3", "4", "(missing)", "True"]
    edges = parse_cuts(["age=18,65"])["age"]
    ages = [name_group(cell, "age", edges) for cell in ("17", 18, "64.5", 65.0)]
    assert ages == ["below 18", "18 to below 65", "18 to below 65", "65 or above"]
    assert make_grouping(("age",), [(name,) for name in ages]).names == tuple(dict.fromkeys(ages))
    for wrong in ("age", "age=", "age=5,5", "age=x"):
        with pytest.raises(InputError, match="--cut is"):
            parse_cuts([wrong])
    with pytest.raises(InputError, match="'old', no number"):
        name_group("old", "age", edges)


@pytest.fixture
def inside(inside: Path) -> Path:
    """The same working folder with tables that have groups."""
    rows = [f"film {index},{('bad', 'good')[index % 2]},{'ab'[index % 3 == 0]},{index}" for index in range(60)]
    (inside / "groups.csv").write_text("text,label,region,number\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return inside


def test_the_command_writes_a_page_and_numbers(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["audit", "bias", "run", "--groups", "region,number", "--cut", "number=30", "--data", "groups.csv"]
    assert main([*words, "--json", "--least", "10"]) == 0
    said = json.loads(capsys.readouterr().out)
    groups: dict[tuple[str, ...], list[tuple[str, int, bool]]] = {}
    for group in said["groups"]:
        groups.setdefault(tuple(group["columns"]), []).append((group["group"], group["examples"], group["small"]))
    assert groups["region",] == [("a", 40, False), ("b", 20, False)]
    assert groups["number",] == [("below 30", 30, False), ("30 or above", 30, False)]
    assert len(groups["region", "number"]) == 4
    assert main(["eval", "run", "--data", "groups.csv", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["evaluation"]
    for name in ("loss", "accuracy"):
        assert said["all"][name]["value"] == pytest.approx(measured[name]["value"], rel=1e-5)
        assert said["all"][name]["interval"] == pytest.approx(measured[name]["interval"], rel=1e-3)
    page = Path(said["page"]).read_text(encoding="utf-8")
    assert Path(said["page"]) == Path("run/bias.html")
    assert all(f"<h2>{name}</h2>" in page for name in ("What was found", "By region", "Parity", "All gaps"))
    assert main([*words, "--positive", "bad"]) == 0
    assert "selection_rate_bad" in capsys.readouterr().out


def test_what_cannot_be_audited_is_said_in_a_sentence(
    inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ["--data", "groups.csv"]
    for words, sentence in (
        ([], "Give one of --groups COLUMN"),
        (["--groups", "sex"], "has no column 'sex'; it has text, label"),
        (["--groups", "number", *data], "'number' has 60 different cells"),
        (["--groups", "region,region", *data], "--groups names 'region' twice"),
        (["--groups", "region", "--cut", "age=3", *data], "--cut is for 'age', which --groups does not name"),
        (["--groups", "region", "--positive", "great", *data], "--positive is 'great', no class"),
        (["--groups", "region", "--least", "1", *data], "--least is 1"),
        (["--groups", "number", "--cut", "number=99", *data], "is 'below 99' in all examples"),
    ):
        assert main(["audit", "bias", "run", *words]) == 2
        assert sentence in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "fairlearn", None)
    monkeypatch.setitem(sys.modules, "fairlearn.metrics", None)
    assert main(["audit", "bias", "run", "--groups", "region", *data]) == 2
    assert "pip install 'morphax[fairness]'" in capsys.readouterr().err


def test_groups_of_pictures_are_in_a_table_beside_the_folders(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    data = Images(path=str(tmp_path), test=str(tmp_path), size=(8, 8)).open((), "test")
    with pytest.raises(InputError, match="has no metadata.csv"):
        read_groupings(data, "test", ["light"], {})
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "light"), ("cat/1.png", "day"), ("dog/1.png", "night")])
    data = Images(path=str(tmp_path), test=str(tmp_path), size=(8, 8)).open((), "test")
    (grouping,) = read_groupings(data, "test", ["light"], {})
    assert [grouping.names[member] for member in grouping.members] == ["day", "(missing)", "night"]
    assert not data.notes


def best_accuracy(scores: np.ndarray, labels: np.ndarray, members: np.ndarray) -> float:
    """The largest accuracy of two thresholds whose groups select shares as near to each other as they can."""
    best = 0.0
    sides = [np.sort(scores[members == group]) for group in (0, 1)]
    for own, one in enumerate(sides):
        for cut in range(len(one) + 1):
            share = cut / len(one)
            other = sides[1 - own]
            near = min(range(len(other) + 1), key=lambda k, other=other, share=share: abs(k / len(other) - share))
            taken = {own: set(one[len(one) - cut :].tolist()), 1 - own: set(other[len(other) - near :].tolist())}
            chosen = np.array([score in taken[member] for score, member in zip(scores, members, strict=True)])
            best = max(best, float((chosen == labels).mean()))
    return best


def test_thresholds_are_the_best_with_equal_shares() -> None:
    for seed in range(5):
        chance = np.random.default_rng(seed)
        scores, members = chance.random(30), np.repeat([0, 1], [13, 17])
        labels = (chance.random(30) < scores).astype(int)
        levels, rates = fit_thresholds(scores, labels, members, 2, "selection")
        chosen = scores >= levels[members]
        assert (chosen == labels).mean() == pytest.approx(best_accuracy(scores, labels, members))
        assert [chosen[members == group].mean() for group in (0, 1)] == pytest.approx(rates)
        levels, rates = fit_thresholds(scores, labels, members, 2, "true_positive")
        assert abs(rates[0] - rates[1]) <= 0.5 / min(labels[members == 0].sum(), labels[members == 1].sum())


def test_thresholds_of_groups_decide_predictions(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["audit", "bias", "run", "--groups", "region", "--data", "groups.csv", "--least", "5"]
    assert main([*words, "--thresholds", "selection"]) == 0
    assert "the widest gap in the share predicted good goes from" in capsys.readouterr().out
    values = json.loads(Path("run/thresholds.json").read_text())
    values["by_group"] = {"a": 0.0, "b": 1.0}
    Path("run/thresholds.json").write_text(json.dumps(values))
    assert main(["predict", "run", "groups.csv", "--thresholds", "--json"]) == 0
    labels = [answer["label"] for answer in json.loads(capsys.readouterr().out)["answers"]]
    with Path("groups.csv").open() as file:
        assert labels == [{"a": "good", "b": "bad"}[row["region"]] for row in csv.DictReader(file)]
    for wrong, sentence in (
        (["a film", "--thresholds"], "name the group of all texts by --group"),
        (["a film", "--thresholds", "--group", "c"], "'c', which has no threshold; there are a, b"),
        (["a film", "--group", "a"], "which only --thresholds reads"),
    ):
        assert main(["predict", "run", *wrong]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_a_bias_that_a_run_learnt_is_found(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = np.random.default_rng(0)
    rows = []
    for index in range(1600):
        label, region = ("bad", "good")[index % 2], ("east", "west", "north")[chance.integers(3)]
        flipped = region == "west" and chance.random() < 0.4
        said = ("dull", "fine")[(label == "good") != flipped]
        rows.append(f"a {said} film {index},{label},{region},{'fm'[chance.integers(2)]}")
    Path("films.csv").write_text("text,label,region,sex\n" + "\n".join(rows) + "\n", encoding="utf-8")
    settings = ["data.path=films.csv", "data.test=none", "data.holdout=0.5", "steps=60", "batch_size=32"]
    assert main(["train", "config.py", *settings, "optimizer.rate=Constant(0.003)", "--run", "films"]) == 0
    capsys.readouterr()
    assert main(["audit", "bias", "films", "--groups", "region,sex", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = {(*gap["columns"], gap["group"], gap["measure"]): gap for gap in said["found"]}
    low, high = found["region", "west", "accuracy"]["interval"]
    assert low <= -0.4 <= high < 0
    assert not [gap for gap in said["found"] if gap["columns"] == ["sex"]]
