"""Attacks find a leak that is there, and show no more than there is; contents of a run are found and left out."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian

from tests.train.engine.runs import SENTENCES, train
from train.cli import main
from train.engine.folder import read_run
from train.optimizers.accounting import Spent, compute_epsilon
from train.use.attack import bound_epsilon, bound_share, compute_auc, compute_exposure, find_rate, measure_attack
from train.use.contents import list_contents
from train.use.shadows import Shadows, compare_likelihoods

OPTIONS = (
    "data.path=random.csv",
    "data.holdout=0.5",
    "data.pack=false",
    "data.labels=('bad', 'good')",
    "data.buckets=(48,)",
    "batch_size=16",
    "evaluation.every=200",
    "log_every=100",
    "checkpoints.every=none",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """An overfitted run on labels without a rule, and a private one on the same."""
    folder = tmp_path_factory.mktemp("leaks")
    chance = np.random.default_rng(0)
    names = ["".join(chance.choice(list("abcdefghijklmnop"), 12)) for _ in range(160)]
    rows = [f"{name} is a film,{chance.choice(['good', 'bad'])}" for name in names]
    (folder / "random.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MORPHAX_CACHE", str(folder / "cache"))
        overfitted = ("optimizer=AdamW(Constant(0.01))", "model.stack.block.dropout=0.0", "steps=200")
        assert train(folder / "overfitted", *OPTIONS, *overfitted, config=SENTENCES) == 0
        private = ("optimizer=Private(AdamW(Constant(0.01)), noise=4.0, delta=1e-3)", "steps=10")
        assert train(folder / "private", *OPTIONS, *private, config=SENTENCES) == 0
        yield folder / "overfitted", folder / "private"


def audited(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(["audit", "privacy", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_losses_tell_who_an_overfitted_run_was_trained_on(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = audited(capsys, str(runs[0]))
    found = said["attacks"]["loss"]
    assert code == 0
    assert found["auc"][1] > 0.6
    assert found["rates"]["0.1"][0] > 0.3
    assert found["epsilon"] > 0.3
    assert said["claimed"] is None


@pytest.mark.slow
def test_a_private_run_stays_under_what_it_claims(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, said = audited(capsys, str(runs[1]))
    found = said["attacks"]["loss"]
    assert code == 0
    assert found["auc"][1] < 0.5 < found["auc"][2]
    assert found["epsilon"] <= said["claimed"]["epsilon"]
    assert not said["beaten"]
    share = json.loads((runs[1] / "summary.json").read_text(encoding="utf-8"))["privacy"]
    ledger = (Spent(4.0, share["sampled"] / share["examples"], 10),)
    assert said["claimed"]["epsilon"] == compute_epsilon(ledger, 1e-3)


@pytest.mark.slow
def test_an_audit_fails_that_shows_more_than_is_claimed(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights of the overfitted run under the claim of the private one."""
    folder = tmp_path / "claimed"
    shutil.copytree(runs[1], folder)
    shutil.rmtree(folder / "checkpoints")
    shutil.copytree(runs[0] / "checkpoints", folder / "checkpoints")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["privacy"]["epsilon"] = 0.1
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    code, said = audited(capsys, str(folder))
    assert code == 1
    assert said["beaten"]
    assert main(["audit", "privacy", str(folder)]) == 1
    assert "FAILED: an attack shows more" in capsys.readouterr().out


