"""The referee: its level over a campaign, what it screens, what it keeps, and that it goes on where it was stopped."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.places import CONFIGS
from train.cli import main
from train.study.proposal import read_proposal
from train.study.referee import Referee, find_level
from train.study.trial import Make, Outcome, Unit
from train.study.verdict import find_p_value
from train.variants import Study

LANGUAGE_MODEL = str(CONFIGS / "language_model.py")
STUDY = Study(LANGUAGE_MODEL, overrides=("steps=2",), budget="none", most=12)
GELU = "model.stack.block.feedforward.activation"


@pytest.fixture(autouse=True)
def _inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)


def propose(folder: Path, name: str, overrides: str, body: str = "") -> Path:
    path = folder / f"{name}.py"
    path.write_text(f'"""An idea."""\n{body}\nOVERRIDES = ({overrides!r},)\n')
    return path


def simulate(generator: np.random.Generator, real: set[int], proposals: int = 200) -> tuple[int, int, int, int]:
    """True and false proposals that a campaign keeps, and that keep-if-lower by one seed keeps.

    A real one lowers the loss by four standard deviations of a paired difference.
    """
    tested = kept = true = lower_true = lower_false = 0
    for number in range(proposals):
        mean = -4.0 if number in real else 0.0
        lower = generator.normal(mean, 1) < 0
        lower_true += lower and number in real
        lower_false += lower and number not in real
        if generator.normal(mean, 1, 2).mean() >= 0:  # the screening
            continue
        level = find_level(tested, kept, 0.05)
        tested += 1
        if find_p_value(generator.normal(mean, 1, 20).tolist()) <= level:
            kept += 1
            true += number in real
    return true, kept - true, lower_true, lower_false


@pytest.mark.slow
def test_over_campaigns_at_most_five_of_a_hundred_kept_proposals_are_false_and_the_real_ones_are_kept() -> None:
    generator = np.random.default_rng(0)
    shares, found, lower = [], [], []
    for _ in range(30):
        real = {int(number) for number in generator.choice(200, 5, replace=False)}
        true, false, lower_true, lower_false = simulate(generator, real)
        shares.append(false / max(true + false, 1))
        found.append(true)
        lower.append(lower_false / max(lower_true + lower_false, 1))
    assert np.mean(shares) <= 0.05
    assert np.mean(found) >= 4.5
    assert np.mean(lower) > 0.9, "what keep-if-lower by one seed keeps is noise"


def test_levels_add_up_to_alpha_and_grow_with_what_is_kept() -> None:
    levels = [find_level(tested, 0, 0.05) for tested in range(10_000)]
    assert 0.025 < sum(levels) <= 0.05
    assert find_level(9, 3, 0.05) == pytest.approx(4 * find_level(9, 0, 0.05))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os\nOVERRIDES = ('model.x=1',)", r"line 1: the import of os"),
        ("from jax import config\nOVERRIDES = ('model.x=1',)", r"the import of config"),
        ("import numpy as np\nOVERRIDES = ('model.x=1',)\nprint(1)", r"line 3: a statement that runs"),
        ("def f():\n    return open('x')\nOVERRIDES = ('model.x=1',)", r"line 2: the name open"),
        ("import jax\ndef f():\n    jax.config.update(1)\nOVERRIDES = ('model.x=1',)", r"line 3: the attribute config"),
        (
            "import models\ndef f():\n    models.GLU = 1\nOVERRIDES = ('model.x=1',)",
            r"the attribute GLU of something else",
        ),
        ("def f(x):\n    return x.__class__\nOVERRIDES = ('model.x=1',)", r"the attribute __class__"),
        ("from models.families import bert\nOVERRIDES = ('model.x=1',)", r"the import of models.families"),
        ("from .beside import x\nOVERRIDES = ('model.x=1',)", r"an import from beside the file"),
        ("OVERRIDES = ('steps=9',)", r"has 'steps=9'; a proposal may change what is below `model.`"),
        ("x = 1", r"has 0 assignments of OVERRIDES; give OVERRIDES = "),
        ("OVERRIDES = (1,)", r"is no tuple of strings"),
        ("OVERRIDES = (", r"line 1: "),
    ],
)
def test_what_a_component_never_needs_is_refused_unread(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "proposal.py"
    path.write_text(text)
    assert main(["referee", LANGUAGE_MODEL, str(path), "--to", str(tmp_path / "campaign")]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert not (tmp_path / "campaign").exists()


def make_by_activation(made: list[Unit]) -> Make:
    """Trials whose loss falls by 0.2 with GELU and rises with ReLU, beside the noise of the seed and of the trial."""

    def make(units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome]]:
        for unit in units:
            made.append(unit)
            shared, own = np.random.default_rng(unit.seed), np.random.default_rng([unit.seed, ord(unit.variant[0])])
            last = unit.overrides[-1]
            effect = 0.3 * ("relu" in last) - 0.2 * ("gelu" in last)
            loss = 2.0 + effect + float(shared.normal(0, 0.2)) + float(own.normal(0, 0.01))
            yield unit, Outcome(loss, ((1, loss + 1), (2, loss)), 1.0)

    return make


@pytest.mark.slow
def test_a_campaign_keeps_what_is_better_goes_on_from_it_and_rules_once_on_a_file(tmp_path: Path) -> None:
    made: list[Unit] = []
    make = make_by_activation(made)
    folder = tmp_path / "campaign"
    folder.mkdir()

    def rule(path: Path) -> dict[str, Any]:
        return Referee(STUDY, folder).rule(read_proposal(path), make)  # a process of its own each time

    better = rule(propose(tmp_path, "better", f"{GELU}=gelu"))
    assert (better["stage"], better["number"]) == ("kept", 1), better["sentence"]
    assert better["difference"] == pytest.approx(-0.1, abs=0.02)
    worse = rule(propose(tmp_path, "worse", f"{GELU}=relu"))
    assert worse["stage"] == "screened out"
    again = rule(propose(tmp_path, "again", f"{GELU}=gelu", "# the same once more"))
    assert again["stage"] in ("screened out", "not kept")
    assert {unit.overrides[: len(STUDY.overrides) + 1] for unit in made if unit.seed >= 3000 and unit.seed < 4000} <= {
        ("steps=2", f"{GELU}=gelu")
    }, "the best so far is the baseline of the next proposal"
    count = len(made)
    assert rule(propose(tmp_path, "copy", f"{GELU}=gelu")) == better
    assert len(made) == count
    leak = rule(propose(tmp_path, "leak", "model.stack.block.mixer.causal=false"))
    assert leak["stage"] == "disqualified"
    assert "later tokens move earlier outputs" in leak["sentence"]
    unknown = rule(propose(tmp_path, "unknown", "model.stack.block.mixer=Nothing()"))
    assert unknown["stage"] == "refused"
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert [line.get("stage") for line in lines[1:]] == [one["stage"] for one in (better, worse, again, leak, unknown)]
    assert [line["level"] is not None for line in lines[1:4]] == [True, False, again["stage"] == "not kept"]
    seeds = [{unit.seed for unit in made if unit.files[-1].endswith(f"{number:04}.py")} for number in (1, 2, 3)]
    assert not seeds[0] & seeds[1]
    assert not seeds[0] & seeds[2]


CHEAT = """
import flax.linen as nn
import jax
import jax.numpy as jnp

