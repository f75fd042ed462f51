"""`morphax check`: strangers' components obey every law, and a fault of one line in them breaks the law that names
it.
"""

import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from models import Attention, Context
from tests.places import ROOT
from tests.strangers.faults import FAULTS, Fault
from train.cli import main
from train.errors import InputError
from train.notebook import check
from train.study.check import Report, make_components

STRANGERS = ROOT / "tests" / "strangers"


def report(file: Path, words: tuple[str, ...] = ()) -> Report:
    return Report(make_components([str(file)])[0], words)


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(STRANGERS.glob("sound_*.py")), ids=lambda path: path.stem)
def test_a_sound_component_breaks_no_law(file: Path) -> None:
    found = report(file)
    assert [(verdict.law, verdict.where) for verdict in found.broken] == []
    assert sum(verdict.verdict == "holds" for verdict in found.verdicts) >= 11


@pytest.mark.represented_by("batch_statistics", "float32_constant", "branch_dropped_in_one_block")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_of_one_line_breaks_the_law_that_names_it(fault: Fault, tmp_path: Path) -> None:
    sound = (STRANGERS / f"{fault.file}.py").read_text(encoding="utf-8")
    assert sound.count(fault.old) == 1
    broken = tmp_path / f"{fault.name}.py"
    broken.write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
    (verdict,) = report(broken, (fault.law,)).verdicts
    assert verdict.verdict == "broken"
    assert verdict.where
    assert verdict.remedy


def test_the_command_prints_verdicts_and_exits_with_one_if_a_law_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(STRANGERS / "sound_derf.py")
    assert main(["check", file, "--law", "norm acts", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["laws"] == [{"law": "norm acts on each vector alone", "verdict": "holds", "where": "", "remedy": ""}]
    wrong = tmp_path / "mine.py"
    wrong.write_text(
        Path(file).read_text(encoding="utf-8").replace("slope * wide", "slope * (wide - wide.mean(0))"),
        encoding="utf-8",
    )
    assert main(["check", str(wrong), "--law", "norm acts"]) == 1
    assert "1 broken" in capsys.readouterr().out


def test_a_component_without_a_json_form_has_verdicts_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "import flax.linen as nn\n\n\nclass Mine(nn.Module):\n    inner: nn.Module = nn.RMSNorm()\n\n"
    source += "    @nn.compact\n    def __call__(self, x):\n        return self.inner(x)\n"
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    assert main(["check", str(tmp_path / "mine.py"), "--law", "norm acts", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["component"], told["broken"]) == ("Mine()", 0)


def test_numbers_of_the_catalogue_are_given_for_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(STRANGERS / "sound_ttt.py"), "TTTLinear(heads=8)", "--catalogue", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["parameters"] == f"{4 * 512**2 + 512 * 8 + 8 + 8 * 64**2:,}"
    assert row["decoding keeps, bytes"] == f"{8 * 64**2 * 4:,}"


class Ahead(nn.Module):
    """Sees the next token, of which it says nothing."""

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        return jnp.roll(x, -1, 1)


START = "import flax.linen as nn\n\n\nclass A(nn.Module):\n"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\n", "defines no component"),
        (START + "    size: int\n\n    def __call__(self, x, ctx):\n        return x\n", "no default for size"),
        (START + "    def __call__(self, y):\n        return y\n", "have arguments of no kind"),
        (START + "    def __call__(self, x, ctx):\n        return y(\n", "cannot be read"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence(source: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(source, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        make_components([str(file)])
    with pytest.raises(InputError, match="no file"):
        make_components([str(tmp_path / "none.py")])


def test_a_notebook_shows_components_beside_each_other_and_what_is_not_claimed_is_not_broken() -> None:
    found = Report(Ahead(), ("causal", "decoding"))
    assert [verdict.verdict for verdict in found.verdicts] == ["not tested", "not tested"]
    assert "declare `causal = True`" in found["causal sees nothing later"].where
    assert "no component of a kind" in str(pytest.raises(InputError, check, nn.Dense(3)).value)


@pytest.mark.slow
def test_attention_of_the_project_obeys_by_its_call() -> None:
    (layer,) = make_components(["Attention(heads=4, causal=true)"])
    assert layer == Attention(4, causal=True)
    assert not Report(layer).broken