@pytest.mark.slow
def test_shadow_models_tell_too(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, said = audited(capsys, str(runs[0]), "--shadows", "8", "--steps", "100", "--among", "120")
    assert code == 0
    assert said["attacks"]["shadows"]["auc"][1] > 0.6


@pytest.mark.slow
def test_a_planted_secret_stands_out_from_secrets_that_were_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    chance = np.random.default_rng(0)
    fill = ["".join(chance.choice(list("abcdefgh "), 16)) for _ in range(60)]
    (tmp_path / "text.txt").write_text("\n".join(["code is 281265"] * 60 + fill) + "\n", encoding="utf-8")
    (tmp_path / "held.txt").write_text("\n".join(fill) + "\n", encoding="utf-8")
    options = ("data.test=held.txt", "optimizer=AdamW(Constant(0.01))", "steps=150", "evaluation.every=150")
    assert train(tmp_path / "run", *options, "batch_size=16", "log_every=50", "checkpoints.every=none") == 0
    code, said = audited(capsys, "run", "--canary", "code is 281265", "--canary", "code is 934071")
    assert code == 0
    planted, other = said["exposures"].values()
    assert planted[0] > 6
    assert planted[1] > 3 > other[1]
    assert main(["audit", "privacy", "run", "--canary", "no digits"]) == 2
    assert "has no digits" in capsys.readouterr().err


@pytest.mark.slow
def test_contents_are_listed_and_left_out_of_a_copy(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs[1]
    (folder / "notes.txt").write_text("Anna's review is the best", encoding="utf-8")
    (folder / "explained").mkdir(exist_ok=True)
    (folder / "explained" / "page.html").write_text("Anna's review", encoding="utf-8")
    (folder / "swaps.html").write_text("Anna's review", encoding="utf-8")
    (folder / "bias.json").write_text("{}", encoding="utf-8")
    kinds = {(one.path, one.kind) for one in list_contents(folder, read_run(folder))}
    assert {("notes.txt", "unknown"), ("explained/", "examples"), ("checkpoints/", "random")} <= kinds
    assert {("constant.npy", "derived"), ("experiment.json", "derived"), ("metrics.jsonl", "numbers")} <= kinds
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    copy = tmp_path / "shared"
    assert main(["audit", "contents", str(folder), "--redact", "--to", str(copy)]) == 0
    said = capsys.readouterr().out
    assert "explained/: 1 pages" in said
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    names = {path.name for path in copy.rglob("*")}
    assert not names & {"notes.txt", "explained", "swaps.html", "rest", "constant.npy", "metrics.jsonl"}
    assert {"params", "experiment.json", "report.html", "summary.json", "bias.json"} <= names
    assert main(["eval", str(copy)]) == 0
    assert main(["audit", "contents", str(folder), "--redact", "--to", str(copy)]) == 2
    assert "exists; name another folder" in capsys.readouterr().err


def test_the_auc_is_the_share_of_pairs_and_its_interval_covers_it() -> None:
    chance = np.random.default_rng(0)
    members, others = chance.integers(0, 9, 40) + 1, chance.integers(0, 9, 30)
    pairs = members[:, None] - others
    assert compute_auc(members, others)[0] == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    auc, low, high = compute_auc(np.arange(50) + 100, np.arange(50))
    assert auc == 1
    assert 0.9 < low < 1
    assert high == pytest.approx(1)
    truth = 0.76025  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt(2))
    intervals = [compute_auc(chance.normal(1, 1, 60), chance.normal(0, 1, 90))[1:] for _ in range(400)]
    assert 0.92 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.99


def test_shares_have_the_interval_of_clopper_and_pearson() -> None:
    assert bound_share(0, 10, 0.95) == pytest.approx((0, 0.3085), abs=1e-4)
    assert bound_share(10, 10, 0.95) == pytest.approx((0.6915, 1), abs=1e-4)
    assert bound_share(4, 10, 0.95) == pytest.approx((0.1216, 0.7376), abs=1e-4)
    members, others = np.arange(100.0) + 50, np.arange(100.0)
    assert find_rate(members, others, 0.1)[0] == 0.6


def test_the_bound_of_epsilon_holds_for_a_mechanism_whose_epsilon_is_known() -> None:
    """A sum of sensitivity 1 with N(0, sigma^2) tells by its value: N(1, sigma^2) with the example, N(0, sigma^2)."""
    chance = np.random.default_rng(1)
    for sigma, least in ((2.0, 0.0), (0.5, 1.0)):
        truth = get_epsilon_gaussian(sigma, 1e-2)
        bounds = [
            bound_epsilon(chance.normal(1, sigma, 2000), chance.normal(0, sigma, 2000), 1e-2, seed)
            for seed in range(60)
        ]
        assert np.mean(np.asarray(bounds) <= truth) >= 0.95
        assert np.mean(bounds) > least
    same = [bound_epsilon(chance.normal(0, 1, 500), chance.normal(0, 1, 500), 0.0, seed) for seed in range(60)]
    assert np.mean(np.asarray(same) == 0) >= 0.9


def test_an_attack_without_a_leak_shows_nothing() -> None:
    chance = np.random.default_rng(2)
    found = [measure_attack(chance.normal(size=500), chance.normal(size=500), seed=seed) for seed in range(60)]
    assert set(found[0].rates) == {0.01, 0.1}
    assert np.mean([one.auc[1] < 0.5 < one.auc[2] for one in found]) >= 0.88
    assert np.mean([one.epsilon == 0 for one in found]) >= 0.88
    assert np.mean([one.rates[0.1][0] for one in found]) == pytest.approx(0.1, abs=0.02)


def test_exposure_counts_the_bits_by_which_a_secret_stands_out() -> None:
    others = np.arange(1, 1024.0)
    bits, low, high = compute_exposure(0.0, others)
    assert bits == 10
    assert 6 < low < bits
    assert high == math.inf
    bits, low, high = compute_exposure(512.0, others)
    assert bits == pytest.approx(1, abs=0.01)
    assert low < 1 < high


def test_ratios_of_likelihoods_are_those_of_two_normals() -> None:
    chance = np.random.default_rng(3)
    trained = chance.permuted(np.tile(np.arange(8)[:, None] < 4, (1, 500)), axis=0)
    shadows = Shadows(chance.normal(size=(8, 500)) + 2 * trained, trained)
    confidence = np.concatenate([chance.normal(2, 1, 250), chance.normal(0, 1, 250)])
    ratios = compare_likelihoods(confidence, shadows)
    assert compute_auc(ratios[:250], ratios[250:])[1] > 0.8
    inside, outside = (
        np.array([shadows.confidences[chosen[:, example], example].mean() for example in range(500)])
        for chosen in (trained, ~trained)
    )
    variances = [
        np.sum([(shadows.confidences[chosen[:, n], n] - mean[n]) ** 2 for n in range(500)]) / 1500
        for chosen, mean in ((trained, inside), (~trained, outside))
    ]
    expected = [
        -((confidence - mean) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2
        for mean, variance in zip((inside, outside), variances, strict=True)
    ]
    np.testing.assert_allclose(ratios, expected[0] - expected[1], rtol=1e-9)