from models.head.chunked import Projected


@jax.tree_util.register_pytree_node_class
class Lie(Projected):
    def tree_flatten(self):
        return (self.hidden, self.table), None

    @classmethod
    def tree_unflatten(cls, static, children):
        return cls(*children)

    def losses(self, labels, weights, smoothing=0.0):
        return (jnp.zeros(()), jnp.zeros(())), (jnp.zeros(labels.shape), jnp.zeros(labels.shape))


class Liar(nn.Module):
    @nn.compact
    def __call__(self, hidden, ctx, table):
        return Lie(hidden, table)


class Raiser(nn.Module):
    @nn.compact
    def __call__(self, x, ctx):
        return x.nothing


class Sower(nn.Module):
    @nn.compact
    def __call__(self, x, ctx):
        self.sow("metrics", "loss", (jnp.zeros(()), jnp.ones(())))
        return nn.Dense(x.shape[-1])(x)


class Rows(nn.Module):
    @nn.compact
    def __call__(self, x, ctx):
        return x + nn.Dense(x.shape[-1])(jnp.roll(x, 1, axis=0))
"""


@pytest.mark.represented_by("rows")
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("model.head=Liar()", "outputs are of the class Lie, and no logits"),
        ("model.stack.block.feedforward=Raiser()", "has no attribute nothing"),
        ("model.stack.block.feedforward=Sower()", "sows the metric 'loss', a name of the objective"),
        ("model.stack.block.feedforward=Rows()", "tokens of one row of the batch move outputs of another"),
    ],
    ids=["liar", "raiser", "sower", "rows"],
)
def test_a_proposal_that_moves_the_measure_is_not_compared(tmp_path: Path, overrides: str, said: str) -> None:
    def never(units: Sequence[Unit]) -> Iterable[tuple[Unit, Outcome]]:
        raise AssertionError(units)

    folder = tmp_path / "campaign"
    folder.mkdir()
    ruling = Referee(STUDY, folder).rule(read_proposal(propose(tmp_path, "cheat", overrides, CHEAT)), never)
    assert ruling["stage"] in ("refused", "disqualified")
    assert said in str(ruling["sentence"])


@pytest.mark.slow
def test_the_command_rules_on_a_real_proposal_by_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MORPHAX_CACHE", str(tmp_path / "cache"))
    body = (
        "import flax.linen as nn\n\n\nclass Bare(nn.Module):\n    @nn.compact\n    def __call__(self, x, ctx):\n"
        "        return nn.Dense(x.shape[-1])(x)\n"
    )
    path = propose(tmp_path, "bare", "model.stack.block.feedforward=Bare()", body)
    words = ["referee", LANGUAGE_MODEL, str(path), "steps=8", "--match", "none", "--most", "3", "--workers", "2"]
    words += ["--to", str(tmp_path / "campaign")]
    code = main(words)
    captured = capsys.readouterr()
    assert captured.out, captured.err
    ruling = json.loads(captured.out)
    assert code == int(ruling["stage"] != "kept")
    assert ruling["stage"] in ("screened out", "not kept", "kept")
    assert main(words) == code
    assert json.loads(capsys.readouterr().out) == ruling
    assert main([*words[:2], "steps=8", "--match", "none", "--most", "3", "--to", str(tmp_path / "campaign")]) == 0
    assert json.loads(capsys.readouterr().out) == ruling
